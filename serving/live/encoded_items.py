"""What a bundle has encoded of the changes of a store: a database of SQLite that all workers of a host read.

Each bundle has a folder with one file GENERATION.db. The catalogue's process of one service writes it, which
holds the lock of the store's folder; the workers only read. Rows are added and never changed, and their ids
count from 1. The table `state` is written in the same transaction. It says up to which sequence all changes
of the store are in the rows, and names a position in the history of the store that no row is beyond. If the
store has not been there, it was restored from a copy, and the rows may be of changes that it has never made.

The file holds nothing that cannot be encoded again. So a file that is damaged, or belongs to something else,
is not repaired: another one begins, with a higher generation. The same happens when most rows are outdated;
then the latest row of each item is copied. Readers see that there is another generation, and change over to
it when it has what they have. A reader that finds damage removes the file, and the writer begins another one.

SQLite's connections must not be carried over a fork: a worker opens its own.
"""

import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import TwinspireError
from twinspire.protos.files.draft_file import create_draft
from twinspire.serving.live.store.records import START, Position
from twinspire.serving.segments.packed_items import EncodedItem, EncodedItemsDamaged, EncodedKind

log = logging.getLogger(__name__)

FORMAT = 5
LOCK = ".lock"  # in the folder of a store; the service that uses it holds this lock
SUFFIX, GRAPH_SUFFIX = ".db", ".graph"
MOST_ROWS = 128  # that are read at once
BUSY_SECONDS = 0.1  # to wait for a lock of SQLite's, which is needed after a writer was killed
LOG_PAGES = 4000  # of 4 KiB, after which SQLite copies its log to the file; four times the default
KEPT_FAILURES = 10_000  # reasons why an item could not be encoded
DAMAGED = sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR  # the last: no such table

TABLES = (
    "CREATE TABLE state (origin TEXT, last_id INTEGER, sequence INTEGER, position INTEGER, mark INTEGER)",
    "CREATE TABLE encoded (id INTEGER PRIMARY KEY, sequence INTEGER, item_id TEXT, kind INTEGER, hit BLOB, "
    "filter_values BLOB, vector BLOB, terms BLOB)",
)
INSERT = "INSERT INTO encoded VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
READ = "SELECT * FROM encoded WHERE id > ? ORDER BY id LIMIT ?"
LATEST = "SELECT * FROM encoded WHERE id IN (SELECT max(id) FROM encoded GROUP BY item_id) ORDER BY id"


@dataclass(frozen=True)
class EncodedOrigin:
    """What items were encoded from.

    Args:
        bundle_version: whose item tower has encoded them.
        store_id: of the store.
        dimension: of the vectors.
        start: sequence of the snapshot that the bundle was built from.
    """

    bundle_version: str
    store_id: str
    dimension: int
    start: int = 0

    def __str__(self) -> str:
        return f"{FORMAT} {self.bundle_version} {self.store_id} {self.dimension} {self.start}"


class EncodedState(NamedTuple):
    """The state of a file.

    Args:
        last_id: of the last row, and so the number of rows.
        sequence: all changes of the store up to this one are in the rows.
        position: of the store, which no row is beyond. Its sequence is higher than `sequence` only while
            changes between them have not been added yet.
    """

    last_id: int
    sequence: int
    position: Position

    def write(self, connection: sqlite3.Connection, origin: EncodedOrigin) -> None:
        """Replace the state of a file; errors of SQLite."""
        row = (str(origin), self.last_id, self.sequence, *self.position)
        connection.execute("DELETE FROM state")
        connection.execute("INSERT INTO state VALUES (?, ?, ?, ?, ?)", row)

    @classmethod
    def read(cls, connection: sqlite3.Connection, origin: EncodedOrigin | None) -> "EncodedState":
        """The state of a file of an origin, or of any.

        Raises:
            ValueError: it is missing, or of another origin.
            sqlite3.Error: the file cannot be read.
        """
        row = connection.execute("SELECT origin, last_id, sequence, position, mark FROM state").fetchone()
        if row is None or (origin is not None and row[0] != str(origin)):
            raise ValueError("of another bundle, store or format")
        return cls(row[1], row[2], Position(*row[3:]))


class EncodedItemsWriter:
    """Goes on with the file of an earlier process, or begins one; there is one writer at a time.

    Args:
        folder: of the bundle's encoded items.
        origin: of the items; a file of another origin is replaced.
        was_at: whether the store has been at a position; unless it is known to have been at that of the file,
            all items are encoded again.

    Attributes:
        folder: of the bundle's encoded items.
        generation: of the file.
        state: of the file.
        cursor: the sequence after which the changes of the store are missing. It is higher than
            `state.sequence` only after a page that did not reach `state.position`.
        live_items: number of the items whose latest row has a vector.
        failures: sequence -> why the item of that change cannot be found; the last `KEPT_FAILURES` of them.
            Any thread may read it.

    Raises:
        OSError: the disk does not take it.
    """

    state: EncodedState
    cursor: int
    live_items: int

    def __init__(
        self,
        folder: Path,
        origin: EncodedOrigin,
        was_at: Callable[[Position], bool | None] = lambda position: True,
    ) -> None:
        self.folder, self._origin = folder, origin
        self.failures: dict[int, str] = {}
        self._hashes: dict[str, int | None] = {}  # item id -> of vector and terms; None without a vector
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for pattern in (".*", f"*{GRAPH_SUFFIX}-*"):  # drafts of a process that was killed
                for draft in folder.glob(pattern):
                    draft.unlink(missing_ok=True)
            if not self._resume(was_at):
                self.begin()
        except BaseException:
            self.close()
            raise

    @property
    def items(self) -> int:
        """Number of items that have a row."""
        return len(self._hashes)

    @property
    def is_removed(self) -> bool:
        """Whether a reader has found damage."""
        return not self._path.exists()

    def is_same(self, item_id: str, vector: bytes, terms: bytes) -> bool:
        """Whether the latest row of an item has this vector and these terms, by a hash of 64 bits."""
        return self._hashes.get(item_id) == hash((vector, terms))

    def append(self, items: Sequence[EncodedItem], position: Position, is_complete: bool = True) -> None:
        """Add rows, which readers may read from then on.

        Args:
            items: in the order of their sequences.
            position: of the store; no item is beyond it.
            is_complete: whether the file has all changes up to the position then.

        Raises:
            OSError: the disk is full, or fails; nothing was added.
            EncodedItemsDamaged: the file is damaged, and has been removed.
        """
        first, before = self.state.last_id + 1, self.state.sequence
        sequence = max(before, position.sequence) if is_complete else before
        state = EncodedState(self.state.last_id + len(items), sequence, position)
        with self._removed(), _errors(self._path), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(INSERT, _rows(items, first))
            state.write(self._connection, self._origin)
        self.state, self.cursor = state, max(self.cursor, sequence)
        for each in items:
            self._note(each)

    def begin(self) -> None:
        """Begin a generation without rows, in the place of the one before.

        Raises:
            OSError: the disk is full, or fails; the one before stays.
        """
        self._replace((), EncodedState(0, self._origin.start, START))
        self._reset(self.state)

    def compact(self) -> None:
        """Begin a generation with the latest row of each item.

        Raises:
            OSError: the disk is full, or fails; the one before stays.
            EncodedItemsDamaged: the file is damaged, and has been removed.
        """

        def latest(rows: Iterable[Sequence[Any]]) -> Iterator[EncodedItem]:
            for row in rows:
                item = _item(row, row[0])
                yield item._replace(kind=EncodedKind.ITEM) if item.kind is EncodedKind.SAME else item

        with self._removed(), _errors(self._path):
            rows = self._connection.execute(LATEST)
            self._replace(latest(rows), self.state._replace(last_id=self.items))

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, "_connection"):  # not before the first file is open
            self._connection.close()

    def _replace(self, items: Iterable[EncodedItem], state: EncodedState) -> None:
        """Begin a generation with rows; readers see the file when it is complete."""
        path = _database(self.folder, max(time.time_ns(), latest_generation(self.folder) + 1))
        descriptor, draft = create_draft(path)
        os.close(descriptor)
        try:
            with _errors(path), closing(_connect(draft, "rw")) as connection:
                connection.execute("PRAGMA journal_mode = OFF")  # no process opens the draft
                with connection:
                    connection.execute("BEGIN")
                    for each in TABLES:
                        connection.execute(each)
                    connection.executemany(INSERT, _rows(items, 1))
                    state.write(connection, self._origin)
                connection.execute("PRAGMA journal_mode = WAL")
            draft.rename(path)
        finally:
            draft.unlink(missing_ok=True)
        self._use(path)
        self.state = state
        for other in self.folder.glob("[0-9]*"):  # but no graph that is being written
            if not other.name.startswith(f"{self.generation}.") and f"{GRAPH_SUFFIX}-" not in other.name:
                other.unlink(missing_ok=True)

    def _use(self, path: Path) -> None:
        with _errors(path):
            connection = _connect(path, "rw")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        self.close()
        self._connection, self._path, self.generation = connection, path, int(path.stem)

    @contextmanager
    def _removed(self) -> Iterator[None]:
        """Removes a file that is damaged, so that the next one begins without rows."""
        try:
            yield
        except EncodedItemsDamaged:
            remove(self._path)
            raise

    def _reset(self, state: EncodedState) -> None:
        self.state, self.cursor, self.live_items = state, state.sequence, 0
        self._hashes = {}

    def _resume(self, was_at: Callable[[Position], bool | None]) -> bool:
        """Read what an earlier writer has written; returns whether all of it can be used."""
        generation = latest_generation(self.folder)
        if not generation:
            return False
        try:
            with _errors(path := _database(self.folder, generation)):
                self._use(path)
                self._reset(EncodedState.read(self._connection, self._origin))
                count = 0
                for count, row in enumerate(self._connection.execute("SELECT * FROM encoded ORDER BY id"), 1):
                    self._note(_item(row, count))
        except EncodedItemsDamaged as error:
            log.error("%s: all items are encoded again: %s", self.folder, error)
            return False
        return count == self.state.last_id and bool(was_at(self.state.position))

    def _note(self, item: EncodedItem) -> None:
        """Update the attributes for a row, the last so far."""
        has_vector = item.kind in (EncodedKind.ITEM, EncodedKind.SAME)
        self.live_items += has_vector - (self._hashes.get(item.item_id) is not None)
        self._hashes[item.item_id] = hash((item.vector, item.terms)) if has_vector else None
        self.cursor = max(self.cursor, item.sequence)
        if item.kind is EncodedKind.FAILED:
            self.failures[item.sequence] = item.hit.decode()
            if len(self.failures) > KEPT_FAILURES:
                del self.failures[next(iter(self.failures))]


class EncodedItemsReader:
    """Reads the rows of the current generation, in their order; for one thread at a time.

    Args:
        folder: of the bundle's encoded items.
        origin: that they must have; None for any.

    Attributes:
        generation: of the file.
        last_id: of the last row that was read.

    Raises:
        EncodedItemsDamaged: the file is damaged, or belongs to something else.
        OSError: there is none yet, or it cannot be read now.
    """

    def __init__(self, folder: Path, origin: EncodedOrigin | None) -> None:
        self._folder, self._origin = folder, origin
        self.generation = latest_generation(folder)
        if not self.generation:
            raise FileNotFoundError(f"{folder}: no items have been encoded yet")
        self.last_id = 0
        self._data_version, self._is_behind = -1, True
        self._path = _database(folder, self.generation)
        with _errors(self._path):
            self._connection = _connect(self._path, "ro")
        self.state()

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self._connection.close()

    @property
    def has_more(self) -> bool:
        """Whether `read` may return rows, or a higher sequence, now; errors as of `read`."""
        with _errors(self._path):
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._data_version:
            self._data_version, self._is_behind = version, True
        return self._is_behind

    @property
    def is_superseded(self) -> bool:
        """Whether there is another generation."""
        return latest_generation(self._folder) not in (0, self.generation)

    def remove(self) -> None:
        """Have the process that writes begin another file."""
        remove(self._path)

    def state(self) -> EncodedState:
        """The state of the file now; errors as of `read`."""
        with _errors(self._path):
            return EncodedState.read(self._connection, self._origin)

    def read(self) -> tuple[list[EncodedItem], int | None]:
        """The next rows, at most `MOST_ROWS`.

        Returns:
            The items, and the sequence up to which all changes have been read with them; None where more rows
            are needed to know that.

        Raises:
            EncodedItemsDamaged: the file is damaged, or a row is missing.
            OSError: the file cannot be read now.
        """
        with _errors(self._path):
            with self._connection:
                self._connection.execute("BEGIN")  # so the state and the rows are of one moment
                state = self.state()
                rows = self._connection.execute(READ, (self.last_id, MOST_ROWS)).fetchall()
            items = [_item(row, row_id) for row_id, row in enumerate(rows, self.last_id + 1)]
        self.last_id += len(items)
        if self.last_id != state.last_id:
            if len(items) < MOST_ROWS:
                raise EncodedItemsDamaged(f"{self._path}: row {self.last_id + 1} is missing")
            return items, None
        self._is_behind = False
        return items, state.sequence


def origin_of(manifest: Manifest, store_id: str) -> EncodedOrigin:
    """The origin of the items that a bundle encodes for a store."""
    known = manifest.catalogue
    start = known.sequence if known is not None and known.store == store_id else 0
    return EncodedOrigin(manifest.bundle_version, store_id, manifest.dimension, start)


def folder_of(place: Path, origin: EncodedOrigin) -> Path:
    """The folder of a bundle's encoded items, below the folder of all live items."""
    return place / origin.store_id / origin.bundle_version


def graph_path(folder: Path, generation: int) -> Path:
    """Where the graph over a generation of encoded items is."""
    return folder / f"{generation}{GRAPH_SUFFIX}"


def latest_generation(folder: Path) -> int:
    """The current generation in a bundle's folder; 0 if there is none."""
    return max((int(each.stem) for each in folder.glob(f"[0-9]*{SUFFIX}")), default=0)


def position_of(folder: Path) -> Position | None:
    """The position in a store's history that no row of a bundle is beyond; another process may write it.

    Returns:
        None if it is damaged, or there is no file in the format of this module.
    """
    try:
        return EncodedItemsReader(folder, None).state().position
    except (TwinspireError, OSError):
        return None


def remove(path: Path) -> None:
    """Remove a damaged file, so that another one begins."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.error("%s: is damaged, and cannot be removed: %s", path, error)


def _database(folder: Path, generation: int) -> Path:
    return folder / f"{generation}{SUFFIX}"


def _rows(items: Iterable[EncodedItem], first_id: int) -> Iterator[tuple[Any, ...]]:
    return ((row_id, *each) for row_id, each in enumerate(items, first_id))


def _item(row: Sequence[Any], expected_id: int) -> EncodedItem:
    """The item of a row.

    Raises:
        ValueError: it is another row.
    """
    row_id, sequence, item_id, kind, hit, values, vector, terms = row
    if row_id != expected_id:
        raise ValueError(f"row {expected_id} is missing")
    return EncodedItem(sequence, item_id, EncodedKind(kind), hit, values, vector, terms)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection to a file that exists; several threads may use it in turn."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Raises SQLite's errors, and those of rows, as `EncodedItemsDamaged` or `OSError`."""
    try:
        yield
    except (sqlite3.Error, ValueError) as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)  # a text not in UTF-8 has none
        if code & 0xFF in DAMAGED:
            raise EncodedItemsDamaged(f"{path}: {error}") from error
        raise OSError(errno.EIO, str(error), str(path)) from error
