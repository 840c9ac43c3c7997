"""Queries with a user: their events are read, and make a part of the query before it is encoded.

The events in SQLite are read by the event loop, about 50 in 50 us; pages that a worker has read lately are
its cache. Those in PostgreSQL are read by a thread, and the call is deferred meanwhile. Either way a read
sees all that was acknowledged before it, by whichever worker and host.
"""

import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from twinspire.protos.errors import Overloaded, TwinspireError, Unavailable
from twinspire.serving.engine.call import Deferred
from twinspire.serving.events.store import EventStore
from twinspire.serving.live.store.database import EVENTS, file_of, parsed_url, public_text
from twinspire.serving.retrieval.event_reading import EventReading, EventRow, ResolvedQuery
from twinspire.serving.retrieval.query import Query

CACHE_KIB = 16 << 10  # of SQLite's pages that a worker holds
BUSY_SECONDS = 0.1  # to wait for a lock, which readers of a write-ahead log hardly ever do
MOST_WAITING = 1024  # calls of one worker that wait for PostgreSQL
RETRY_SECONDS = 1.0

LATEST = "SELECT {} FROM twinspire_events WHERE user_key = ? ORDER BY time DESC, arrived DESC LIMIT ?"

Rows = Sequence[EventRow]


class UserHistories:
    """Resolves the users of queries in one worker; for the event loop's thread.

    Args:
        url: of the store, which exists.
        most: of a user's latest events are read.
        call_soon: calls a function soon on that thread; may itself be called on any thread.
    """

    def __init__(self, url: str, most: int, call_soon: Callable[[Callable[[], None]], None]) -> None:
        is_file = parsed_url(url, EVENTS).get_backend_name() == "sqlite"
        self._file = _EventFile(file_of(url)) if is_file else None
        self._url, self._most, self._call_soon = url, most, call_soon
        self._store: EventStore | None = None  # of PostgreSQL; the thread's
        self._thread = ThreadPoolExecutor(1, "events")
        self._waiting = 0

    def stop(self) -> None:
        """End the thread; calls that wait for it get no outcome."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def resolve(
        self,
        queries: Sequence[Query],
        reading: EventReading,
        excludes_history: bool,
        then: Callable[[list[ResolvedQuery]], Any],
    ) -> Any:
        """What `then` makes of the queries without their users: now, or deferred until these have been read.

        Args:
            reading: of the bundle that answers.
            excludes_history: whether to exclude the items of a user's history.

        Raises:
            Unavailable: the store cannot be read now.
            Overloaded: too many calls wait for the store.
        """
        users = [each.user for each in queries]

        def resolved(found: Sequence[Rows]) -> Any:
            pairs = zip(queries, found, strict=True)
            return then([reading.resolved(query, rows, excludes_history) for query, rows in pairs])

        if self._file is not None:
            file, columns = self._file, _columns(reading.reads_times, reading.reads_types)
            return resolved([file.latest(each, self._most, columns) for each in users])
        if self._waiting >= MOST_WAITING:
            raise Overloaded(f"{self._waiting} calls of this worker wait for the events", RETRY_SECONDS)
        self._waiting += 1
        deferred = Deferred()
        self._thread.submit(self._read, users, deferred, resolved)
        return deferred

    def _read(
        self, users: Sequence[str | None], deferred: Deferred, resolved: Callable[[Sequence[Rows]], Any]
    ) -> None:
        """Read the events of users in PostgreSQL; on the thread."""
        found: list[Rows] = []
        failure: TwinspireError | None = None
        try:
            if deferred.is_open:
                self._store = self._store or EventStore.open(self._url, create=False)
                found = [self._store.latest(each, self._most) if each is not None else () for each in users]
        except TwinspireError as error:
            failure = Unavailable(public_text(error, self._url, EVENTS))

        def outcome() -> Any:
            if failure is not None:
                raise failure
            return resolved(found)

        def give() -> None:
            self._waiting -= 1
            deferred.resolve(outcome)

        self._call_soon(give)


class _EventFile:
    """The events in a file of SQLite, as one thread reads them.

    SQLAlchemy would take 100 us for each read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: tuple[sqlite3.Connection, tuple[int, int]] | None = None

    def latest(self, user: str | None, most: int, columns: str) -> Rows:
        """The latest events of a user, the newest first.

        Args:
            columns: those of an `EventRow`.

        Raises:
            Unavailable: the file cannot be read.
        """
        if user is None:
            return ()
        try:
            return self._connection().execute(LATEST.format(columns), (user, most)).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"the store of events cannot be read now: {_reason(error)}") from None

    def _connection(self) -> sqlite3.Connection:
        """A connection to the file that is there now; it may have been replaced by a copy."""
        found = os.stat(self._path)  # noqa: PTH116 - twice as fast
        file = found.st_dev, found.st_ino
        if self._opened is None or self._opened[1] != file:
            connection = sqlite3.connect(
                f"{self._path.as_uri()}?mode=ro", BUSY_SECONDS, isolation_level=None, uri=True
            )
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            self._opened = connection, file
        return self._opened[0]


def _columns(needs_times: bool, needs_types: bool) -> str:
    """Those of an `EventRow`, which take half of the time if times and types are not needed."""
    return f"item_id, {'time' if needs_times else 'NULL'}, {'type, value' if needs_types else 'NULL, NULL'}"


def _reason(error: Exception) -> str:
    """What went wrong, without the path."""
    return (error.strerror or "no such file") if isinstance(error, OSError) else str(error)
