"""Queries with a user: their events are read, and make a part of the query before it is encoded.

The events in SQLite are read by the event loop, about 50 in 50 us; pages that a worker has read lately are
its cache. Those in PostgreSQL are read by a thread in about 100 us, for which the event loop waits, because
its thread would wake up 1 to 2 ms later for a deferred call. A call is deferred if its read takes longer than
`WAIT_SECONDS`, or waits for another one. Either way a read sees all that was acknowledged before it, by
whichever worker and host.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from twinspire.protos.errors import Overloaded, TwinspireError, Unavailable
from twinspire.serving.engine.call import Deferred
from twinspire.serving.live.store.database import EVENTS, Database, driver_reason, file_of
from twinspire.serving.retrieval.event_reading import EventReading, EventRow, ResolvedQuery
from twinspire.serving.retrieval.query import Query

CACHE_KIB = 16 << 10  # of SQLite's pages that a worker holds
BUSY_MILLISECONDS = 100  # to wait for a lock, which readers of a write-ahead log hardly ever do
WAIT_SECONDS = 0.001  # for PostgreSQL, before a call is deferred
MOST_WAITING = 1024  # calls of one worker that wait for PostgreSQL
RETRY_SECONDS = 1.0
MOST_REPEATS = 10  # ids of items shown that are read for each that may be excluded

LATEST = "SELECT {1} FROM twinspire_events WHERE user_key = {0} ORDER BY time DESC, arrived DESC LIMIT {0}"
SHOWN = (
    "SELECT item_ids FROM twinspire_shown WHERE user_key = {0} AND shown >= {0} ORDER BY shown DESC LIMIT {0}"
)
COLUMNS = "item_id, time, type, value"  # of an `EventRow`
ALL_COLUMNS = "item_id, type, value, time, request_id, position"
UNREADABLE = "the store of events cannot be read now"

Rows = Sequence[EventRow]
Stored = tuple[Rows, Sequence[str]]  # of a user: the events, and the ids of the items shown


class UserHistories:
    """Resolves the users of queries in one worker; for the event loop's thread.

    Args:
        url: of the store, which exists.
        most: of a user's latest events are read.
        most_shown: items that were shown to a user last are excluded, at most.
        call_soon: calls a function soon on that thread; may itself be called on any thread.
    """

    def __init__(
        self, url: str, most: int, most_shown: int, call_soon: Callable[[Callable[[], None]], None]
    ) -> None:
        self._table = EventTable(url)
        self._most, self._most_shown, self._call_soon = most, most_shown, call_soon
        self._thread = ThreadPoolExecutor(1, "events")
        self._waiting = 0

    def stop(self) -> None:
        """End the thread, and close the connection; calls that wait for it get no outcome."""
        self._thread.shutdown(cancel_futures=True)
        self._table.close()

    def resolve(
        self,
        queries: Sequence[Query],
        reading: EventReading,
        excludes_history: bool,
        exclude_shown: int,
        then: Callable[[list[ResolvedQuery]], Any],
    ) -> Any:
        """What `then` makes of the queries without their users: now, or deferred until these have been read.

        Args:
            reading: of the bundle that answers.
            excludes_history: whether to exclude the items of a user's history.
            exclude_shown: seconds for which items that a user was shown are excluded.

        Raises:
            Unavailable: the store cannot be read now.
            Overloaded: too many calls wait for the store.
        """
        columns = _columns(reading.reads_times, reading.reads_types)

        def read_one(user: str) -> Stored:
            shown = self._shown(user, exclude_shown) if exclude_shown else ()
            return self._table.latest(user, self._most, columns), shown

        def read(deferred: Deferred) -> list[Stored]:
            asked = (each.user if deferred.is_open else None for each in queries)
            return [read_one(each) if each else ((), ()) for each in asked]

        def resolved(found: Sequence[Stored]) -> Any:
            made = []
            for query, (rows, shown) in zip(queries, found, strict=True):
                one = reading.resolved(query, rows, excludes_history)
                made.append(one._replace(excluded=(*one.excluded, *shown)) if shown else one)
            return then(made)

        return self._answer(read, resolved)

    def latest(self, user: str, most: int, then: Callable[[Sequence[Any]], Any]) -> Any:
        """What `then` makes of the latest events of a user: now, or deferred; errors as of `resolve`.

        Args:
            most: rows, the newest first; each has the fields of an event but its user, in their order.
        """
        return self._answer(lambda _: self._table.latest(user, most, ALL_COLUMNS), then)

    def _answer(self, read: Callable[[Deferred], Any], then: Callable[[Any], Any]) -> Any:
        deferred = Deferred()
        if self._table.is_file:
            return then(read(deferred))
        if self._waiting >= MOST_WAITING:
            raise Overloaded(f"{self._waiting} calls of this worker wait for the events", RETRY_SECONDS)
        future = self._thread.submit(read, deferred)
        if not self._waiting and wait([future], WAIT_SECONDS).done:
            return then(future.result())
        self._waiting += 1

        def give(done: Future[Any]) -> None:
            self._waiting -= 1
            deferred.resolve(lambda: then(done.result()))

        future.add_done_callback(lambda done: self._call_soon(partial(give, done)))  # without a cycle
        return deferred

    def _shown(self, user: str, seconds: int) -> Sequence[str]:
        """Ids of the items that a user was shown in the last seconds, the latest first."""
        since, most = time.time_ns() - seconds * 1_000_000_000, self._most_shown

        def latest(rows: Iterable[tuple[str]]) -> list[str]:
            ids: dict[str, None] = {}
            read = 0
            for (item_ids,) in rows:
                found = json.loads(item_ids)
                ids |= dict.fromkeys(found)
                read += len(found)
                if len(ids) >= most or read >= MOST_REPEATS * most:
                    break
            return [*ids][:most]

        found: list[str] = self._table.rows(SHOWN, user, since, most, take=latest)
        return found


class EventTable:
    """The events of a store, as one thread reads them, past SQLAlchemy, which would take 100 us more.

    Args:
        url: of the store.

    Attributes:
        is_file: whether the store is in SQLite.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url, EVENTS)
        self.is_file = self._database.dialect == "sqlite"
        self._path = file_of(url, EVENTS) if self.is_file else Path()
        self._opened: Any = None
        self._file = (0, 0)  # device and number of the file that is open

    def latest(self, user: str, most: int, columns: str = COLUMNS) -> Rows:
        """The latest events of a user, the newest first.

        Args:
            columns: those of an `EventRow`, or NULL where one is not needed.

        Raises:
            Unavailable: the store cannot be read.
        """
        found: Rows = self.rows(LATEST, user, most, columns=columns)
        return found

    def rows(
        self, statement: str, *values: Any, columns: str = "", take: Callable[[Iterable[Any]], Any] = list
    ) -> Any:
        """What `take` makes of the rows of a statement, by default a list; errors as of `latest`.

        A connection to PostgreSQL that was open before and has broken is opened again.

        Args:
            statement: with `{0}` in the place of each value, and `{1}` in that of `columns`.
            take: need not read all rows.
        """
        was_open = self._opened is not None
        try:
            text = statement.format("?" if self.is_file else "%s", columns)
            with closing(self._connection().execute(text, values)) as rows:
                return take(rows)
        except OSError as error:
            raise Unavailable(f"{UNREADABLE}: {error.strerror or 'no such file'}") from None
        except TwinspireError:
            raise
        except Exception as error:  # of any kind: the connection may be of no use any more
            is_broken = not self.is_file and self._opened.driver_connection.closed
            self._drop()
            if was_open and is_broken:
                return self.rows(statement, *values, columns=columns, take=take)
            raise Unavailable(f"{UNREADABLE}: {driver_reason(error)}") from None

    def close(self) -> None:
        """Close the connection."""
        self._drop()
        self._database.close()

    def _connection(self) -> Any:
        """A connection; of SQLite to the file that is there now, which may have been replaced by a copy."""
        if self.is_file:
            found = os.stat(self._path)  # noqa: PTH116 - twice as fast
            if self._file != (found.st_dev, found.st_ino):
                self._drop()
                self._file = found.st_dev, found.st_ino
        if self._opened is None:
            self._opened = self._database.raw_connection()
            if self.is_file:
                for pragma in (f"cache_size = -{CACHE_KIB}", f"busy_timeout = {BUSY_MILLISECONDS}"):
                    self._opened.driver_connection.execute(f"PRAGMA {pragma}")
        return self._opened.driver_connection

    def _drop(self) -> None:
        if self._opened is not None:
            self._opened.invalidate()
            self._opened = None


def _columns(needs_times: bool, needs_types: bool) -> str:
    """Those of an `EventRow`, which take half of the time if times and types are not needed."""
    return f"item_id, {'time' if needs_times else 'NULL'}, {'type, value' if needs_types else 'NULL, NULL'}"
