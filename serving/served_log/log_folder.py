"""The files of the served log: written whole, deleted by age and bytes, and cleared of a user.

Beside the folders of hours that `protos/files/served_log.py` describes there is `salts/`, with a file of
random bytes for each day. A user's digest is the HMAC-SHA256 of the key with the salt of the day, so digests
of different days cannot be compared, and none can be computed once its salt is deleted.
"""

import hmac
import os
import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twinspire.protos.bundle import whole_file
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.protos.files.served_log import HOUR_FORMAT, SUFFIX

SALTS = "salts"
SALT_BYTES = 32
DIGEST_LENGTH = 32  # hexadecimal digits
DAY_LENGTH = len("2026-12-01")
HOUR_NANOSECONDS = 3600 * 10**9
DAY_NANOSECONDS = 24 * HOUR_NANOSECONDS
HOURS = "????-??-??T??"  # folders of hours


def hour_of(nanoseconds: int) -> str:
    """The name of the folder of a time since 1970."""
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).strftime(HOUR_FORMAT)


class LogFolder:
    """The folder of a served log, which exists."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._salts: dict[str, bytes] = {}
        self._written = 0  # files; it is in the names, because rows of two files may have the same time

    def digest(self, user: str, day: str) -> str:
        """The digest of a user's key on a day such as `2026-12-01`, whose salt is made if it is missing.

        Raises:
            OSError: the salt can be neither read nor written.
        """
        salt = self._salts.get(day)
        if salt is None:
            salt = self._salts[day] = self._salt(day)
        return _digest(user, salt)

    def write(self, table: pa.Table, hour: str, nanoseconds: int) -> Path:
        """Write rows of an hour as a file, whole and durable, or not at all.

        Args:
            nanoseconds: of the first row's time.

        Raises:
            OSError: the disk does not take it.
        """
        folder = self.root / hour
        folder.mkdir(exist_ok=True)
        self._written += 1
        path = folder / f"{nanoseconds}-{os.getpid()}-{self._written}{SUFFIX}"
        with whole_file(path) as file:
            pq.write_table(table, file, compression="zstd")
        return path

    def prune(self, days: float, most: int) -> int:
        """Delete files beyond the bounds, the oldest first, and salts of days without files.

        Args:
            days: files of earlier hours are deleted.
            most: bytes of all files that stay.

        Returns:
            The bytes of the files that stay.

        Raises:
            OSError: a file cannot be deleted.
        """
        oldest = hour_of(time.time_ns() - int(days * DAY_NANOSECONDS))
        sizes = {}
        for path in self._files():
            with suppress(FileNotFoundError):  # the rows of a user were all that it had
                sizes[path] = path.stat().st_size
        total = sum(sizes.values())
        for path, size in sizes.items():
            if total <= most and path.parent.name >= oldest:
                break
            path.unlink(missing_ok=True)
            total -= size
        self._clear()
        return total

    def delete_user(self, user: str) -> int:
        """Delete the rows of a user, by the key and by its digest on each day; returns their number.

        Files with such rows are written again without them. One process at a time does this.

        Raises:
            OSError: a file can be neither read nor written.
        """
        deleted = 0
        with exclusive_lock(self.root / ".delete.lock"):
            self.delete_drafts(of_rewritten=True)
            names = [user]
            for path in (self.root / SALTS).glob("*"):
                with suppress(FileNotFoundError):  # the service has deleted it
                    names.append(_digest(user, path.read_bytes()))
            users = pa.array(names)
            for path in self._files():
                with suppress(FileNotFoundError):  # the service has deleted it
                    deleted += _delete_rows(path, users)
            self._clear()
        return deleted

    def delete_drafts(self, of_rewritten: bool) -> None:
        """Delete drafts that a process has left which was killed.

        Args:
            of_rewritten: those of files that exist, from which a user is deleted; else those of new files,
                which the service alone may delete, before it writes.

        Raises:
            OSError: a draft cannot be deleted.
        """
        for pattern in (f"{HOURS}/.*-*", f"{SALTS}/.*-*"):
            for draft in self.root.glob(pattern):
                path = draft.with_name(draft.name[1:].rpartition("-")[0])
                if path.exists() == of_rewritten:
                    draft.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """All files, the oldest first."""
        return sorted(self.root.glob(f"{HOURS}/*{SUFFIX}"))

    def _clear(self) -> None:
        """Delete what no file needs any more: folders of hours, drafts of a process that died, and salts."""
        recent = hour_of(time.time_ns() - DAY_NANOSECONDS)  # later rows may be on their way
        used = {path.parent.name for path in self._files()}
        for folder in self.root.glob(HOURS):
            if folder.name not in used and folder.name < recent:
                with suppress(OSError):  # another process has deleted it, or writes there
                    for draft in folder.iterdir():
                        draft.unlink(missing_ok=True)
                    folder.rmdir()
        kept = {hour[:DAY_LENGTH] for hour in used}
        for salt in (self.root / SALTS).glob("[!.]*"):
            if salt.name not in kept and salt.name < recent[:DAY_LENGTH]:
                salt.unlink(missing_ok=True)
                self._salts.pop(salt.name, None)

    def _salt(self, day: str) -> bytes:
        path = self.root / SALTS / day
        path.parent.mkdir(exist_ok=True, mode=0o700)
        with suppress(FileNotFoundError):
            return path.read_bytes()
        salt = secrets.token_bytes(SALT_BYTES)
        with whole_file(path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(salt)
        return salt


def _digest(user: str, salt: bytes) -> str:
    return hmac.digest(salt, user.encode(), "sha256").hex()[:DIGEST_LENGTH]


def _delete_rows(path: Path, users: pa.Array) -> int:
    """Delete the rows of these users from a file; returns their number."""
    found = pc.is_in(pq.read_table(path, columns=["user"])["user"], users)
    count = int(pc.sum(found).as_py() or 0)
    if count:
        kept = pq.read_table(path).filter(pc.invert(found))
        if len(kept):
            with whole_file(path) as file:
                pq.write_table(kept, file, compression="zstd")
        else:
            path.unlink()
    return count
