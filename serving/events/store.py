"""The store of events: SQL through SQLAlchemy Core, on SQLite or PostgreSQL.

    store = EventStore.open("sqlite:///events.db")
    store.record([RecordRequest(events=[Event(user="u7", item_id="lamp", type="click")])])
    EventTable("sqlite:///events.db").latest("u7", most=100)

The rows of a user lie together in SQLite, in the order of their times, so that a user's latest events are in
one or two pages of the disk. Rows that one process writes arrive at different nanoseconds. These order the
events of one time, and the oldest rows are deleted by them. Commits are as durable as those of live items.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from twinspire.protos import events_pb2 as wire
from twinspire.protos.errors import ConfigError, InvalidInput, TwinspireError
from twinspire.serving.live.store.database import EVENTS, Database

SCHEMA_VERSION = 1

TABLES = sa.MetaData()
META = sa.Table(
    "twinspire_events_meta",
    TABLES,
    sa.Column("one", sa.Integer, primary_key=True),  # 1: there is one row
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("events", sa.BigInteger, nullable=False),  # their number; counting them would take long
)
ROWS = sa.Table(
    "twinspire_events",
    TABLES,
    sa.Column("user_key", sa.Text, primary_key=True),
    sa.Column("time", sa.Float(53), primary_key=True),  # seconds since 1970
    sa.Column("arrived", sa.BigInteger, primary_key=True, index=True),  # nanoseconds since 1970
    sa.Column("item_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("value", sa.Float(53)),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("position", sa.BigInteger),
    sqlite_with_rowid=False,
)
REQUESTS = sa.Table(
    "twinspire_event_requests",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("arrived", sa.BigInteger, nullable=False, index=True),
)
SHOWN = sa.Table(
    "twinspire_shown",
    TABLES,
    sa.Column("user_key", sa.Text, primary_key=True),
    sa.Column("shown", sa.BigInteger, primary_key=True, index=True),  # nanoseconds since 1970
    sa.Column("item_ids", sa.Text, nullable=False),  # JSON
    sqlite_with_rowid=False,
)
SECOND = 1_000_000_000  # nanoseconds
KEEP_REQUESTS = 24 * 3600 * SECOND  # for which a repeated request is recognised
MOST_DELETED = 10_000  # rows that one transaction deletes, because writes wait for it
EXPORTED = 50_000  # rows that are read at once

_INSERT, _REMEMBER, _SHOW = sa.insert(ROWS), sa.insert(REQUESTS), sa.insert(SHOWN)
_LOCK = sa.select(META).with_for_update()
_COUNT = sa.update(META).values(events=META.c.events + sa.bindparam("more"))


class EventStore:
    """The events of users. For one thread, and not to be used across a fork. Made by `EventStore.open`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last = 0  # when the last row arrived, in nanoseconds

    @classmethod
    def open(cls, url: str, create: bool = True) -> "EventStore":
        """Open a store.

        Args:
            create: whether to make a store if there is none.

        Raises:
            ConfigError, Unavailable: as of `Database` and `Database.prepare`; or there is no store.
        """
        store = cls(Database(url, EVENTS, create))
        store._database.prepare(lambda connection: store._make(connection, create))
        return store

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def record(self, requests: Sequence[wire.RecordRequest]) -> list[wire.RecordResponse | TwinspireError]:
        """Store the events of requests in one transaction; when this returns, it is durable.

        Args:
            requests: with valid events.

        Returns:
            For each request its answer, or the error for which nothing of it was stored.

        Raises:
            Unavailable: nothing was stored; if the connection broke in the commit, that is not known.
        """
        outcomes: list[wire.RecordResponse | TwinspireError] = []
        rows: list[dict[str, Any]] = []
        new: list[dict[str, Any]] = []
        with self._database.writing() as connection:
            connection.execute(_LOCK)  # so no other host stores the same request meanwhile
            known = _known(connection, requests)
            for request in requests:
                if request.request_id:
                    digest = _digest(request)
                    if (before := known.get(request.request_id)) is not None:
                        outcomes.append(_repeated(request, before == digest))
                        continue
                    known[request.request_id] = digest
                    new.append({"id": request.request_id, "digest": digest, "arrived": time.time_ns()})
                rows += map(self._row, request.events)
                outcomes.append(wire.RecordResponse(stored=len(request.events)))
            if rows:
                connection.execute(_INSERT, rows)
                connection.execute(_COUNT, {"more": len(rows)})
            if new:
                connection.execute(_REMEMBER, new)
        return outcomes

    def show(self, answers: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Store which items answers have shown, in one transaction.

        Args:
            answers: users, and the ids of the items that they were shown.

        Raises:
            Unavailable: as `record`.
        """
        rows = [
            {"user_key": user, "shown": self._arrival(), "item_ids": json.dumps(ids)} for user, ids in answers
        ]
        with self._database.writing() as connection:
            connection.execute(_SHOW, rows)

    def prune(self, days: float, most: int, shown_hours: float = 0) -> int:
        """Delete the oldest rows of each kind, about `MOST_DELETED` of each at once; returns their number.

        Args:
            days: events that were recorded before are deleted.
            most: of all events, as many stay.
            shown_hours: items that were shown before are deleted; 0 deletes none.

        Raises:
            Unavailable: the store cannot be written now.
        """
        now = time.time_ns()
        oldest = sa.select(ROWS.c.arrived).order_by(ROWS.c.arrived).limit(1)
        old = sa.select(REQUESTS.c.id).where(REQUESTS.c.arrived < now - KEEP_REQUESTS)
        old = old.order_by(REQUESTS.c.arrived).limit(MOST_DELETED)
        earliest = max(0, now - int(shown_hours * 3600 * SECOND))
        hidden = sa.select(SHOWN.c.shown).where(SHOWN.c.shown < earliest)
        hidden = hidden.order_by(SHOWN.c.shown).limit(MOST_DELETED)
        with self._database.writing() as connection:
            excess = connection.execute(_LOCK).one().events - most
            forgotten = int(connection.execute(sa.delete(REQUESTS).where(REQUESTS.c.id.in_(old))).rowcount)
            end = max(0, now - int(days * 24 * 3600 * SECOND))
            if excess > 0:
                last = connection.execute(oldest.offset(min(excess, MOST_DELETED) - 1)).scalar_one()
                end = max(end, last + 1)
            beyond = connection.execute(oldest.offset(MOST_DELETED)).scalar()
            end = end if beyond is None else min(end, beyond)
            if shown_hours > 0:
                forgotten += _delete(connection, SHOWN, SHOWN.c.shown.in_(hidden))
            return _delete(connection, ROWS, ROWS.c.arrived < end) + forgotten

    def delete_user(self, user: str) -> int:
        """Delete all events of a user, about `MOST_DELETED` at once, and what the user was shown.

        Returns:
            The number of events.

        Raises:
            Unavailable: the store cannot be written now; a part of the events may be deleted.
        """
        part = sa.select(ROWS.c.arrived).where(ROWS.c.user_key == user).limit(MOST_DELETED)
        total, deleted = 0, 1
        while deleted:
            with self._database.writing() as connection:
                connection.execute(_LOCK)
                deleted = _delete(connection, ROWS, (ROWS.c.user_key == user) & ROWS.c.arrived.in_(part))
            total += deleted
        with self._database.writing() as connection:
            _delete(connection, SHOWN, SHOWN.c.user_key == user)
        return total

    def shorten_log(self) -> bool:
        """As `Database.shorten_log`."""
        return self._database.shorten_log()

    @contextmanager
    def all(self) -> Iterator[Iterator[Sequence[Any]]]:
        """All events of one moment, in parts, in the order in which they arrived.

        Raises:
            Unavailable: the store cannot be read now.
        """
        with self._database.one_state() as connection:
            rows = connection.execution_options(yield_per=EXPORTED).execute(
                sa.select(ROWS).order_by(ROWS.c.arrived)
            )
            yield rows.partitions()

    def _make(self, connection: Connection, create: bool) -> None:
        if not create and not sa.inspect(connection).has_table(META.name):
            raise ConfigError(f"{self._database.name} is missing in this database")
        TABLES.create_all(connection)  # an earlier program made fewer
        meta = connection.execute(_LOCK).one_or_none()
        if meta is None:
            first = {"one": 1, "schema_version": SCHEMA_VERSION, "events": 0}
            connection.execute(sa.insert(META), first)
        else:
            self._database.check_version(meta.schema_version, SCHEMA_VERSION)

    def _arrival(self) -> int:
        """Now, in nanoseconds since 1970; later than that of any row before."""
        self._last = max(self._last + 1, time.time_ns())
        return self._last

    def _row(self, event: wire.Event) -> dict[str, Any]:
        now = time.time_ns()
        return {
            "user_key": event.user,
            "time": event.time if event.HasField("time") else now / SECOND,
            "arrived": self._arrival(),
            "item_id": event.item_id,
            "type": event.type,
            "value": event.value if event.HasField("value") else None,
            "request_id": event.request_id,
            "position": event.position if event.HasField("position") else None,
        }


def _delete(connection: Connection, table: sa.Table, which: sa.ColumnElement[bool]) -> int:
    """Delete events or items shown, which SQLite overwrites; returns the number of rows."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete = ON")
    deleted = int(connection.execute(sa.delete(table).where(which)).rowcount)
    if table is ROWS:
        connection.execute(_COUNT, {"more": -deleted})
    return deleted


def _known(connection: Connection, requests: Sequence[wire.RecordRequest]) -> dict[str, str]:
    """Request id -> digest, of the requests that were stored before."""
    ids = [each.request_id for each in requests if each.request_id]
    query = sa.select(REQUESTS.c.id, REQUESTS.c.digest).where(REQUESTS.c.id.in_(ids))
    return {row.id: row.digest for row in connection.execute(query)} if ids else {}


def _digest(request: wire.RecordRequest) -> str:
    """Of the content, to recognise another request with the same id."""
    content = request.SerializeToString(deterministic=True)
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _repeated(request: wire.RecordRequest, is_same: bool) -> wire.RecordResponse | TwinspireError:
    if not is_same:
        return InvalidInput("request_id", "another request was sent with this id before")
    return wire.RecordResponse(stored=len(request.events), repeated_request=True)
