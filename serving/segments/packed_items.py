"""The items of a catalogue as parts of answers, serialised once, when a bundle is loaded.

A part is the field `hits` of an answer without its last bytes, which are the item's scores. Parts that are
joined with scores are an answer (`retrieval/response_bytes.py`). They may lie in a mapped file
(`shared_catalogue.py`). A live item has one such part, too: it is a part of an `EncodedItem`.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from mmap import mmap
from typing import NamedTuple, Self

import numpy as np

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import TwinspireError
from twinspire.protos.nearest.scores import PARTS
from twinspire.serving.segments.catalogue import Catalogue

VARINT, LENGTH_DELIMITED, FIXED_32 = 0, 2, 5  # wire types


def tag(message: str, field: str, wire_type: int) -> bytes:
    """The tag of a field: one byte, because all field numbers here are below 16."""
    number = wire.DESCRIPTOR.message_types_by_name[message].fields_by_name[field].number
    return bytes([number << 3 | wire_type])


HITS = tag("SearchResponse", "hits", LENGTH_DELIMITED)  # the same as in HitList
SCORE = tag("Hit", "score", FIXED_32)
DENSE, LEXICAL, PRIOR = [tag("Hit", name, FIXED_32) for name in PARTS]
SCORE_BYTES, PART_BYTES = 4, 5  # bytes of a hit after the item's own: its score, and each part with its tag
pack_score = struct.Struct("<f").pack
_pack_two = struct.Struct("<fcfcf").pack
_pack_three = struct.Struct("<fcfcfcf").pack


class PackedItems:
    """The items of a catalogue, each serialised as a part of an answer.

    Args:
        catalogue: of N items.
        parts: that a hit has, as `score_parts` says.

    Attributes:
        content: the parts of all items, one after the other, each without its scores.
        ends: where each part ends in `content` (N + 1), with a 0 before them.
        average: mean of the bytes of an item in an answer, score included, rounded up.
        largest: bytes of the largest item in an answer, score included.
        score_bytes: bytes of a hit after the item's own part: its scores.
    """

    def __init__(self, catalogue: Catalogue, parts: int = 0) -> None:
        rows = range(len(catalogue))
        hits = [packed_hit(catalogue.item_id(row), catalogue.fields(row), parts) for row in rows]
        self.content: bytes | mmap = b"".join(hits)
        self.ends: Sequence[int] = np.cumsum([0, *map(len, hits)], dtype=np.int64).data
        self._set_sizes(parts)

    @classmethod
    def of(cls, content: bytes | mmap, ends: Sequence[int], parts: int = 0) -> Self:
        """A packed catalogue from the `content` and `ends` of another one."""
        packed = cls.__new__(cls)
        packed.content, packed.ends = content, ends
        packed._set_sizes(parts)
        return packed

    def _set_sizes(self, parts: int) -> None:
        self.parts, self.score_bytes = parts, score_bytes(parts)
        sizes = np.diff(np.asarray(self.ends, np.int64)) + self.score_bytes
        self.average = math.ceil(sizes.mean()) if len(sizes) else 0
        self.largest = int(sizes.max(initial=0))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def hit(self, row: int) -> wire.Hit:
        """An item, without a score."""
        return hit_of(self.content[self.ends[row] : self.ends[row + 1]])


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
        hit: the item's part of an answer (`packed_hit`); of a failed item, the reason.
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


def score_parts(manifest: Manifest) -> int:
    """How many of the `PARTS` the hits of a bundle have."""
    return 0 if manifest.hybrid is None else 3 if manifest.hybrid.prior_weight else 2


def score_bytes(parts: int) -> int:
    """Bytes of a hit after the item's own."""
    return SCORE_BYTES + PART_BYTES * parts


def packed_hit(item_id: str, fields: Mapping[str, str], parts: int = 0) -> bytes:
    """An item as a part of an answer: the field `hits` without its last bytes, which are its scores.

    Args:
        fields: its display fields.
        parts: of the score. If there are any, `pack_parts` follows, and not `pack_score`.
    """
    hit = wire.Hit(id=item_id, fields=fields).SerializeToString()
    return b"".join((HITS, varint(len(hit) + 1 + score_bytes(parts)), hit, SCORE))


def pack_parts(score: float, dense: float, lexical: float, prior: float | None = None) -> bytes:
    """The last bytes of a hit of a bundle with a lexical index."""
    if prior is None:
        return _pack_two(score, DENSE, dense, LEXICAL, lexical)
    return _pack_three(score, DENSE, dense, LEXICAL, lexical, PRIOR, prior)


def hit_of(part: bytes) -> wire.Hit:
    """The item of a part as `packed_hit` makes it, without a score."""
    length, begin = part[1] & 0x7F, 2  # the length stands after the tag, as `varint` writes it
    while part[begin - 1] > 0x7F:
        length |= (part[begin] & 0x7F) << 7 * (begin - 1)
        begin += 1
    parts = (begin + length - len(part) - SCORE_BYTES) // PART_BYTES
    blank = pack_parts(*[0] * (1 + parts)) if parts else pack_score(0)
    hit = wire.SearchResponse.FromString(part + blank).hits[0]
    for name in PARTS:
        hit.ClearField(name)
    return hit


def varint(number: int) -> bytes:
    """A number as protobuf writes lengths: seven bits a byte, the lowest first."""
    if number < 0x4000:  # the usual case: one byte or two
        return bytes((number & 0x7F | 0x80, number >> 7)) if number > 0x7F else bytes((number,))
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
