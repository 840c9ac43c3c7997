"""The feed of changes of a store of items, from which records and bundles are derived."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from serving.retrieval.query import Value


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


class ChangeFeed(Protocol):
    """Gives the latest change of each item of a store, in the order of their sequences.

    An item that changes again moves to the end of the feed, so a feed has one entry for each item. A reader
    that has applied all changes up to a sequence asks for those after it.
    """

    @property
    def store_id(self) -> str:
        """Identifies the store; a sequence means nothing in another store."""

    def sequence(self) -> int:
        """The highest sequence of the store, 0 if nothing was ever written.

        Raises:
            Unavailable: the store cannot be read now.
        """

    def sequence_of(self, item_id: str) -> int:
        """The sequence of an item's last change, 0 if the store has none.

        Raises:
            Unavailable: the store cannot be read now.
        """

    def changes(self, after: int, limit: int) -> list[Change]:
        """The changes with a higher sequence than `after`, lowest first, at most `limit`.

        Raises:
            Unavailable: the store cannot be read now.
        """


def holds(feed: ChangeFeed, item_id: str, sequence: int) -> bool:
    """Whether a store has made a change; not so if it was restored to an earlier state and written to since.

    A later change of the same item hides an earlier one. Then the store shows only that no other item has
    that sequence.

    Args:
        feed: of the store.
        item_id: of the change.
        sequence: of the change.

    Raises:
        Unavailable: the store cannot be read now.
    """
    last = feed.sequence_of(item_id)
    if last <= sequence:
        return last == sequence
    return all(each.sequence != sequence for each in feed.changes(sequence - 1, 1))
