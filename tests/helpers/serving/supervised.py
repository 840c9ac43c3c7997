"""A supervisor of one process, as a program of its own.

    python -m tests.helpers.serving.supervised FOLDER TIMEOUT HEARTBEAT CRASHES

The test's process may hold gRPC's threads, and a fork of its fork may then be aborted by gRPC.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.supervisor import ProcessSpec, Supervisor, WorkerHandle

ROOT = Path(__file__).parents[3]


@contextmanager
def supervised(
    folder: Path, timeout: float = 0.0, heartbeat: float = 0.0, crashes: bool = False
) -> Iterator[None]:
    """Keep a process running that leaves a file in a folder at each start, named by the clock in ns.

    Args:
        folder: an empty one.
        timeout: of the supervisor.
        heartbeat: that the process shows, always the same.
        crashes: whether it kills itself as soon as it is ready.
    """
    arguments = (str(folder), str(timeout), str(heartbeat), str(int(crashes)))
    process = subprocess.Popen([sys.executable, "-m", __name__, *arguments], cwd=ROOT)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def main(folder: str, timeout: str, heartbeat: str, crashes: str) -> None:
    """Run the supervisor until SIGTERM."""

    def run(handle: WorkerHandle) -> None:
        (Path(folder) / str(time.monotonic_ns())).touch()
        handle.ready()
        if int(crashes):
            os.kill(os.getpid(), signal.SIGKILL)
        handle.wait()

    process = ProcessSpec("process", run, heartbeat=lambda: float(heartbeat))
    Supervisor([process], 1.0, timeout=float(timeout)).run(lambda: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
