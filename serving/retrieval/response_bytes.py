"""Answers as protobuf bytes, joined from parts that are serialised once, when a bundle is loaded.

A serialised message is the concatenation of its fields in any order (protobuf encoding, "Last One Wins"). So
the bytes of an answer are those of its hits, each of them the item's own bytes and a score, and the bytes of
the other fields. This takes a third of the time that building messages takes. It also touches no Python
object per item; their reference counts would unshare memory pages between worker processes.
"""

from collections.abc import Sequence
from typing import Any

from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.filters.plan import Plan
from twinspire.serving.retrieval.answer import Basis, FusionMode, Timing
from twinspire.serving.retrieval.query import PLAIN, SearchResult
from twinspire.serving.segments.growing import GrowingSegment
from twinspire.serving.segments.packed_items import (
    LENGTH_DELIMITED,
    VARINT,
    PackedItems,
    pack_parts,
    pack_score,
    packed_hit,
    tag,
    varint,
)

VERSION = tag("SearchResponse", "bundle_version", LENGTH_DELIMITED)  # the same as in SearchBatchResponse
TIMING = tag("SearchResponse", "timing", LENGTH_DELIMITED)  # likewise
QUEUE, ENCODE, SEARCH = [tag("Timing", name, VARINT) for name in Timing._fields]
SEQUENCE = tag("SearchResponse", "sequence", VARINT)
BATCH_SEQUENCE = tag("SearchBatchResponse", "sequence", VARINT)
REQUEST_ID = tag("SearchResponse", "request_id", LENGTH_DELIMITED)
BATCH_REQUEST_ID = tag("SearchBatchResponse", "request_id", LENGTH_DELIMITED)
RESULTS = tag("SearchBatchResponse", "results", LENGTH_DELIMITED)
FUSION = tag("SearchResponse", "fusion", VARINT)
BATCH_FUSION = tag("HitList", "fusion", VARINT)
BASES: dict[Basis, Any] = {Basis[name.removeprefix("BASIS_")]: number for name, number in wire.Basis.items()}
PLANS: dict[Plan, Any] = {Plan[name.removeprefix("PLAN_")]: number for name, number in wire.Plan.items()}
FUSIONS: dict[FusionMode, bytes] = {
    FusionMode[name.removeprefix("FUSION_")]: bytes([number]) for name, number in wire.Fusion.items()
}
UNFILTERED = Plan.UNFILTERED
UNFUSED = FusionMode.DEFAULT
REMOTE_BYTES = 1 << 18  # at most, of an item of another server: id and display fields of 64 KiB each
ENVELOPE_BYTES = 1024  # most bytes of an answer to one query besides its hits
ENVELOPE_BYTES_EACH = 32  # most bytes of a query's part of a batch's answer besides its hits
PROPENSITY_BYTES = 8  # of a hit of an explored answer


class ResponseWriter:
    """Writes the answers of one bundle.

    Args:
        packed: its items; none if another server has them.
        growing: its live items, if the service takes writes.
        remote_count: of the items that another server has.

    Attributes:
        average: mean of the bytes of an item in an answer, score included, rounded up; 0 of remote ones.
    """

    def __init__(
        self, packed: PackedItems, growing: GrowingSegment | None = None, remote_count: int = 0
    ) -> None:
        self.packed, self.average = packed, packed.average
        self._growing, self._remote_count = growing, remote_count
        self._live_hits: Sequence[bytes] = () if growing is None else growing.hits

    def __len__(self) -> int:
        return self._remote_count or len(self.packed) + len(self._live_hits)

    @property
    def largest(self) -> int:
        """Bytes of the largest item in an answer, score included."""
        if self._remote_count:
            return REMOTE_BYTES
        largest, growing = self.packed.largest, self._growing
        return largest if growing is None else max(largest, growing.largest + self.packed.score_bytes)

    def expected(self, queries: int, k: int, explores: bool = False) -> int:
        """Bytes of an answer with items of average size.

        Args:
            queries: in the request.
            k: items for each query.
            explores: whether the answer may be explored, and have a propensity for each hit.
        """
        return queries * self._part(k, self.average, explores)

    def most(self, queries: int, k: int, explores: bool = False) -> int:
        """As `expected`, with the largest items."""
        return ENVELOPE_BYTES + queries * self._part(k, self.largest, explores)

    def _part(self, k: int, hit: int, explores: bool) -> int:
        return ENVELOPE_BYTES_EACH + min(k, len(self)) * (hit + explores * PROPENSITY_BYTES)

    def size(self, found: SearchResult) -> int:
        """Bytes of the hits of one query in an answer."""
        if self._remote_count or self._live_hits:
            return len(self.hits(found))
        ends = self.packed.ends
        return sum([ends[row + 1] - ends[row] for row in found.rows]) + self.packed.score_bytes * len(
            found.rows
        )

    def response(
        self,
        found: SearchResult,
        bundle_version: str,
        timing: Timing,
        sequence: int = 0,
        request_id: str = "",
        hits: bytes | None = None,
    ) -> bytes:
        """A `SearchResponse`; `hits` are others than those that were found."""
        answer = (
            (self.hits(found) if hits is None else hits)
            + _origin(bundle_version, timing)
            + _text(REQUEST_ID, request_id)
        )
        if sequence:
            answer += SEQUENCE + varint(sequence)
        return answer + _rest(found, wire.SearchResponse, FUSION)

    def batch_response(
        self,
        found: Sequence[SearchResult],
        bundle_version: str,
        timing: Timing,
        sequence: int = 0,
        request_id: str = "",
    ) -> bytes:
        """A `SearchBatchResponse`."""
        parts: list[bytes] = []
        for each in found:
            result = self.hits(each) + _rest(each, wire.HitList, BATCH_FUSION)
            parts += (RESULTS, varint(len(result)), result)
        if sequence:
            parts += (BATCH_SEQUENCE, varint(sequence))
        return b"".join((*parts, _origin(bundle_version, timing), _text(BATCH_REQUEST_ID, request_id)))

    def hits(self, found: SearchResult) -> bytes:
        """`hits`, as they stand in a `SearchResponse` or a `HitList`."""
        parts: list[bytes] = []
        add = parts.append
        if self._remote_count:
            remote: Sequence[Any] = found.rows  # each is a `RemoteItem`
            for item, score in zip(remote, found.scores, strict=True):
                add(packed_hit(item.item_id, item.fields))
                add(pack_score(score))
            return b"".join(parts)
        items, ends, live, count = self.packed.content, self.packed.ends, self._live_hits, len(self.packed)
        if self.packed.parts:
            for row, *scores in zip(found.rows, found.scores, *found.parts, strict=True):
                add(items[ends[row] : ends[row + 1]] if row < count else live[row - count])
                add(pack_parts(*scores))
            return b"".join(parts)
        for row, score in zip(found.rows, found.scores, strict=True):
            add(items[ends[row] : ends[row + 1]] if row < count else live[row - count])
            add(pack_score(score))
        return b"".join(parts)


def _rest(
    found: SearchResult, message: type[wire.SearchResponse] | type[wire.HitList], fusion: bytes
) -> bytes:
    """The fields of an answer besides its hits, as they stand in a message; `fusion` is the tag there."""
    rest = b"" if found.fusion is UNFUSED else fusion + FUSIONS[found.fusion]
    context, plan, weak = found.context, found.plan, found.weak
    if context is not PLAIN or plan is not UNFILTERED or weak:  # otherwise all these fields have defaults
        unknown, basis = context.unknown_history, BASES[context.basis]
        more = message(unknown_history=unknown, basis=basis, plan=PLANS[plan], weak=weak)
        rest += more.SerializeToString()
    if found.draw is not None:
        rest += message(explored=True, propensities=found.draw.propensities).SerializeToString()
    return rest


def _origin(bundle_version: str, timing: Timing) -> bytes:
    """`bundle_version` and `timing`, as they stand in a `SearchResponse` or a `SearchBatchResponse`."""
    queue, encode, search = timing
    times = b"".join((QUEUE, varint(queue), ENCODE, varint(encode), SEARCH, varint(search)))
    return b"".join((_text(VERSION, bundle_version), TIMING, varint(len(times)), times))


def _text(field: bytes, text: str) -> bytes:
    """A field with a text, of the tag `field`."""
    content = text.encode()
    return b"".join((field, varint(len(content)), content))
