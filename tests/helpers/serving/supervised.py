"""A supervisor of one process, as a program of its own.

    python -m tests.helpers.serving.supervised FOLDER OPTIONS

The test's process may hold gRPC's threads, and a fork of its fork may then be aborted by gRPC.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twinspire.serving.supervisor import ProcessSpec, Supervisor, WorkerHandle

ROOT = Path(__file__).parents[3]


@dataclass
class Options:
    """What the program is told.

    Args:
        timeout: of the supervisor.
        heartbeat: that the process shows, always the same.
        crashes: whether the process kills itself as soon as it is ready.
        failing: name of a function of `os` that fails at its next calls once the process is ready.
        failures: number of these calls.
        slow_seconds: in which a second process starts, if not 0. Then the first one says `started` when it
            is ready, and `stopped` at its end.
        without_timed_wait: whether `signal` lacks `sigtimedwait`, as on macOS.
    """

    timeout: float = 0.0
    heartbeat: float = 0.0
    crashes: bool = False
    failing: str = ""
    failures: int = 0
    slow_seconds: float = 0.0
    without_timed_wait: bool = False


@contextmanager
def supervised(folder: Path, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Keep a process running that leaves a file in a folder at each start, named by the clock in ns.

    Gives the supervisor, which says `ready` on its standard output.

    Args:
        folder: an empty one.
        options: the fields of `Options`.
    """
    with subprocess.Popen(
        [sys.executable, "-m", __name__, str(folder), json.dumps(asdict(Options(**options)))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise


def main(folder: str, given: str) -> None:
    """Run the supervisor until SIGTERM."""
    options = Options(**json.loads(given))

    def run(handle: WorkerHandle) -> None:
        (Path(folder) / str(time.monotonic_ns())).touch()
        handle.ready()
        if options.crashes:
            os.kill(os.getpid(), signal.SIGKILL)
        if options.slow_seconds:
            _say("started")
        handle.wait()
        if options.slow_seconds:
            _say("stopped")

    def run_slow(handle: WorkerHandle) -> None:
        time.sleep(options.slow_seconds)
        handle.ready()
        handle.wait()

    if options.without_timed_wait:
        vars(signal).pop("sigtimedwait", None)

    def ready() -> None:
        _say("ready")
        if options.failing:
            _let_fail(options.failing, options.failures)

    processes = [ProcessSpec("process", run, heartbeat=lambda: options.heartbeat)]
    if options.slow_seconds:
        processes.append(ProcessSpec("slow process", run_slow))
    Supervisor(processes, 1.0, timeout=options.timeout).run(ready)


def _let_fail(name: str, calls: int) -> None:
    """Let a function of `os` fail at its next calls, as the system does when it has no process left."""
    function = getattr(os, name)
    outcomes = iter(range(calls))

    def replacement() -> Any:
        if next(outcomes, None) is None:
            return function()
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    setattr(os, name, replacement)


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
