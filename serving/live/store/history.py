"""The tables of a store, and its history: where it ends, and whether it is that of before.

Each commit draws a random mark and keeps it with the last sequence that it has written. A copy of a store has
the marks of the commits before it was made, and other ones of later commits. So a store that has a position
(sequence and mark) has all of the history up to there, and one that was restored from a copy is recognised,
even if it was written to until its sequence was the same again.
"""

import secrets
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from twinspire.protos.errors import Unavailable
from twinspire.serving.live.store.changes import START, Position

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
_LOCK = sa.select(META).with_for_update()
_ADVANCE = sa.update(META).values(sequence=sa.bindparam("to"), mark=sa.bindparam("with"))
_MARK = sa.insert(HISTORY)


class StoreRolledBack(Unavailable):
    """The database holds another store or history than before; what was written may be lost."""


def locked_meta(connection: Connection) -> Any:
    """The row of `META`; no other transaction writes until this one has ended."""
    return connection.execute(_LOCK).one_or_none()


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


def advance(connection: Connection, sequence: int) -> Position:
    """Raise the sequence of the store; returns the new position."""
    position = Position(sequence, 1 + secrets.randbits(62))
    connection.execute(_ADVANCE, {"to": position.sequence, "with": position.mark})
    connection.execute(_MARK, {"sequence": position.sequence, "mark": position.mark})
    return position


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
