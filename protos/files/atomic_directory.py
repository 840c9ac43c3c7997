"""Temporary folders that are renamed when they are complete, and removed if their process dies before.

    with draft(parent) as folder:  # removed when the block ends, unless it was renamed
        ...
    remove_abandoned(parent)       # removes the drafts of processes that have ended

A draft `.download-<digits>` has a lock file beside it, `.download-<digits>.lock`, which its process holds
(flock) as long as it lives. The lock file is made before the draft and removed after it. So a lock file that
is free belongs to a process that was killed, and the next `draft` in the same parent removes its draft. A
folder without a lock file is not a draft, whatever its name is, and stays. Process ids cannot replace lock
files: two containers that share the parent can have the same ids.
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twinspire.protos.files.file_lock import try_lock

PREFIX, LOCK = ".download-", ".lock"
PREFIXES = (PREFIX, ".bundle-", ".making-", ".dataset-", ".runs-")  # of the names of drafts
REMOVED = ".removed-"  # prefix of folders that `remove` has renamed

_BEGIN = "|".join(map(re.escape, (*PREFIXES, REMOVED)))
_LOCK_NAME = re.compile(rf"(?:{_BEGIN})[0-9a-f]{{12}}{re.escape(LOCK)}")


@contextmanager
def draft(parent: Path, prefix: str = PREFIX) -> Iterator[Path]:
    """A new folder in `parent`, removed at the end; `parent` is made if missing.

    First removes the drafts that killed processes left in `parent`.

    Args:
        prefix: of its name; one of `PREFIXES`.

    Raises:
        OSError: the folder cannot be made.
    """
    if prefix not in PREFIXES:
        raise ValueError(f"prefix: expected one of {', '.join(PREFIXES)}, got {prefix!r}")
    parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(parent)
    with _locked(parent, prefix) as folder:
        folder.mkdir()
        yield folder


def remove_abandoned(parent: Path) -> int:
    """Remove what killed processes left in `parent`; returns the number of drafts among it."""
    locks = [each for each in parent.glob(f".*{LOCK}") if _LOCK_NAME.fullmatch(each.name)]
    return sum(_remove_if_free(each) and not each.name.startswith(REMOVED) for each in locks)


def remove(folder: Path) -> None:
    """Remove a folder atomically: rename it, then delete its files.

    If it is a symbolic link, the link is removed and its target stays.

    Raises:
        OSError: the folder cannot be renamed.
    """
    with suppress(FileNotFoundError), _locked(folder.parent, REMOVED) as removed:
        folder.rename(removed)


@contextmanager
def _locked(parent: Path, prefix: str) -> Iterator[Path]:
    """The path of a folder to make, whose lock file is held; both are removed at the end."""
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
    """Delete a draft, then its lock file; the lock file stays if the draft cannot be deleted."""
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        lock.unlink(missing_ok=True)


def _lock(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new lock file, and the descriptor that holds it."""
    while True:
        lock = parent / f"{prefix}{secrets.token_hex(6)}{LOCK}"
        held = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        if try_lock(lock, held):
            return lock, held
        os.close(held)  # another process has just removed it


def _remove_if_free(lock: Path) -> bool:
    """Remove a draft if its lock is free; returns whether it was."""
    try:
        held = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # deleted, of another user, or not a file
        return False
    try:
        if not try_lock(lock, held):  # its process is alive
            return False
        _delete(_folder(lock), lock)
        return True
    finally:
        os.close(held)
