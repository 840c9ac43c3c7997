"""Exclusive locks between processes, by flock(2): the kernel releases a lock when its process ends.

with exclusive_lock(folder / ".lock", busy=Unavailable("another process is at work")):
...
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def exclusive_lock(
    path: Path, busy: Exception | None = None, on_wait: Callable[[], object] | None = None
) -> Iterator[IO[str]]:
    """Hold the lock of a file until the block ends; gives the open file.

    Args:
        path: of the lock file; it and its folder are made if missing, and the file stays.
        busy: raised if another process holds the lock; None waits for it.
        on_wait: called once before waiting.

    Raises:
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if busy is not None:
                raise busy from None
            if on_wait is not None:
                on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def try_lock(path: Path, descriptor: int) -> bool:
    """Lock an open file, unless another process holds the lock or the file is at its path no more.

    Args:
        descriptor: the file opened at `path`; closing it releases the lock.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False
