"""The feed of changes of a store of items, from which bundles are built, and items encoded."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from twinspire.serving.retrieval.query import Value


class Change(NamedTuple):
    """The latest state of an item that was written or deleted.

    Args:
        sequence: of the item's last change; a later change has a higher one.
        item_id: of the item.
        deleted: whether the last change was a delete; features and fields are then empty.
        features: feature of the item tower, or filter field -> raw value; None where it is absent.
        fields: display field -> text.
    """

    sequence: int
    item_id: str
    deleted: bool
    features: Mapping[str, Value | None]
    fields: Mapping[str, str]


class Position(NamedTuple):
    """A point in the history of a store.

    Two copies of a store that both have been at a position have the same history up to it: the mark was drawn
    in the commit that reached the sequence.

    Args:
        sequence: of the last change.
        mark: a random number.
    """

    sequence: int
    mark: int


START = Position(0, 0)  # of each history


class FeedPage(NamedTuple):
    """Some changes of a store, with the state that they were read from.

    An item may change between two reads, and moves to the end of the feed then. So a page is of one state:
    with the position of another one, it could lack an item that had changed by then.

    Args:
        position: where the history of the store ended.
        changes: lowest sequence first; none is beyond the position.
    """

    position: Position
    changes: list[Change]


class LastWrite(NamedTuple):
    """What the last transaction of a `Store` has made.

    Args:
        before: where the history ended before.
        position: where it ended then.
        changes: all between them, lowest sequence first.
    """

    before: Position
    position: Position
    changes: list[Change]


class ChangeFeed(Protocol):
    """Gives the latest change of each item of a store, in the order of their sequences.

    An item that changes again moves to the end of the feed, so a feed has one entry for each item. A reader
    that has applied all changes up to a sequence asks for those after it.
    """

    @property
    def store_id(self) -> str:
        """Identifies the store; a sequence means nothing in another store."""

    def position(self) -> Position:
        """Where the history of the store ends, `START` if nothing was ever written.

        Raises:
            Unavailable: the store cannot be read now.
        """

    def was_at(self, position: Position) -> bool | None:
        """Whether the store has been at a position; None if that is not known, as of old positions.

        Args:
            position: one with mark 0 has no known mark; only its sequence is compared.

        Raises:
            Unavailable: the store cannot be read now.
        """

    def page(self, after: int, limit: int) -> FeedPage:
        """The changes with a higher sequence than `after`, at most `limit`.

        Raises:
            Unavailable: the store cannot be read now.
        """
