"""The files of the served log: written whole, deleted by age and bytes, and cleared of a user.

Beside the folders of hours that `protos/files/served_log.py` describes there is `salts/`, with a file of
random bytes for each day. A user's digest is the HMAC-SHA256 of the key with the salt of the day, so digests
of different days cannot be compared, and none can be computed once its salt is deleted.
"""

import hmac
import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.bundle import whole_file
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.protos.files.served_log import COLUMNS, HOUR_FORMAT, SUFFIX
from twinspire.serving.filters.text import filter_text
from twinspire.serving.served_log.sampling import LoggedQuery
from twinspire.serving.wire.converters import NO_BOUND, RequestLimits
from twinspire.serving.wire.filter_converters import filter_from_wire

SALTS = "salts"
SALT_BYTES = 32
DIGEST_LENGTH = 32  # hexadecimal digits
DAY_LENGTH = len("2026-12-01")
DAY_NANOSECONDS = 86_400 * 10**9
MICROSECOND = 1_000  # nanoseconds
HOURS = "????-??-??T??"  # folders of hours
# The service has checked the filters.
UNBOUNDED = RequestLimits(
    max_filter_conditions=NO_BOUND, max_filter_values=NO_BOUND, max_filter_depth=NO_BOUND
)


def _type(name: str) -> pa.DataType:
    if name.startswith("list<"):
        return pa.list_(_type(name[5:-1]))
    return pa.timestamp("us", "UTC") if name.startswith("timestamp") else pa.type_for_alias(name)


Row = tuple[LoggedQuery, wire.SearchResponse]
_to_json = json.JSONEncoder(ensure_ascii=False).encode  # `json.dumps` makes an encoder each time
SCHEMA = pa.schema({name: _type(kind) for name, kind in COLUMNS.items()})


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


def to_table(rows: Sequence[Row], written: Callable[[str], str]) -> pa.Table:
    """Answers as the columns of a file.

    Args:
        rows: at least one.
        written: key of a user -> how it is written.
    """
    queries, answers = zip(*rows, strict=True)
    hits = [each.hits for each in answers]
    drawn: Any = [each.candidates or (None, None, None) for each in queries]
    mixed: Any = [each.teams or (None, None) for each in queries]
    fields = {
        "request_id": [each.request_id for each in answers],
        "time": [each.time // MICROSECOND for each in queries],
        "bundle": [each.bundle_version for each in answers],
        "sequence": [each.sequence or None for each in answers],
        "user": [each.user and written(each.user) for each in queries],
        "measures": [each.measures for each in queries],
        "comparable": [each.comparable for each in queries],
        "query": [_to_json(each.features) for each in queries],
        "k": [each.k for each in queries],
        "filter": [_filter_text(each.filter) for each in queries],
        "item_ids": _lists([[hit.id for hit in each] for each in hits], pa.string()),
        "scores": _lists([[hit.score for hit in each] for each in hits], pa.float32()),
        "weak": [each.weak for each in answers],
        "propensities": [each.propensities if each.explored else None for each in answers],
        "candidate_ids": [ids for ids, _, _ in drawn],
        "candidate_scores": [scores for _, scores, _ in drawn],
        "temperature": [temperature for _, _, temperature in drawn],
        "challenger": [challenger for challenger, _ in mixed],
        "teams": [teams for _, teams in mixed],
    }
    arrays = [pa.array(fields[each.name], each.type) for each in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _lists(lists: Sequence[Sequence[Any]], kind: pa.DataType) -> pa.Array:
    """Lists of ids or scores as an array: a quarter of the time that `pa.array` takes for them."""
    offsets, values = [0], list[Any]()
    for each in lists:
        values += each
        offsets.append(len(values))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, kind))


def _filter_text(content: bytes) -> str | None:
    return filter_text(filter_from_wire(wire.Filter.FromString(content), UNBOUNDED)) if content else None


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
