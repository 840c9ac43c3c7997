"""What a bundle has derived from the changes of a store: an append-only file that all workers of a host read.

One process writes the file, and holds the lock on the file VERSION.lock beside it. The others read only what
its header announces, so they never see a part of a record. `record_format.py` describes the file.

All changes of the store up to `sequence` are in the records before `length`. There may be later ones while
many changes are derived at once; else the writer sets both under a sequence lock (the cell `version` is odd
meanwhile), so a reader gets two values that belong together. A process that is killed leaves bytes after
`length` behind, which the next writer cuts off. The file holds nothing that cannot be derived again, so it is
not synced to the disk. If a power failure or a fault of the disk has damaged it, the next writer keeps the
records before the damage.

The header also names a position in the history of the store that no record is beyond. If the store has not
been there, it was restored from a copy, and the records may be of changes that it has never made. Then the
next writer begins a file.

A file that takes another's place, because it was damaged or because most of its records were outdated, is
another generation. Readers see that the path leads to another file, and open it. A reader that finds damage
reports it to the writer: it creates the file VERSION.GENERATION.damaged.
"""

import fcntl
import logging
import mmap
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from protos.files.draft_file import create_draft
from serving.live.record_format import (
    CHUNK,
    DAMAGED_SUFFIX,
    HEAD,
    LENGTH,
    LOCK_SUFFIX,
    MARK,
    PAGE,
    POSITION,
    POSITION_CHECK,
    SEQUENCE,
    VERSION,
    RecordOrigin,
    RecordsInUse,
    bodies,
    check_header,
    header,
    is_header,
    packed,
    read_chunk,
    unpacked,
)
from serving.live.store.changes import START, Position
from serving.segments.record import Record, RecordKind, RecordsDamaged

log = logging.getLogger(__name__)

KEPT_FAILURES = 10_000  # reasons why an item could not be encoded
TRIES, TRY_SECONDS = 100, 0.001  # to read cells that a writer changes


class VerifiedEnd(NamedTuple):
    """Up to where the records of another service are known to be of this service's store.

    Args:
        generation: of the file.
        length: bytes of the file.
        sequence: all changes up to this one are in them.
    """

    generation: int
    length: int
    sequence: int


class RecordLock:
    """An exclusive lock on writing the records of one bundle, held until `close`.

    The lock is on a file of its own, because the file of records is replaced.

    Args:
        path: of the records.

    Raises:
        RecordsInUse: another process, or another thread, holds the lock.
        OSError: the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = -1
        name = path.with_suffix(LOCK_SUFFIX)
        while self._descriptor < 0:
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_file(name, descriptor):  # `prune` may have removed it before it was locked
                    self._descriptor = descriptor
            except BlockingIOError:
                raise RecordsInUse(f"{path}: another process writes this file") from None
            finally:
                if self._descriptor < 0:
                    os.close(descriptor)

    def close(self) -> None:
        """Release the lock; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class RecordWriter:
    """Appends records; there is one writer at a time. `open` makes one.

    Attributes:
        origin: of the records.
        generation: of the file.
        lock: that `close` releases.
        cursor: the sequence after which the changes of the store are missing.
        count: records in the file.
        latest: item id -> where its latest record is in the file: offset and length.
        live: ids of the items whose latest record has a vector.
        failures: sequence -> why the item of that change cannot be found; the last `KEPT_FAILURES` of them.
            Any thread may read it.
    """

    def __init__(
        self, path: Path, descriptor: int, origin: RecordOrigin, generation: int, lock: RecordLock
    ) -> None:
        self.path, self.origin, self.generation, self.lock = path, origin, generation, lock
        self.cursor, self.count = origin.start, 0
        self.latest: dict[str, tuple[int, int]] = {}
        self.live: set[str] = set()
        self.failures: dict[int, str] = {}
        self._descriptor = descriptor
        self._page = mmap.mmap(descriptor, PAGE)
        self._cells: memoryview[int] = memoryview(self._page).cast("Q")

    @classmethod
    def open(
        cls,
        path: Path,
        origin: RecordOrigin,
        was_at: Callable[[Position], bool | None] = lambda position: True,
        lock: RecordLock | None = None,
    ) -> "RecordWriter":
        """Go on with the records of an earlier process, or begin a file.

        Args:
            path: of the file.
            origin: of the records; a file of another origin is replaced.
            was_at: whether the store has been at a position; unless it is known to have been at that of the
                records, all of them are derived again.
            lock: of the records, released by `close` or if this fails; taken here if it is not given.

        Raises:
            RecordsInUse: another process writes the file.
            OSError: the disk does not take it.
        """
        lock = lock or RecordLock(path)
        try:
            for draft in path.parent.glob(f".{path.stem}.*"):  # of a process that was killed
                draft.unlink(missing_ok=True)
            return cls._open(path, origin, was_at, lock)
        except BaseException:
            lock.close()
            raise

    @classmethod
    def _open(
        cls, path: Path, origin: RecordOrigin, was_at: Callable[[Position], bool | None], lock: RecordLock
    ) -> "RecordWriter":
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return cls._begin(path, origin, lock)
        try:
            generation = check_header(descriptor, path, origin)
            writer = cls(path, descriptor, origin, generation, lock)
        except RecordsDamaged:
            os.close(descriptor)
            return cls._begin(path, origin, lock)
        except BaseException:
            os.close(descriptor)
            raise
        try:
            position = writer.position
            if position is None or not was_at(position):
                new = cls._begin(path, origin, lock)
            elif writer._resume():
                return writer
            else:
                new = cls._begin(path, origin, lock, writer._content(writer.length), position=position)
        except BaseException:
            writer._close_file()
            raise
        writer._close_file()
        return new

    @property
    def sequence(self) -> int:
        """All changes up to this sequence are in the file."""
        return self._cells[SEQUENCE]

    @property
    def length(self) -> int:
        """Bytes of the file that readers may read."""
        return self._cells[LENGTH]

    @property
    def position(self) -> Position | None:
        """A position of the store that no record is beyond; None if it is damaged."""
        return _position(self._cells)

    def expect(self, position: Position) -> None:
        """Set the position up to which records will be appended next; call it before `append`."""
        self._cells[POSITION], self._cells[MARK] = position
        self._cells[POSITION_CHECK] = _check(position)

    def append(self, records: Sequence[Record], sequence: int | None = None) -> None:
        """Append records, which readers may read from then on.

        Args:
            records: in the order of their sequences.
            sequence: up to which the file holds all changes then, or that of the last record if it is higher;
                None if more records are needed to know that, and the announced sequence stays.

        Raises:
            OSError: the disk is full, or fails; no record was appended.
        """
        parts = [*map(packed, records)]
        start = self.length
        _write(self._descriptor, b"".join(parts), start)
        for record, part in zip(records, parts, strict=True):
            self._add_to_index(record, start, len(part))
            start += len(part)
        if sequence is None:
            self._cells[LENGTH] = start
            return
        self.cursor = max(self.cursor, sequence)
        version = self._cells[VERSION] | 1
        self._cells[VERSION] = version
        self._cells[LENGTH] = start
        self._cells[SEQUENCE] = max(self.cursor, self._cells[SEQUENCE])
        self._cells[VERSION] = version + 1

    def vector_and_terms(self, item_id: str) -> tuple[bytes, bytes]:
        """The vector and the terms of an item's latest record; empty if there is none."""
        if item_id not in self.latest:
            return b"", b""
        record = self._record(*self.latest[item_id])
        return record.vector, record.terms

    def compacted(self, progress: Callable[[], None] = lambda: None) -> "RecordWriter":
        """The writer of a new generation with the latest record of each item; this writer is closed.

        Args:
            progress: called after each `CHUNK` bytes.

        Raises:
            OSError: the disk is full, or fails; this writer can still be used.
        """
        records = (self._record(*place) for place in sorted(self.latest.values()))
        kept = (
            packed(each._replace(kind=RecordKind.ITEM) if each.kind is RecordKind.SAME else each)
            for each in records
        )
        content = _with_progress(kept, progress)
        writer = self._begin(
            self.path, self.origin, self.lock, content, self.sequence, self.position or START
        )
        writer.cursor = self.cursor
        self._close_file()
        return writer

    @property
    def has_damage_report(self) -> bool:
        """Whether a reader has reported damage of this generation."""
        return _damage_report(self.path, self.generation).exists()

    def repaired(self, progress: Callable[[], None] = lambda: None) -> "RecordWriter":
        """The writer of a new generation, after a report of damage; this writer is closed.

        It has the records before the damage. If this process finds no damaged record, it is the content of
        a record that the reader could not apply; then no record is kept, and all are derived again.

        Args:
            progress: called after each `CHUNK` bytes.

        Raises:
            OSError: the disk is full, or fails; this writer can still be used.
        """
        whole = PAGE + sum(map(len, _with_progress(self._content(self.length), progress)))
        kept = _with_progress(self._content(whole), progress) if whole < self.length else ()
        writer = self._begin(self.path, self.origin, self.lock, kept, position=self.position)
        _damage_report(self.path, self.generation).unlink(missing_ok=True)
        self._close_file()
        return writer

    def close(self) -> None:
        """Release the lock, so that another process may write."""
        self._close_file()
        self.lock.close()

    def _close_file(self) -> None:
        self._cells.release()
        self._page.close()
        os.close(self._descriptor)

    @classmethod
    def _begin(
        cls,
        path: Path,
        origin: RecordOrigin,
        lock: RecordLock,
        content: Iterable[bytes] = (),
        sequence: int | None = None,
        position: Position | None = START,
    ) -> "RecordWriter":
        """Begin a generation with packed records; it takes the place of an earlier one."""
        descriptor, draft = create_draft(path)
        generation = secrets.randbits(63)
        try:
            os.ftruncate(descriptor, PAGE)
            os.pwrite(descriptor, header(origin, generation), 0)
            writer = cls(path, descriptor, origin, generation, lock)
            end = PAGE
            for part in content:
                _write(descriptor, part, end)
                for body, offset in bodies(part):
                    writer._add_to_index(unpacked(body), end + offset, HEAD.size + len(body))
                end += len(part)
            writer._cells[LENGTH] = end
            writer._cells[SEQUENCE] = origin.start if sequence is None else sequence
            writer.expect(position or START)
            os.rename(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return writer

    def _resume(self) -> bool:
        """Read what an earlier writer has announced; returns whether all of it is undamaged."""
        size, length = os.fstat(self._descriptor).st_size, self.length
        end = PAGE
        for part in self._content(min(size, length)):
            for body, offset in bodies(part):
                self._add_to_index(unpacked(body), end + offset, HEAD.size + len(body))
            end += len(part)
        if end != length:
            return False
        os.ftruncate(self._descriptor, length)  # cuts off what was not announced
        self._cells[VERSION] += self._cells[VERSION] % 2  # of a writer that was killed between the cells
        return True

    def _content(self, end: int) -> Iterator[bytes]:
        """The packed records before `end`, in chunks; it stops at the first damaged record."""
        offset = PAGE
        while offset < end and (chunk := read_chunk(self._descriptor, offset, end)):
            yield chunk
            offset += len(chunk)

    def _record(self, offset: int, size: int) -> Record:
        return unpacked(memoryview(os.pread(self._descriptor, size, offset))[HEAD.size :])

    def _add_to_index(self, record: Record, offset: int, size: int) -> None:
        """Update the attributes for a record of the file, the last so far."""
        self.latest[record.item_id] = offset, size
        if record.kind in (RecordKind.ITEM, RecordKind.SAME):
            self.live.add(record.item_id)
        else:
            self.live.discard(record.item_id)
        self.count += 1
        self.cursor = max(self.cursor, record.sequence)
        note_failure(self.failures, record)


class RecordReader:
    """Reads the records of one generation, in their order.

    Args:
        path: of the file.
        origin: that the records must have.

    Attributes:
        generation: of the file.

    Raises:
        FileNotFoundError: there is no file yet.
        RecordsDamaged: the file is not one of records, or belongs to something else.
    """

    def __init__(self, path: Path, origin: RecordOrigin) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            self.generation = check_header(self._descriptor, path, origin)
            self._page = mmap.mmap(self._descriptor, PAGE, access=mmap.ACCESS_READ)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._cells: memoryview[int] = memoryview(self._page).cast("Q")
        self._file = os.fstat(self._descriptor).st_ino
        self._offset = PAGE
        self._target = PAGE, origin.start  # announced: length and sequence

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._cells.release()
            self._page.close()
            os.close(self._descriptor)

    @property
    def length(self) -> int:
        """Bytes of the file that can be read."""
        return self._cells[LENGTH]

    @property
    def has_more(self) -> bool:
        """Whether `read` would return records, or a higher sequence, now."""
        if self._offset != self._target[0]:
            return True
        if self._cells[VERSION] % 2:  # the writer changes the cells, or was killed meanwhile
            return False
        return self._cells[LENGTH] != self._offset or self._cells[SEQUENCE] != self._target[1]

    @property
    def position(self) -> Position | None:
        """The position of the store that no record is beyond; None while it changes, or if it is damaged."""
        return _position(self._cells)

    @property
    def is_superseded(self) -> bool:
        """Whether the path leads to another generation."""
        try:
            return self._path.stat().st_ino != self._file
        except FileNotFoundError:
            return False

    def report_damage(self) -> None:
        """Ask the process that writes the records to begin another file."""
        if not self.is_superseded:
            try:
                _damage_report(self._path, self.generation).touch()
            except OSError as error:
                log.error("%s: the damage cannot be reported: %s", self._path, error)

    @property
    def end(self) -> VerifiedEnd:
        """What was last announced, to whose end `read` has come if it returned a sequence."""
        return VerifiedEnd(self.generation, *self._target)

    def read(self, stop: VerifiedEnd | None = None) -> tuple[list[Record], int | None]:
        """The next records, those of one chunk.

        Args:
            stop: where to stop; by default, where the records that are announced end.

        Returns:
            The records, and the sequence up to which all changes have been read with them; None where more
            records are needed to know that. No records and None while the writer changes the cells, and at
            `stop`.

        Raises:
            RecordsDamaged: a record is not whole.
        """
        if self._offset == self._target[0] and stop is not None:
            if stop.generation != self.generation or (stop.length, stop.sequence) == self._target:
                return [], None
            self._target = max(stop.length, self._offset), max(stop.sequence, self._target[1])
        elif self._offset == self._target[0]:
            version = self._cells[VERSION]
            sequence = self._cells[SEQUENCE]  # first: an older version of the writer sets it last, unlocked
            length = self._cells[LENGTH]
            if version % 2 or self._cells[VERSION] != version:  # the next call sees them
                return [], None
            self._target = length, sequence
        end, sequence = self._target
        records = []
        if self._offset < end:
            chunk = read_chunk(self._descriptor, self._offset, end)
            if not chunk:
                raise RecordsDamaged(f"{self._path}: the record at byte {self._offset} is damaged")
            records = [unpacked(body) for body, _ in bodies(chunk)]
            self._offset += len(chunk)
        return records, sequence if self._offset == end else None


def position_of(path: Path) -> Position | None:
    """The position in a store's history that no record of a file is beyond; another process may write it.

    Returns:
        None if it is damaged, or the file is not one of records, or of another format.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        for _ in range(TRIES):
            page = os.pread(descriptor, PAGE, 0)
            if not is_header(page):
                return None
            if (position := _position(memoryview(page).cast("Q"))) is not None:
                return position
            time.sleep(TRY_SECONDS)
        return None
    finally:
        os.close(descriptor)


def _position(cells: "memoryview[int]") -> Position | None:
    """The position in a header; None while the writer changes it, or if it is damaged."""
    position = Position(cells[POSITION], cells[MARK])
    return position if cells[POSITION_CHECK] == _check(position) else None


def _check(position: Position) -> int:
    return zlib.crc32(b"%d %d" % position)


def _damage_report(path: Path, generation: int) -> Path:
    """The file by which readers report damage."""
    return path.with_name(f"{path.stem}.{generation:016x}{DAMAGED_SUFFIX}")


def note_failure(failures: dict[int, str], record: Record) -> None:
    """Add the reason of a failed item; the first of many is forgotten.

    Args:
        failures: sequence -> reason.
        record: of any kind.
    """
    if record.kind is RecordKind.FAILED:
        failures[record.sequence] = record.hit.decode()
        if len(failures) > KEPT_FAILURES:
            del failures[next(iter(failures))]


def _with_progress(parts: Iterable[bytes], progress: Callable[[], None]) -> Iterator[bytes]:
    """The same parts; calls `progress` after each `CHUNK` bytes."""
    size = 0
    for part in parts:
        yield part
        size += len(part)
        if size >= CHUNK:
            size = 0
            progress()


def _is_file(path: Path, descriptor: int) -> bool:
    """Whether a path leads to the file of a descriptor."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of it.

    Raises:
        OSError: it cannot be written.
    """
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
