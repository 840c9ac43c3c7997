"""Processes that train together end together, with an error that names the one that failed."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from multiprocessing.resource_sharer import DupFd
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
import torch

from protos.errors import Unavailable
from tests.helpers.emulated_device import NO_ROOM
from tests.helpers.stdlib import PLAIN, QUICK, write_toml
from tests.helpers.waiting import wait_until
from tests.helpers.warm import WarmPython
from tests.train.losses.test_objective import IN_BATCH
from tests.train.training.test_ranks import of_texts
from tests.train.training.test_run import command, only_run, warm_command
from tests.train.training.test_trainer import Watcher
from train.training import rank_processes
from train.training.checkpoint import RUN_STATE
from train.training.rank_processes import Ranks, ranks_of

pytestmark = pytest.mark.exhaustive


def other_ranks(pid: int | None = None) -> list[psutil.Process]:
    """The processes that this one, or another, has started to train with."""
    return [each for each in psutil.Process(pid).children() if "spawn_main" in " ".join(each.cmdline())]


class Killing(Watcher):
    """Kills the other rank after the first step."""

    def on_epoch_start(self, epoch: int, steps: int, done: int, before: int) -> Callable[[float], None]:
        def kill(loss: float) -> None:
            for process in other_ranks():
                process.kill()

        return kill


@pytest.mark.exhaustive
def test_a_killed_rank_ends_the_training_with_an_error_that_names_it() -> None:
    trainer = of_texts(IN_BATCH)
    said = r"rank 1 of 2 \(process \d+\) was ended by SIGKILL, .*; `to resume` goes on from the last"
    with pytest.raises(Unavailable, match=said), ranks_of(trainer, 2, 1, "to resume"):
        trainer.fit(Killing())
    assert not other_ranks()
    assert trainer.process.count == 1


def lose_a_receiver() -> None:
    """Have the thread that hands out files in shared memory lose the connection to a process that asks."""
    file = os.open(os.devnull, os.O_RDONLY)
    shared = DupFd(file)
    address, _ = shared._id  # type: ignore[attr-defined]
    with socket.socket(socket.AF_UNIX) as receiver:
        receiver.connect(address)
        receiver.recv(1, socket.MSG_PEEK)  # closed with data that it has not read, the connection is reset
    os.close(shared.detach())  # served after that, for the thread serves one at a time
    os.close(file)


def test_a_rank_that_ends_while_it_receives_a_tensor_leaves_no_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Ranks(2, 1).started():
        lose_a_receiver()
        assert capsys.readouterr().err == ""
    lose_a_receiver()
    assert "ConnectionResetError" in capsys.readouterr().err  # as of any other process


def test_an_error_in_another_rank_is_shown() -> None:
    trainer = of_texts(IN_BATCH)
    said = r"(?s)rank 1 of 2 .* failed:\n.*no_such_task"
    with pytest.raises(Unavailable, match=said), ranks_of(trainer, 2, 1):
        trainer.process.lead("no_such_task")
        trainer.process.wait()


def test_a_rank_that_is_killed_before_it_has_met_the_others_ends_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, wait_for_all = Ranks._start, Ranks._wait_for_all

    def start_elsewhere(ranks: Ranks, rank: int, store: str) -> None:
        start(ranks, rank, f"{store}-elsewhere")  # so that it does not meet rank 0 before it is killed

    def kill_when_ready(ranks: Ranks) -> None:
        wait_for_all(ranks)
        for process in ranks._processes:
            process.kill()

    monkeypatch.setattr(Ranks, "_start", start_elsewhere)
    monkeypatch.setattr(Ranks, "_wait_for_all", kill_when_ready)
    monkeypatch.setattr(rank_processes, "MEET_SECONDS", 5.0)  # rank 0 would wait for the killed rank
    said = r"rank 1 of 2 \(process \d+\) was ended by SIGKILL"
    with pytest.raises(Unavailable, match=said), ranks_of(of_texts(IN_BATCH), 2, 1):
        pytest.fail("it has started")
    assert not other_ranks()
    monkeypatch.undo()
    with Ranks(2, 1).started():
        assert len(other_ranks()) == 1


LEADER_THAT_WAITS = """
import time
from train.training.rank_processes import Ranks

def never(ranks, store):
    print("ready", flush=True)
    time.sleep(600)

Ranks._join_watching = never
with Ranks(2, 1).started():
    pass
"""


def test_the_other_ranks_end_with_rank_0_before_they_have_met_it() -> None:
    process = WarmPython("-c", LEADER_THAT_WAITS)
    try:
        assert process.stdout.readline() == "ready\n"
        others = other_ranks(process.pid)
    finally:
        process.kill()
        process.communicate()
    gone, alive = psutil.wait_procs(others, timeout=30)
    assert (len(gone), alive) == (1, [])


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError(NO_ROOM)


def test_another_rank_without_memory_is_an_error_with_advice() -> None:
    trainer: Any = of_texts(IN_BATCH)
    trainer.run_out_of_memory = run_out_of_memory
    said = r"(?s)^rank 1 of 2 .* failed:\ncpu .* too little memory: CUDA .* try a smaller training.batch_size"
    with pytest.raises(Unavailable, match=said) as raised, ranks_of(trainer, 2, 1):
        trainer.process.lead("run_out_of_memory")
        trainer.process.wait()
    assert "Traceback" not in str(raised.value)


@pytest.fixture
def start() -> Iterator[Callable[..., WarmPython]]:
    """Starts commands, and ends those that a failed test has left."""
    started: list[WarmPython] = []

    def start(*arguments: Any) -> WarmPython:
        started.append(warm_command(*arguments))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def when_an_epoch_has_ended(process: WarmPython, folder: Path, epochs: int) -> None:
    """Wait until a run has logged this number of epochs, also before it was resumed, and saved its state."""

    def has_ended() -> bool:
        assert process.poll() is None, "the run ended too early"
        try:
            run = only_run(folder)
        except ValueError:  # no experiment, or no run yet
            return False
        saved = [*folder.glob(f"cache/runs/*/{RUN_STATE}")]
        losses = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").get_metric_history(
            run.info.run_id, "train/loss"
        )
        return bool(saved) and len(losses) >= epochs

    wait_until(has_ended, 300)


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)  # two trainings, one of them in three parts
def test_a_run_goes_on_with_another_number_of_ranks_to_the_same_quality(
    stdlib: Path, empty_store: Path, tmp_path: Path, start: Callable[..., WarmPython]
) -> None:
    changed: Any = {"training": {"epochs": 12, "batch_size": 16, "patience": 12, "threads": 1}}
    config = write_toml(stdlib, tmp_path / "a.toml", sections={**PLAIN, **QUICK}, **changed)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    for folder in (straight, broken):
        folder.mkdir()
        shutil.copy(empty_store, folder / "mlflow.db")

    first = start(config, broken, "--ranks", "2")
    when_an_epoch_has_ended(first, broken, 1)
    (other,) = other_ranks(first.pid)
    other.kill()
    _, said = first.communicate(timeout=150)
    assert first.returncode == 1, said
    assert f"error: rank 1 of 2 (process {other.pid}) was ended by SIGKILL" in said
    assert "goes on from the last checkpoint" in said
    assert "Traceback" not in said
    failed = only_run(broken)
    assert (failed.info.status, failed.data.tags["ranks"]) == ("FAILED", "2")

    second = start(config, broken, "--resume", "--ranks", "3")
    when_an_epoch_has_ended(second, broken, 2)
    others = other_ranks(second.pid)
    assert len(others) == 2
    for each in (*others, psutil.Process(second.pid)):  # as a terminal sends Ctrl-C, to all of them
        each.send_signal(signal.SIGINT)
    _, said = second.communicate(timeout=150)
    assert second.returncode == 130, said
    assert said.count("goes on with run") == 1
    assert "Traceback" not in said
    psutil.wait_procs(others, timeout=30)
    assert not any(each.is_running() for each in others)

    third = start(config, broken, "--resume")
    output, said = third.communicate(timeout=250)
    assert third.returncode == 0, said
    assert only_run(broken).info.run_id == failed.info.run_id
    assert (only_run(broken).info.status, only_run(broken).data.tags["ranks"]) == ("FINISHED", "1")
    reference = start(config, straight)
    expected, said = reference.communicate(timeout=250)
    assert reference.returncode == 0, said
    ours, theirs = json.loads(output)["metrics"], json.loads(expected)["metrics"]
    for name in ("recall_at_10", "ndcg_at_10", "mrr_at_10"):
        assert ours[name] == pytest.approx(theirs[name], abs=0.015)  # two queries of test, by rounding alone


@pytest.mark.exhaustive
@pytest.mark.timeout(400)
def test_the_other_ranks_end_with_rank_0(
    stdlib: Path, empty_store: Path, tmp_path: Path, start: Callable[..., WarmPython]
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    changed: Any = {"training": {"epochs": 200, "batch_size": 16, "patience": 200, "threads": 1}}
    config = write_toml(stdlib, tmp_path / "a.toml", sections={**PLAIN, **QUICK}, **changed)
    process = start(config, tmp_path, "--ranks", "2")
    when_an_epoch_has_ended(process, tmp_path, 1)
    others = other_ranks(process.pid)
    process.kill()
    gone, alive = psutil.wait_procs(others, timeout=30)
    assert len(gone) == 1
    assert not alive


def test_a_wrong_number_of_ranks_is_misuse(tmp_path: Path) -> None:
    for given in ("0", "-1", "two"):
        process = command(tmp_path / "a.toml", tmp_path, "--ranks", given)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 2
        assert f"argument --ranks: expected a whole number from 1 on, got '{given}'" in said
