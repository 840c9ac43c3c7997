"""The feed of changes of a store of items, from which bundles are built, and items encoded.

The feed has the latest change of each item, in the order of their sequences: an item that changes again moves
to its end. A reader that has applied all changes up to a sequence asks for those after it.
"""

from collections.abc import Mapping
from typing import NamedTuple

from twinspire.serving.retrieval.query import Value


class Change(NamedTuple):
    """The latest state of an item that was written or deleted.

    Args:
        sequence: of the item's last change; a later change has a higher one.
        item_id: of the item.
        deleted: whether the last change was a delete; features and fields are then empty.
        features: feature of the item tower, or filter field -> raw value; None where it is absent.
        fields: display field -> text.
        written_at: Unix seconds, by the clock of the host that wrote it.
    """

    sequence: int
    item_id: str
    deleted: bool
    features: Mapping[str, Value | None]
    fields: Mapping[str, str]
    written_at: float = 0.0


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
