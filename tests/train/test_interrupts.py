"""Ctrl-C and SIGTERM end a command soon, also in the middle of a computation that Python cannot interrupt."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from twinspire.train.paths import ROOT

pytestmark = pytest.mark.exhaustive

BOTH = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
START = """
import hashlib, signal, sys, threading, time
from argparse import ArgumentParser, Namespace
from twinspire.protos.cli import add_command
from twinspire.train import cli, interrupts

def begun():
    print("begun", flush=True)

def endless():  # one instruction of Python, which no handler of a signal can interrupt
    threading.Thread(target=tell, args=[threading.current_thread()], daemon=True).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

def tell(thread):  # that it is within the instruction
    where = endless.__code__, endless.__code__.co_firstlineno + 2
    while (frame := sys._current_frames()[thread.ident]) and (frame.f_code, frame.f_lineno) != where:
        time.sleep(0.01)
    begun()

def execute(run):
    parser = ArgumentParser()
    commands = parser.add_subparsers(required=True)
    add_command(commands, "run", "", lambda arguments: run())
    sys.argv = ["program", "run"]
    sys.exit(cli.execute(parser))
"""

FORCED = "the process ended before its threads did; what they computed is to be done again"


def interrupted(script: str, number: int, *others: int, uri: str = "") -> tuple[int, str]:
    """Exit code and stderr of a script that gets a signal once it has printed "begun"."""
    process = subprocess.Popen(
        [sys.executable, "-c", START + script],
        cwd=ROOT,
        env={**os.environ, "MLFLOW_TRACKING_URI": uri},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for each in (number, *others):
            assert process.stdout.readline() == "begun\n"
            process.send_signal(each)
        _, said = process.communicate(timeout=60)
        return process.returncode, said
    finally:
        process.kill()
        process.communicate()


@BOTH
def test_a_computation_that_python_cannot_interrupt_is_left(number: int, code: int) -> None:
    script = """
def run():
    with interrupts.before_leaving(lambda: "a line of the command"):
        endless()
execute(run)
"""
    found, said = interrupted(script, number)
    assert (found, said) == (code, f"\na line of the command\n{FORCED}\n")


def test_other_code_ends_by_an_exception() -> None:
    script = """
def run():
    try:
        begun()
        while True:
            time.sleep(0.1)
    finally:
        print("cleaned up", file=sys.stderr)
execute(run)
"""
    assert interrupted(script, signal.SIGTERM) == (143, "cleaned up\nterminated\n")


def test_a_signal_that_was_acknowledged_ends_nothing() -> None:
    script = """
interrupts.LEAVE_AFTER_SECONDS = 0.1
def run():
    try:
        begun()
        time.sleep(1000)
    except KeyboardInterrupt:
        interrupts.acknowledge()
        time.sleep(0.5)
        print("saved", file=sys.stderr)
    endless()
execute(run)
"""
    found, said = interrupted(script, signal.SIGINT, signal.SIGTERM)
    assert (found, said) == (143, f"saved\n\nterminated\n{FORCED}\n")


def test_what_is_ignored_stays_ignored() -> None:
    script = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def run():
    begun()
    sys.stdin.read()
    time.sleep(0.2)
execute(run)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", START + script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.terminate()
    process.communicate("", timeout=60)
    assert process.returncode == 0


def test_a_run_is_marked_as_killed_whatever_it_was_doing(empty_store: Path, tmp_path: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    script = """
from twinspire.train.training.tracking import connect, tracked_run
def run():
    connect()
    with tracked_run("books", "fit", "a"):
        endless()
execute(run)
"""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code, said = interrupted(script, signal.SIGTERM, uri=uri)
    assert code == 143, said
    client = mlflow.MlflowClient(uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    (run,) = client.search_runs(experiments)
    assert run.info.status == "KILLED"
    assert run.info.end_time is not None
