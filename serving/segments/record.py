"""One change of a growing segment."""

from enum import IntEnum
from typing import NamedTuple

from protos.errors import TwinspireError


class RecordKind(IntEnum):
    """What has become of an item."""

    ITEM = 0
    DELETED = 1
    FAILED = 2  # the item tower could not encode it, so no search may find it or its earlier version
    SAME = 3  # an item with vector and terms of its earlier record, such as one whose price has changed


class Record(NamedTuple):
    """The latest state of an item, as a bundle sees it.

    Args:
        sequence: of the change.
        item_id: of the item.
        kind: what has become of it.
        hit: the item's part of an answer (`packed_items.packed_hit`); of a failed item, the reason.
        values: what filters need, as JSON; empty if there is nothing.
        vector: float32 (D,) as bytes; empty if there is none.
        terms: of a hybrid bundle, numbers of the terms of its text, int32 (T,), and what each adds to its
            lexical score, float32 (T,), as bytes.
    """

    sequence: int
    item_id: str
    kind: RecordKind = RecordKind.ITEM
    hit: bytes = b""
    values: bytes = b""
    vector: bytes = b""
    terms: bytes = b""


class RecordsDamaged(TwinspireError):
    """Records cannot be applied, or a file of them is not what its header says; the text names the place."""
