"""Folders that are being filled, which go with the process that fills them.

    with draft(parent) as folder:  # gone when the block ends, however it does
        ...
    clear(parent)                  # removes those of processes that are no more

A draft `.download-<digits>` has a lock beside it, `.download-<digits>.lock`, that its process holds for as
long as it lives. The lock is there before the draft is, so a draft whose lock nobody holds is a dead
process's. Ids of processes would not do, where several containers share the folder.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX, LOCK = ".download-", ".lock"
ASIDE = ".removed-"  # what is being removed


@contextmanager
def draft(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, which is made if missing; removed at the end.

    Raises:
        OSError: it cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    lock, held = _lock(parent)
    folder = lock.with_name(lock.name.removesuffix(LOCK))
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(held)


def clear(parent: Path) -> int:
    """Remove what dead processes left in `parent`; returns how many drafts that were."""
    for each in parent.glob(f"{ASIDE}*"):
        shutil.rmtree(each, ignore_errors=True)
    names = {each.name.removesuffix(LOCK) for each in parent.glob(f"{PREFIX}*")}
    return sum(_clear(parent / name, parent / f"{name}{LOCK}") for name in names)


def remove(folder: Path) -> None:
    """Remove a folder of bundles, so that nobody ever sees a part of it.

    Raises:
        OSError: it cannot be moved out of the way.
    """
    aside = folder.with_name(f"{ASIDE}{secrets.token_hex(6)}")
    try:
        folder.rename(aside)
    except FileNotFoundError:  # somebody else has removed it
        return
    shutil.rmtree(aside, ignore_errors=True)


def _lock(parent: Path) -> tuple[Path, int]:
    """A lock of a name of its own, and the open file that holds it."""
    while True:
        lock = parent / f"{PREFIX}{secrets.token_hex(6)}{LOCK}"
        held = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.stat().st_ino == os.fstat(held).st_ino:
                return lock, held
        except (BlockingIOError, FileNotFoundError):  # somebody who clears was faster
            pass
        os.close(held)


def _clear(folder: Path, lock: Path) -> bool:
    try:
        held = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        shutil.rmtree(folder, ignore_errors=True)
        return True
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        return True
    except BlockingIOError:  # its process lives
        return False
    finally:
        os.close(held)
