"""Folders that are being filled, and that are removed with the process that fills them.

    with draft(parent) as folder:  # removed when the block ends, however it ends
        ...
    clear(parent)                  # removes the drafts of processes that have ended

A draft `.download-<digits>` has a lock file beside it, `.download-<digits>.lock`, which its process holds
(flock) for as long as it lives. The lock file exists before the draft does, so a draft without a lock file,
or whose lock is free, belongs to a process that was killed. The next `draft` in the same parent removes it.
Process ids would not do, because several containers may share the parent.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX, LOCK = ".download-", ".lock"
# How the names of drafts begin. `.variants-` was in use before drafts had locks; it is only cleared.
PREFIXES = (PREFIX, ".bundle-", ".making-", ".variants-")
ASIDE = ".removed-"  # what is being removed


@contextmanager
def draft(parent: Path, prefix: str = PREFIX) -> Iterator[Path]:
    """A new folder in `parent`, which is made if missing; removed at the end.

    Drafts that killed processes left in `parent` are removed first.

    Args:
        prefix: of its name; one of `PREFIXES`.

    Raises:
        OSError: it cannot be made.
    """
    if prefix not in PREFIXES:
        raise ValueError(f"prefix: expected one of {', '.join(PREFIXES)}, got {prefix!r}")
    parent.mkdir(parents=True, exist_ok=True)
    clear(parent)
    lock, held = _lock(parent, prefix)
    folder = lock.with_name(lock.name.removesuffix(LOCK))
    try:
        folder.mkdir()
        yield folder
    finally:
        _delete(folder)
        lock.unlink(missing_ok=True)
        os.close(held)


def clear(parent: Path) -> int:
    """Remove what killed processes left in `parent`; returns how many drafts that were."""
    for each in parent.glob(f"{ASIDE}*"):
        _delete(each)
    found = {each.name.removesuffix(LOCK) for prefix in PREFIXES for each in parent.glob(f"{prefix}*")}
    return sum(_clear(parent / name, parent / f"{name}{LOCK}") for name in found)


def remove(folder: Path) -> None:
    """Remove a folder of bundles in such a way that no process ever sees a part of it.

    A link is removed itself; what it leads to stays.

    Raises:
        OSError: it cannot be moved out of the way.
    """
    aside = folder.with_name(f"{ASIDE}{secrets.token_hex(6)}")
    try:
        folder.rename(aside)
    except FileNotFoundError:  # another process has removed it
        return
    _delete(aside)


def _delete(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _lock(parent: Path, prefix: str) -> tuple[Path, int]:
    """A lock of a name of its own, and the open file that holds it."""
    while True:
        lock = parent / f"{prefix}{secrets.token_hex(6)}{LOCK}"
        held = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.stat().st_ino == os.fstat(held).st_ino:
                return lock, held
        except (BlockingIOError, FileNotFoundError):  # another process that clears was faster
            pass
        os.close(held)


def _clear(folder: Path, lock: Path) -> bool:
    try:
        held = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        _delete(folder)
        return True
    except OSError:  # of another user, or not a lock file at all
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _delete(folder)
        lock.unlink(missing_ok=True)
        return True
    except BlockingIOError:  # its process lives
        return False
    finally:
        os.close(held)
