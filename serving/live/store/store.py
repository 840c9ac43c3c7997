"""The store of live items: SQL through SQLAlchemy Core, on SQLite or PostgreSQL.

    store = Store.open("sqlite:///items.db")
    (outcome,) = store.write([WriteRequest([ItemWrite("a", features='{"title": "a lamp"}')])])
    store.page(after=0, limit=100)

A row holds the latest state of an item, and a delete stays as a row without content. So `page` reads a feed
that is compact at all times. Each write gets the next number of the store's sequence, and so does each
remembered request that has written nothing. A transaction locks the row with the sequence first, so numbers
are given in the order of the commits, whatever the number of hosts; a reader that sees a number sees all
lower ones.

Each commit draws a random mark and keeps it with the last sequence that it has written. A copy of a store has
the marks of the commits before it was made, and other ones of later commits. So a store that has a position
(sequence and mark) has all of the history up to there, and one that was restored from a copy is recognised,
even if it was written to until its sequence was the same again.

A commit is durable: SQLite keeps a write-ahead log and flushes it in each commit (synchronous=FULL), and
PostgreSQL commits synchronously whatever its default is. No clock decides which write is newer, so clocks may
be set back.
"""

import json
import logging
import math
import secrets
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from twinspire.protos.catalogue_pb2 import WriteResponse
from twinspire.protos.errors import InvalidInput, Overloaded, TwinspireError, Unavailable
from twinspire.serving.live.store.database import CATALOGUE, Database
from twinspire.serving.live.store.records import (
    START,
    CatalogueBounds,
    Change,
    Decisions,
    FeedPage,
    ItemVersion,
    Position,
    WriteRequest,
    answer_to_json,
    repeated_answer,
)

log = logging.getLogger(__name__)

PARTS = 500  # ids in one query
KEEP_SECONDS = 24 * 3600.0  # for which the answer to a request id is kept
MAX_WRITES = 10_000_000  # later writes of items, after which it is forgotten, however new
PRUNE_EVERY = 1000  # commits
REFRESH = "make refresh builds a bundle that holds them"
RETRY_SECONDS = 1.0
KEEP_MARKS = 1_000_000  # newest changes whose marks are kept; older positions cannot be checked
SCHEMA_VERSION = 1

TABLES = sa.MetaData()
META = sa.Table(
    "twinspire_meta",
    TABLES,
    sa.Column("one", sa.Integer, primary_key=True),  # 1: there is one row
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("store_id", sa.String(36), nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("bounds", sa.Text, nullable=False),
    sa.Column("mark", sa.BigInteger, nullable=False, server_default="0"),  # of the sequence
)
HISTORY = sa.Table(
    "twinspire_history",
    TABLES,
    sa.Column(
        "sequence",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("mark", sa.BigInteger, nullable=False),
)
ITEMS = sa.Table(
    "twinspire_items",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False, unique=True),
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("features", sa.Text, nullable=False),
    sa.Column("fields", sa.Text, nullable=False),
    sa.Column("written_at", sa.Float(53), nullable=False),
)
REQUESTS = sa.Table(
    "twinspire_requests",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False, index=True),
    sa.Column("written_at", sa.Float(53), nullable=False),
)

# Made once: making a statement takes longer than running it.
_META = sa.select(META)
_LOCK = _META.with_for_update()
_ADVANCE, _MARK = sa.update(META), sa.insert(HISTORY)
_CHANGED = sa.select(ITEMS).where(ITEMS.c.sequence > sa.bindparam("after")).order_by(ITEMS.c.sequence)
_PAGE = _CHANGED.limit(sa.bindparam("limit"))
_CONTENT = ("sequence", "deleted", "features", "fields", "written_at")


class StoreRolledBack(Unavailable):
    """The database holds another store or history than before; what was written may be lost."""


class Store:
    """The items of one store. For one thread at a time, and not to be used across a fork.

    Made by `Store.open`.

    Attributes:
        store_id: identifies the store.
        bounds: as the store held them at the last commit.
        written: where the history ended after the last `write`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._commits = 0
        # The rows that changed after a snapshot, and the sequence and the snapshot that they were counted at.
        self._counted: tuple[tuple[int, int | None], int] = ((-1, None), 0)
        self._upsert = _upsert(database.dialect)
        self.written = START
        self.store_id = ""
        self.bounds = CatalogueBounds()

    @classmethod
    def open(
        cls,
        url: str,
        bounds: Mapping[str, int] | None = None,
        check: bool = False,
        create: bool = True,
    ) -> "Store":
        """Open a store.

        Args:
            url: `sqlite:///path` or `postgresql://user@host/database`.
            bounds: new values of bounds, by name, for all services that share the store; the other bounds
                keep their values.
            check: whether to look for damage in a file of SQLite, which reads all of it.
            create: whether to make a store if there is none.

        Raises:
            ConfigError: the URL is not one of these, the database is not a store or is damaged, or the driver
                is not installed.
            Unavailable: the database does not answer, or there is no store and none is to be made.
            ValueError: a bound is below 1.
        """
        store = cls(Database(url, CATALOGUE, create))
        store._database.prepare(lambda connection: store._make(connection, bounds or {}), check)
        return store

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def position(self, known: Position = START, store_id: str = "") -> Position:
        """Where the history of the store ends, `START` if nothing was ever written.

        Args:
            known: a position that the store has had.
            store_id: that the store had; by default that with which it was opened.

        Raises:
            StoreRolledBack: it is another store, or was never there.
            Unavailable: the store cannot be read now.
        """
        with self._database.reading() as connection:
            meta = connection.execute(_META).one()
            return require_same_history(connection, meta, store_id or self.store_id, known)

    def sequence(self) -> int:
        """The highest sequence of the store, 0 if nothing was ever written; errors as of `position`."""
        return self.position().sequence

    def was_at(self, position: Position) -> bool | None:
        """Whether the store has been at a position; None if that is not known, as of old positions.

        Args:
            position: one with mark 0 has no known mark; only its sequence is compared.

        Raises:
            Unavailable: the store cannot be read now.
        """
        with self._database.reading() as connection:
            return was_at(connection, position)

    def assign_new_id(self) -> None:
        """Give the store a new id, as it is due to one that was restored from a copy.

        What was encoded of it, or read of its changes, is of another store then. If another process has
        done so since it was opened, the id is that one's.

        Raises:
            Unavailable: the store cannot be written now.
        """
        with self._database.writing() as connection:
            meta = connection.execute(_LOCK).one()
            if meta.store_id == self.store_id:
                self.store_id = str(uuid.uuid4())
                connection.execute(sa.update(META).values(store_id=self.store_id))
            else:
                self.store_id = meta.store_id

    def page(self, after: int, limit: int, known: Position = START) -> FeedPage:
        """The changes with a higher sequence than `after`, at most `limit`.

        Args:
            known: a position that the store has had.

        Raises:
            StoreRolledBack: it was never there.
            Unavailable: the store cannot be read now.
        """
        with self._database.one_state() as connection:
            meta = connection.execute(_META).one()
            position = require_same_history(connection, meta, self.store_id, known)
            rows = connection.execute(_PAGE, {"after": after, "limit": limit})
            return FeedPage(position, [*map(_change, rows)])

    def get(self, ids: Sequence[str]) -> dict[str, Change]:
        """The items of these ids that the store holds, deleted ones included.

        Raises:
            Unavailable: the store cannot be read now.
        """
        with self._database.reading() as connection:
            rows = _by_id(connection, sa.select(ITEMS), ids)
            return {row.id: _change(row) for row in rows}

    @contextmanager
    def snapshot(self, after: int = 0) -> Iterator[tuple[Position, Iterator[Change]]]:
        """One state of the store: its position, and the changes after another one, lowest first.

        Writes meanwhile are possible, and are not in it.

        Raises:
            Unavailable: the store cannot be read now.
        """
        with self._database.one_state() as connection:
            position = read_position(connection)
            rows = connection.execution_options(yield_per=PARTS).execute(_CHANGED, {"after": after})
            yield position, map(_change, rows)

    def compact(self) -> int:
        """Forget answers to old requests, and shorten SQLite's log; returns how many answers were forgotten.

        The log stays as long as it is while another process reads the store.

        Items and deletes stay: a bundle that was built before may be served again, and needs them.

        Raises:
            Unavailable: the store cannot be written now.
        """
        with self._database.writing() as connection:
            forgotten = _prune(connection, time.time())
        self._database.shorten_log()
        return forgotten

    def count(self, after: int = 0) -> tuple[int, int]:
        """Items, and deletes, that changed after a sequence.

        Raises:
            Unavailable: the store cannot be read now.
        """
        query = (
            sa.select(ITEMS.c.deleted, sa.func.count())
            .where(ITEMS.c.sequence > after)
            .group_by(ITEMS.c.deleted)
        )
        with self._database.reading() as connection:
            found = {bool(deleted): int(count) for deleted, count in connection.execute(query)}
        return found.get(False, 0), found.get(True, 0)

    def write(
        self, requests: Sequence[WriteRequest], base: int | None = 0, known: Position = START
    ) -> list[WriteResponse | TwinspireError]:
        """Carry out requests in order, in one transaction; when this returns, it is durable.

        Args:
            requests: to carry out.
            base: sequence of the snapshot from which the champion was built; what changed since counts as its
                overlay. None while that is not known: then the overlay may have any size.
            known: a position that the store has had.

        Returns:
            For each request its outcome, or the error for which nothing of it was written.

        Raises:
            StoreRolledBack: it is another store than the one that was opened, or was never at `known`: it was
                restored from a copy, or another server has taken over; nothing was written.
            Unavailable: the store could not be written. Usually nothing is written then; if the connection
                broke in the commit, that is not known.
        """
        now = time.time()
        with self._database.writing() as connection:
            meta = connection.execute(_LOCK).one()
            written = require_same_history(connection, meta, self.store_id, known)
            self.bounds = CatalogueBounds(**json.loads(meta.bounds))
            (counted_at, overlay), self._counted = self._counted, ((-1, None), 0)
            if counted_at != (meta.sequence, base):  # another process has written, or the champion changed
                overlay = _overlay(connection, base)
            decisions = Decisions(meta.sequence, _versions(connection, requests), base, overlay)
            outcomes, new = self._outcomes(requests, decisions, _known_requests(connection, requests))
            self._save(connection, decisions, new, now)
            if decisions.sequence != meta.sequence:
                written = Position(decisions.sequence, 1 + secrets.randbits(62))
                connection.execute(_ADVANCE, written._asdict())
                connection.execute(_MARK, written._asdict())
            self._commits += 1
            if self._commits % PRUNE_EVERY == 1:
                _prune(connection, now)
        self.written, self._counted = written, ((decisions.sequence, base), decisions.overlay)
        return outcomes

    def _outcomes(
        self, requests: Sequence[WriteRequest], decisions: Decisions, answered: dict[str, tuple[str, str]]
    ) -> tuple[list[WriteResponse | TwinspireError], list[dict[str, Any]]]:
        """What becomes of each request; and what to remember of those with an id, as rows of `REQUESTS`."""
        outcomes: list[WriteResponse | TwinspireError] = []
        new = []
        for request in requests:
            previous = decisions.sequence
            outcome = self._outcome(request, decisions, answered)
            outcomes.append(outcome)
            if request.request_id and isinstance(outcome, WriteResponse) and not outcome.repeated_request:
                if outcome.sequence == previous:  # so that this answer becomes old as the others do
                    decisions.sequence += 1
                answer = answer_to_json(outcome)
                answered[request.request_id] = request.digest, answer
                new.append({"id": request.request_id, "digest": request.digest, "answer": answer})
        return outcomes, new

    def _outcome(
        self, request: WriteRequest, decisions: Decisions, known: Mapping[str, tuple[str, str]]
    ) -> WriteResponse | TwinspireError:
        if request.request_id in known:  # before the deadline: "nothing was written" would be wrong
            digest, answer = known[request.request_id]
            if digest != request.digest:
                return InvalidInput("request_id", "another request was sent with this id before")
            return repeated_answer(answer)
        # With the lock: all later commits, also of other hosts, come after this moment.
        if request.deadline <= time.monotonic():
            return Unavailable("the caller's deadline has passed, so nothing was written")
        more, most = decisions.bounded_rows(request.items), self.bounds.max_overlay
        if more and decisions.overlay + more > most:
            return Overloaded(
                f"the bundle was built without {decisions.overlay} changes of the catalogue, and may miss "
                f"{most} at most; refresh the bundle: {REFRESH}",
                math.inf,
            )
        return decisions.decide(request)

    def _save(
        self, connection: Connection, decisions: Decisions, new: Sequence[dict[str, Any]], now: float
    ) -> None:
        rows = [
            {
                "id": item.item_id,
                "sequence": sequence,
                "deleted": item.deleted,
                "features": item.features,
                "fields": item.fields,
                "written_at": now,
            }
            for sequence, item in decisions.written.values()
        ]
        if rows:
            connection.execute(self._upsert, rows)
        if new:
            common = {"sequence": decisions.sequence, "written_at": now}
            connection.execute(sa.insert(REQUESTS), [each | common for each in new])

    def _make(self, connection: Connection, bounds: Mapping[str, int]) -> None:
        """Create missing tables, and read the store's id and bounds."""
        if not sa.inspect(connection).has_table(META.name):
            TABLES.create_all(connection)
            first = {
                "one": 1,
                "schema_version": SCHEMA_VERSION,
                "store_id": str(uuid.uuid4()),
                "sequence": 0,
                "bounds": json.dumps(asdict(CatalogueBounds())),
            }
            connection.execute(sa.insert(META), [first])
        meta = connection.execute(_LOCK).one()
        self._database.check_version(meta.schema_version, SCHEMA_VERSION)
        self.store_id = meta.store_id
        held = CatalogueBounds(**json.loads(meta.bounds))
        self.bounds = replace(held, **bounds)
        if self.bounds != held:
            connection.execute(sa.update(META).values(bounds=json.dumps(asdict(self.bounds))))


def read_position(connection: Connection) -> Position:
    """Where the history of the store ends."""
    return Position(*connection.execute(sa.select(META.c.sequence, META.c.mark)).one())


def was_at(connection: Connection, position: Position) -> bool | None:
    """Whether the store has been at a position; None if the mark of that position is no longer kept.

    Args:
        position: with a mark of 0, which is unknown, only its sequence is checked.
    """
    if position.sequence > read_position(connection).sequence:
        return False
    mark = sa.select(HISTORY.c.mark).where(HISTORY.c.sequence == position.sequence)
    if position == START or connection.execute(mark).scalar() == position.mark:
        return True
    first = connection.execute(sa.select(sa.func.min(HISTORY.c.sequence))).scalar()
    return False if position.mark and first is not None and position.sequence >= first else None


def require_same_history(connection: Connection, meta: Any, store_id: str, known: Position) -> Position:
    """Refuse another store or history than before: what was encoded of both would be mixed.

    Args:
        meta: the row of `META`.
        store_id: of the store that was used before.
        known: a position that it has had.

    Returns:
        Where the history of the store ends.

    Raises:
        StoreRolledBack: it is another store, or has never been there.
    """
    if meta.store_id != store_id:
        raise StoreRolledBack("the catalogue's URL leads to another store than before; restart the service")
    position = Position(meta.sequence, meta.mark)
    if position != known and not was_at(connection, known):
        raise StoreRolledBack(
            f"the catalogue's store has another history than before up to sequence {known.sequence}; if it "
            "was restored from a copy, or another server has taken over, restart the service"
        )
    return position


def _overlay(connection: Connection, base: int | None) -> int:
    """The number of rows that changed after the champion's snapshot; 0 while that is not known."""
    if base is None:
        return 0
    query = sa.select(sa.func.count()).where(ITEMS.c.sequence > base)
    return int(connection.execute(query).scalar_one())


def _versions(connection: Connection, requests: Sequence[WriteRequest]) -> dict[str, ItemVersion]:
    ids = {item.item_id for request in requests for item in request.items}
    query = sa.select(ITEMS.c.id, ITEMS.c.sequence, ITEMS.c.deleted)
    return {row.id: ItemVersion(row.sequence, row.deleted) for row in _by_id(connection, query, [*ids])}


def _known_requests(connection: Connection, requests: Sequence[WriteRequest]) -> dict[str, tuple[str, str]]:
    """Request id -> digest and answer, of those that were carried out before."""
    ids = [request.request_id for request in requests if request.request_id]
    query = sa.select(REQUESTS.c.id, REQUESTS.c.digest, REQUESTS.c.answer)
    return {row.id: (row.digest, row.answer) for row in _by_id(connection, query, ids)}


def _by_id(connection: Connection, query: sa.Select[Any], ids: Sequence[str]) -> Iterator[Any]:
    """The rows of a query whose first column has one of the ids."""
    column = query.selected_columns[0]
    for start in range(0, len(ids), PARTS):
        yield from connection.execute(query.where(column.in_(ids[start : start + PARTS])))


def _prune(connection: Connection, now: float) -> int:
    """Forget old marks, and request ids that are old by the clock or by the number of later writes.

    Returns:
        Number of forgotten request ids.
    """
    end = sa.select(META.c.sequence).scalar_subquery()
    connection.execute(sa.delete(HISTORY).where(HISTORY.c.sequence < end - KEEP_MARKS))
    is_old = (REQUESTS.c.written_at < now - KEEP_SECONDS) | (REQUESTS.c.sequence < end - MAX_WRITES)
    return int(connection.execute(sa.delete(REQUESTS).where(is_old)).rowcount)


def _upsert(dialect: str) -> sa.Insert:
    """The statement that writes rows of items; made once, because that takes 0.06 ms."""
    statement = sqlite.insert(ITEMS) if dialect == "sqlite" else postgresql.insert(ITEMS)
    changed = {name: statement.excluded[name] for name in _CONTENT}
    return statement.on_conflict_do_update(index_elements=["id"], set_=changed)


def _change(row: Any) -> Change:
    features, fields = json.loads(row.features), json.loads(row.fields)
    return Change(row.sequence, row.id, row.deleted, features, fields, row.written_at)
