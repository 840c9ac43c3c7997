"""Answers as protobuf bytes, joined from parts that are serialised once, when a bundle is loaded.

A serialised message is the concatenation of its fields in any order (protobuf encoding, "Last One Wins"). So
the bytes of an answer are those of its hits, each of them the item's own bytes and a score, and the bytes of
the other fields. This takes a third of the time that building messages takes. It also touches no Python
object per item; their reference counts would unshare memory pages between worker processes. The parts may
lie in a mapped file (`shared_catalogue.py`).
"""

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from mmap import mmap
from typing import Any, Self

import numpy as np

from protos import retrieval_pb2 as wire
from serving.filters.plan import Plan
from serving.retrieval.answer import Basis, FusionMode, Timing
from serving.retrieval.catalogue import Catalogue
from serving.retrieval.query import PLAIN, SearchResult

VARINT, LENGTH_DELIMITED, FIXED_32 = 0, 2, 5  # wire types


def _tag(message: str, field: str, wire_type: int) -> bytes:
    """The tag of a field: one byte, because all field numbers here are below 16."""
    number = wire.DESCRIPTOR.message_types_by_name[message].fields_by_name[field].number
    return bytes([number << 3 | wire_type])


HITS = _tag("SearchResponse", "hits", LENGTH_DELIMITED)  # the same as in HitList
SCORE = _tag("Hit", "score", FIXED_32)
VERSION = _tag("SearchResponse", "bundle_version", LENGTH_DELIMITED)  # the same as in SearchBatchResponse
TIMING = _tag("SearchResponse", "timing", LENGTH_DELIMITED)  # likewise
QUEUE, ENCODE, SEARCH = [_tag("Timing", name, VARINT) for name in Timing._fields]
SEQUENCE = _tag("SearchResponse", "sequence", VARINT)
BATCH_SEQUENCE = _tag("SearchBatchResponse", "sequence", VARINT)
RESULTS = _tag("SearchBatchResponse", "results", LENGTH_DELIMITED)
DENSE, LEXICAL = [_tag("Hit", name, FIXED_32) for name in ("dense", "lexical")]
FUSION = _tag("SearchResponse", "fusion", VARINT)
BATCH_FUSION = _tag("HitList", "fusion", VARINT)
SCORE_BYTES = 4  # bytes of a hit after the item's own: the score
PARTS_BYTES = 14  # the same in a bundle with a lexical index: the score, and the two parts with their tags
BASES: dict[Basis, Any] = {Basis[name.removeprefix("BASIS_")]: number for name, number in wire.Basis.items()}
pack_score = struct.Struct("<f").pack
_pack_parts = struct.Struct("<fcfcf").pack
PLANS: dict[Plan, Any] = {Plan[name.removeprefix("PLAN_")]: number for name, number in wire.Plan.items()}
FUSIONS: dict[FusionMode, bytes] = {
    FusionMode[name.removeprefix("FUSION_")]: bytes([number]) for name, number in wire.Fusion.items()
}
UNFILTERED = Plan.UNFILTERED
UNFUSED = FusionMode.DEFAULT


class PackedCatalogue:
    """The items of a catalogue, each serialised as a part of an answer.

    Args:
        catalogue: of N items.
        has_parts: whether a hit has `dense` and `lexical`, as of a bundle with a lexical index.

    Attributes:
        content: the parts of all items, one after the other, each without its scores.
        ends: where each part ends in `content` (N + 1), with a 0 before them.
        average: mean of the bytes of an item in an answer, score included, rounded up.
        score_bytes: bytes of a hit after the item's own part: its scores.
    """

    def __init__(self, catalogue: Catalogue, has_parts: bool = False) -> None:
        ids = enumerate(catalogue.ids)
        parts = [packed_hit(item_id, catalogue.fields(row), has_parts) for row, item_id in ids]
        self.content: bytes | mmap = b"".join(parts)
        self.ends: Sequence[int] = np.cumsum([0, *map(len, parts)], dtype=np.int64).data
        self._set_sizes(has_parts)

    @classmethod
    def of(cls, content: bytes | mmap, ends: Sequence[int], has_parts: bool = False) -> Self:
        """A packed catalogue from the `content` and `ends` of another one."""
        packed = cls.__new__(cls)
        packed.content, packed.ends = content, ends
        packed._set_sizes(has_parts)
        return packed

    def _set_sizes(self, has_parts: bool) -> None:
        self.has_parts, self.score_bytes = has_parts, score_bytes(has_parts)
        self.average, self._largest = _sizes(self.ends, self.score_bytes)

    def __len__(self) -> int:
        return len(self.ends) - 1

    @property
    def largest(self) -> int:
        """Bytes of the largest item in an answer, score included."""
        return self._largest

    def hit(self, row: int) -> wire.Hit:
        """An item, without a score."""
        return hit_of(self.content[self.ends[row] : self.ends[row + 1]])

    def size(self, found: SearchResult) -> int:
        """Bytes of the hits of one query in an answer."""
        ends = self.ends
        return sum([ends[row + 1] - ends[row] for row in found.rows]) + self.score_bytes * len(found.rows)

    def response(self, found: SearchResult, bundle_version: str, timing: Timing, sequence: int = 0) -> bytes:
        """A `SearchResponse`."""
        answer = self._hits(found) + _origin(bundle_version, timing)
        if sequence:
            answer += SEQUENCE + varint(sequence)
        if found.fusion is not UNFUSED:
            answer += FUSION + FUSIONS[found.fusion]
        context = found.context
        if context is not PLAIN or found.plan is not UNFILTERED:  # otherwise all these fields have defaults
            rest = wire.SearchResponse(
                unknown_history=context.unknown_history,
                basis=BASES[context.basis],
                plan=PLANS[found.plan],
            )
            answer += rest.SerializeToString()
        return answer

    def batch_response(
        self, found: Sequence[SearchResult], bundle_version: str, timing: Timing, sequence: int = 0
    ) -> bytes:
        """A `SearchBatchResponse`."""
        parts: list[bytes] = []
        for each in found:
            result = self._hits(each)
            if each.context is not PLAIN or each.plan is not UNFILTERED:  # as in `response`
                context = each.context
                rest = wire.HitList(
                    unknown_history=context.unknown_history,
                    basis=BASES[context.basis],
                    plan=PLANS[each.plan],
                )
                result += rest.SerializeToString()
            if each.fusion is not UNFUSED:
                result += BATCH_FUSION + FUSIONS[each.fusion]
            parts += (RESULTS, varint(len(result)), result)
        if sequence:
            parts += (BATCH_SEQUENCE, varint(sequence))
        return b"".join((*parts, _origin(bundle_version, timing)))

    def _hits(self, found: SearchResult) -> bytes:
        """`hits`, as they stand in a `SearchResponse` or a `HitList`."""
        items, ends = self.content, self.ends
        parts: list[bytes] = []
        add = parts.append
        if self.has_parts:
            both = zip(found.scores, found.dense, found.lexical, strict=True)
            for row, scores in zip(found.rows, both, strict=True):
                add(items[ends[row] : ends[row + 1]])
                add(pack_parts(*scores))
            return b"".join(parts)
        for row, score in zip(found.rows, found.scores, strict=True):
            add(items[ends[row] : ends[row + 1]])
            add(pack_score(score))
        return b"".join(parts)


def score_bytes(has_parts: bool) -> int:
    """Bytes of a hit after the item's own."""
    return PARTS_BYTES if has_parts else SCORE_BYTES


def packed_hit(item_id: str, fields: Mapping[str, str], has_parts: bool = False) -> bytes:
    """An item as a part of an answer: the field `hits` without its last bytes, which are its scores.

    Args:
        item_id: of the item.
        fields: its display fields.
        has_parts: whether `pack_parts` follows, and not `pack_score`.
    """
    hit = wire.Hit(id=item_id, fields=fields).SerializeToString()
    return b"".join((HITS, varint(len(hit) + 1 + score_bytes(has_parts)), hit, SCORE))


def pack_parts(score: float, dense: float, lexical: float) -> bytes:
    """The last bytes of a hit of a bundle with a lexical index."""
    return _pack_parts(score, DENSE, dense, LEXICAL, lexical)


def hit_of(part: bytes) -> wire.Hit:
    """The item of a part as `packed_hit` makes it, without a score."""
    length, begin = part[1] & 0x7F, 2  # the length stands after the tag, as `varint` writes it
    while part[begin - 1] > 0x7F:
        length |= (part[begin] & 0x7F) << 7 * (begin - 1)
        begin += 1
    hit = wire.SearchResponse.FromString(part + _blank_scores(begin + length - len(part))).hits[0]
    for name in ("dense", "lexical"):
        hit.ClearField(name)
    return hit


def _blank_scores(size: int) -> bytes:
    return pack_score(0) if size == SCORE_BYTES else pack_parts(0, 0, 0)


def _sizes(ends: Sequence[int], after: int) -> tuple[int, int]:
    """Mean, rounded up, and maximum of the bytes of an item in an answer, `after` of them for its scores."""
    items = len(ends) - 1
    if items < 1:
        return 0, 0
    largest = int(np.diff(np.asarray(ends, np.int64)).max())
    return -(-(ends[-1] - ends[0]) // items) + after, largest + after


def _origin(bundle_version: str, timing: Timing) -> bytes:
    """`bundle_version` and `timing`, as they stand in a `SearchResponse` or a `SearchBatchResponse`."""
    queue, encode, search = timing
    times = b"".join((QUEUE, varint(queue), ENCODE, varint(encode), SEARCH, varint(search)))
    return b"".join((_version(bundle_version), TIMING, varint(len(times)), times))


@lru_cache(maxsize=8)
def _version(bundle_version: str) -> bytes:
    """`bundle_version` as it stands in an answer; a worker serves few of them at a time."""
    version = bundle_version.encode()
    return b"".join((VERSION, varint(len(version)), version))


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
