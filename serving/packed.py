"""Answers as bytes: each item's part of an answer is serialised once, when the bundle is loaded.

A protobuf message is the concatenation of its fields in any order, and parts of one that are
concatenated are one (protobuf encoding, "Last One Wins"). So the bytes of an answer are those of its
hits, each the item's own bytes and a score, and then the rest. That takes a third of the time of building the
messages, and touches no Python object per item, whose count of references would unshare its memory
page between worker processes. Nor need the bytes lie in this process: a file that is mapped does as well
(`ready.py`).
"""

import struct
from collections.abc import Sequence
from mmap import mmap
from typing import Self

import numpy as np

from protos import retrieval_pb2 as wire
from serving import convert
from serving.answer import Timing
from serving.catalogue import Catalogue
from serving.stages import TEXT, Found

VARINT, LENGTH_DELIMITED, FIXED_32 = 0, 2, 5  # wire types


def _tag(message: str, field: str, wire_type: int) -> bytes:
    """The tag of a field; one byte, for all numbers here are below 16."""
    number = wire.DESCRIPTOR.message_types_by_name[message].fields_by_name[field].number
    return bytes([number << 3 | wire_type])


HITS = _tag("SearchResponse", "hits", LENGTH_DELIMITED)  # the same as in HitList
SCORE = _tag("Hit", "score", FIXED_32)
VERSION = _tag("SearchResponse", "bundle_version", LENGTH_DELIMITED)  # the same as in SearchBatchResponse
TIMING = _tag("SearchResponse", "timing", LENGTH_DELIMITED)  # so is this
TIMES = [_tag("Timing", name, VARINT) for name in Timing._fields]
RESULTS = _tag("SearchBatchResponse", "results", LENGTH_DELIMITED)
SCORE_BYTES = 4  # behind an item's own bytes
_score = struct.Struct("<f").pack


class PackedCatalogue:
    """The items of a catalogue as parts of answers.

    Args:
        catalogue: of N items.

    Attributes:
        average, largest: bytes of an item in an answer, score included; the average is rounded up.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        parts = []
        for row, item_id in enumerate(catalogue.ids):
            hit = wire.Hit(id=item_id, fields=catalogue.fields(row)).SerializeToString()
            # The score is the last field of the hit, so that its four bytes come behind all that is known.
            parts.append(b"".join((HITS, varint(len(hit) + 5), hit, SCORE)))
        self.content: bytes | mmap = b"".join(parts)
        self.ends: Sequence[int] = np.cumsum([0, *map(len, parts)], dtype=np.int64).data
        self.average, self.largest = _sizes(self.ends)

    @classmethod
    def of(cls, content: bytes | mmap, ends: Sequence[int]) -> Self:
        """What another one has packed.

        Args:
            content: its `content`.
            ends: its `ends`.
        """
        packed = cls.__new__(cls)
        packed.content, packed.ends = content, ends
        packed.average, packed.largest = _sizes(ends)
        return packed

    def __len__(self) -> int:
        return len(self.ends) - 1

    def hit(self, row: int) -> wire.Hit:
        """An item, without a score."""
        part = self.content[self.ends[row] : self.ends[row + 1]] + _score(0)
        return wire.SearchResponse.FromString(part).hits[0]

    def size(self, found: Found) -> int:
        """Bytes of the hits of one query in an answer."""
        ends = self.ends
        return sum([ends[row + 1] - ends[row] for row in found.rows]) + SCORE_BYTES * len(found.rows)

    def response(self, found: Found, bundle_version: str, timing: Timing) -> bytes:
        """A `SearchResponse`."""
        answer = self._hits(found) + _origin(bundle_version, timing)
        asked = found.asked
        if asked is not TEXT:  # of which there is nothing else to say
            basis = convert.basis_to_wire(asked.basis)
            rest = wire.SearchResponse(unknown_history=asked.unknown_history, basis=basis)
            answer += rest.SerializeToString()
        return answer

    def batch_response(self, found: Sequence[Found], bundle_version: str, timing: Timing) -> bytes:
        """A `SearchBatchResponse`."""
        parts: list[bytes] = []
        for each in found:
            result = self._hits(each)
            if each.asked is not TEXT:  # as above
                asked = each.asked
                rest = wire.HitList(
                    unknown_history=asked.unknown_history, basis=convert.basis_to_wire(asked.basis)
                )
                result += rest.SerializeToString()
            parts += (RESULTS, varint(len(result)), result)
        return b"".join((*parts, _origin(bundle_version, timing)))

    def _hits(self, found: Found) -> bytes:
        """`hits`, as they stand in a `SearchResponse` or a `HitList`."""
        items, ends = self.content, self.ends
        parts: list[bytes] = []
        for row, score in zip(found.rows, found.scores, strict=True):
            parts += (items[ends[row] : ends[row + 1]], _score(score))
        return b"".join(parts)


def _sizes(ends: Sequence[int]) -> tuple[int, int]:
    """Mean, rounded up, and maximum of the bytes of an item in an answer."""
    items = len(ends) - 1
    if items < 1:
        return 0, 0
    largest = int(np.diff(np.asarray(ends, np.int64)).max())
    return -(-(ends[-1] - ends[0]) // items) + SCORE_BYTES, largest + SCORE_BYTES


def _origin(bundle_version: str, timing: Timing) -> bytes:
    """`bundle_version` and `timing`, as they stand in a `SearchResponse` or a `SearchBatchResponse`."""
    version = bundle_version.encode()
    times = b"".join([part for tag, us in zip(TIMES, timing, strict=True) for part in (tag, varint(us))])
    return b"".join((VERSION, varint(len(version)), version, TIMING, varint(len(times)), times))


def varint(number: int) -> bytes:
    """A number as protobuf writes lengths: seven bits a byte, the lowest first."""
    if number < 0x4000:  # as most are: in one byte or two
        return bytes((number & 0x7F | 0x80, number >> 7)) if number > 0x7F else bytes((number,))
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
