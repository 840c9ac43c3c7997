"""Answers as the columns of a file of the served log.

The ids and scores of hits are read from the bytes of all answers at once, with numpy: first those of all
first hits, then those of all second hits, and so on. Messages would need objects of Python for each hit,
which take several times as long. The bytes are those that `ResponseWriter` or protobuf writes: the hits of an
answer are its first fields, the id is the first field of a hit, and its score is the second one, or the last
one before the score's parts.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.files.served_log import COLUMNS
from twinspire.protos.nearest.scores import PARTS
from twinspire.serving.filters.text import filter_text
from twinspire.serving.segments.packed_items import (
    HITS,
    LENGTH_DELIMITED,
    PART_BYTES,
    SCORE,
    SCORE_BYTES,
    tag,
)
from twinspire.serving.served_log.sampling import LoggedQuery
from twinspire.serving.wire.converters import NO_BOUND, RequestLimits
from twinspire.serving.wire.filter_converters import filter_from_wire

MICROSECOND = 1_000  # nanoseconds
ID = tag("Hit", "id", LENGTH_DELIMITED)
# The service has checked the filters.
UNBOUNDED = RequestLimits(
    max_filter_conditions=NO_BOUND, max_filter_values=NO_BOUND, max_filter_depth=NO_BOUND
)
Row = tuple[LoggedQuery, bytes]  # and the `SearchResponse`
Numbers = npt.NDArray[np.int64]
Content = npt.NDArray[np.uint8]


def _type(name: str) -> pa.DataType:
    if name.startswith("list<"):
        return pa.list_(_type(name[5:-1]))
    return pa.timestamp("us", "UTC") if name.startswith("timestamp") else pa.type_for_alias(name)


SCHEMA = pa.schema({name: _type(kind) for name, kind in COLUMNS.items()})
_to_json = json.JSONEncoder(ensure_ascii=False).encode  # `json.dumps` makes an encoder each time


def to_table(rows: Sequence[Row], written: Callable[[str], str]) -> pa.Table:
    """Answers as the columns of a file.

    Args:
        rows: at least one.
        written: key of a user -> how it is written.

    Raises:
        ValueError: an answer has its fields in another order.
    """
    queries, answers = zip(*rows, strict=True)
    item_ids, scores, others = read_hits(answers)
    times, users, features, ks, filters, draws, teams, measures, comparable = zip(*queries, strict=True)
    drawn = _columns(draws, 3)
    mixed = _columns(teams, 2)
    fields: dict[str, Any] = {
        "request_id": [each.request_id for each in others],
        "time": [each // MICROSECOND for each in times],
        "bundle": [each.bundle_version for each in others],
        "sequence": [each.sequence or None for each in others],
        "user": [each and written(each) for each in users],
        "measures": measures,
        "comparable": comparable,
        "query": [_to_json(each) if each else "{}" for each in features],
        "k": ks,
        "filter": [_filter_text(each) if each else None for each in filters],
        "item_ids": item_ids,
        "scores": scores,
        "weak": [each.weak for each in others],
        "propensities": [each.propensities if each.explored else None for each in others],
        "candidate_ids": drawn[0],
        "candidate_scores": drawn[1],
        "temperature": drawn[2],
        "challenger": mixed[0],
        "teams": mixed[1],
    }
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, each.type)
        for each, values in ((each, fields[each.name]) for each in SCHEMA)
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def read_hits(answers: Sequence[bytes]) -> tuple[pa.Array, pa.Array, list[wire.SearchResponse]]:
    """The ids and the scores of the hits of each answer as lists, and the answers without their hits.

    Raises:
        ValueError: an answer has its fields in another order.
    """
    content = np.frombuffer(
        b"".join((*answers, bytes(1))), np.uint8
    )  # behind the last one is no tag of a hit
    ends = np.cumsum([len(each) for each in answers], dtype=np.int64)
    begins = np.concatenate(([0], ends[:-1]))
    at, numbers = begins.copy(), np.arange(len(answers))  # of the next hit; of answers that may have one
    hits: list[tuple[Numbers, ...]] = []
    while True:
        here = at[numbers]
        numbers = numbers[(content[here] == HITS[0]) & (here < ends[numbers])]
        if not len(numbers):
            break
        length, begin = _varints(content, at[numbers] + 1)
        end = at[numbers] = begin + length
        if (end > ends[numbers]).any() or (content[begin] != ID[0]).any():
            raise ValueError("the hits of an answer do not begin with their ids, or are cut off")
        id_length, id_begin = _varints(content, begin + 1)
        hits.append((numbers, id_length, id_begin, _scores_begin(content, id_begin + id_length, end)))
    if not hits:
        hits.append((numbers,) * 4)
    of_answers, id_lengths, id_begins, score_begins = map(np.concatenate, zip(*hits, strict=True))
    order = np.argsort(of_answers, kind="stable")
    offsets = _offsets(np.bincount(of_answers, minlength=len(answers)))
    ids = _strings(content, id_begins[order], id_lengths[order])
    scores = content[score_begins[order][:, None] + np.arange(SCORE_BYTES)].view("<f4").ravel()
    lists = [pa.ListArray.from_arrays(offsets, values) for values in (ids, pa.array(scores))]
    rests = zip(answers, (at - begins).tolist(), strict=True)
    return lists[0], lists[1], [wire.SearchResponse.FromString(each[rest:]) for each, rest in rests]


def _varints(content: Content, at: Numbers) -> tuple[Numbers, Numbers]:
    """Numbers as protobuf writes lengths, and the positions behind them."""
    byte = content[at].astype(np.int64)
    value, at, shift = byte & 0x7F, at + 1, 7
    while (goes_on := byte > 0x7F).any():
        byte = np.where(goes_on, content[at], 0).astype(np.int64)
        value |= (byte & 0x7F) << shift
        at, shift = at + goes_on, shift + 7
    return value, at


def _scores_begin(content: Content, id_ends: Numbers, ends: Numbers) -> Numbers:
    """The positions of the scores of hits that end at `ends`: behind the id, or last but for their parts."""
    begins = np.where(content[id_ends] == SCORE[0], id_ends + 1, ends - SCORE_BYTES)
    for _ in range(1 + len(PARTS)):
        is_part = content[begins - 1] != SCORE[0]
        if not is_part.any():
            return begins
        begins = np.where(is_part, begins - PART_BYTES, begins)
    raise ValueError("a hit of an answer has no score behind its id, and none at its end")


def _strings(content: Content, begins: Numbers, lengths: Numbers) -> pa.Array:
    """The texts at these positions."""
    offsets = _offsets(lengths)
    ends = np.cumsum(lengths)
    places = np.repeat(begins - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
    return pa.StringArray.from_buffers(len(begins), offsets.buffers()[1], pa.py_buffer(content[places]))


def _offsets(lengths: Numbers) -> pa.Array:
    return pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int32())


def _columns(values: Sequence[tuple[Any, ...] | None], count: int) -> Sequence[Sequence[Any]]:
    """The columns of tuples of `count` values; of a None all of them are null."""
    if not any(values):
        return [[None] * len(values)] * count
    return [*zip(*(each or (None,) * count for each in values), strict=True)]


def _filter_text(content: bytes) -> str:
    return filter_text(filter_from_wire(wire.Filter.FromString(content), UNBOUNDED))
