"""An item as a bundle has encoded it: one change of a growing segment."""

from enum import IntEnum
from typing import NamedTuple

from protos.errors import TwinspireError


class EncodedKind(IntEnum):
    """What has become of an item."""

    ITEM = 0
    DELETED = 1
    FAILED = 2  # the item tower could not encode it, so no search may find it or its earlier version
    SAME = 3  # an item with the vector and the terms of its earlier row, such as one whose price has changed


class EncodedItem(NamedTuple):
    """The latest state of an item, as a bundle sees it.

    Args:
        kind: what has become of it.
        hit: the item's part of an answer (`packed_items.packed_hit`); of a failed item, the reason.
        values: what filters need, as JSON; empty if there is nothing.
        vector: float32 (D,) as bytes; empty if there is none.
        terms: of a hybrid bundle, numbers of the terms of its text, int32 (T,), and what each adds to its
            lexical score, float32 (T,), as bytes.
    """

    sequence: int
    item_id: str
    kind: EncodedKind = EncodedKind.ITEM
    hit: bytes = b""
    values: bytes = b""
    vector: bytes = b""
    terms: bytes = b""


class EncodedItemsDamaged(TwinspireError):
    """Encoded items cannot be applied, or their file is damaged or belongs to something else."""
