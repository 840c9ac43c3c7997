"""Folders that are being filled, and that are removed with the process that fills them.

    with draft(parent) as folder:  # removed when the block ends, however it ends
        ...
    clear(parent)                  # removes the drafts of processes that have ended

A draft `.download-<digits>` has a lock file beside it, `.download-<digits>.lock`, which its process holds
(flock) for as long as it lives. The lock file is made before the draft and removed after it. So a lock file
that is free belongs to a process that was killed, and the next `draft` in the same parent removes its draft.
A folder without a lock file is not a draft, whatever its name is, and stays. Process ids cannot replace the
lock files: containers that share the parent can have equal ones.
"""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX, LOCK = ".download-", ".lock"
PREFIXES = (PREFIX, ".bundle-", ".making-", ".dataset-")  # how the names of drafts begin
ASIDE = ".removed-"  # how the names of folders begin that `remove` has put aside

_BEGIN = "|".join(map(re.escape, (*PREFIXES, ASIDE)))
_LOCK_NAME = re.compile(rf"(?:{_BEGIN})[0-9a-f]{{12}}{re.escape(LOCK)}")


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
    with _locked(parent, prefix) as folder:
        folder.mkdir()
        yield folder


def clear(parent: Path) -> int:
    """Remove what killed processes left in `parent`; returns how many drafts that were."""
    locks = [each for each in parent.glob(f".*{LOCK}") if _LOCK_NAME.fullmatch(each.name)]
    return sum(_clear(each) and not each.name.startswith(ASIDE) for each in locks)


def remove(folder: Path) -> None:
    """Remove a folder so that no process sees a part of it: rename it, then delete its files.

    A link is removed itself; what it leads to stays.

    Raises:
        OSError: it cannot be renamed.
    """
    with suppress(FileNotFoundError), _locked(folder.parent, ASIDE) as aside:  # absent: removed by another
        folder.rename(aside)


@contextmanager
def _locked(parent: Path, prefix: str) -> Iterator[Path]:
    """The path of a new folder, which is not made, with its lock file; both are removed at the end."""
    lock, held = _lock(parent, prefix)
    folder = _folder(lock)
    try:
        yield folder
    finally:
        _delete(folder, lock)
        os.close(held)


def _folder(lock: Path) -> Path:
    return lock.with_name(lock.name.removesuffix(LOCK))


def _delete(folder: Path, lock: Path) -> None:
    """Delete a draft, then its lock file; a draft that cannot be deleted keeps it for the next `clear`."""
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        lock.unlink(missing_ok=True)


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


def _clear(lock: Path) -> bool:
    """Remove a draft if its lock is free."""
    try:
        held = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # gone, of another user, or not a file
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _delete(_folder(lock), lock)
        return True
    except BlockingIOError:  # its process lives
        return False
    finally:
        os.close(held)
