"""Packed answers: whatever they hold, they are the messages that protobuf would have made of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.serving.catalogues import catalogues
from tests.helpers.tiny import tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos import bundle
from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.retrieval.answer import Answer, Hit, Timing
from twinspire.serving.retrieval.query import PLAIN, QueryContext, SearchResult
from twinspire.serving.retrieval.response_bytes import BASES, ResponseWriter
from twinspire.serving.segments.catalogue import Catalogue
from twinspire.serving.segments.packed_items import PackedItems, varint

scores = st.floats(width=32, allow_nan=False)
times = st.builds(Timing, *[st.integers(0, 2**64 - 1)] * 3)
asked = st.one_of(
    st.just(PLAIN),
    st.builds(QueryContext, unknown_history=st.integers(0, 2**32 - 1), basis=st.sampled_from([*BASES])),
)


@st.composite
def answered(draw: st.DrawFn) -> tuple[Catalogue, list[SearchResult]]:
    """A catalogue, and what up to four queries have found in it: no item, some, or all, in any order."""
    catalogue = draw(catalogues())
    rows = st.lists(st.integers(0, len(catalogue.ids) - 1), unique=True)
    all_rows = draw(st.lists(rows, min_size=1, max_size=4))
    return catalogue, [
        SearchResult(best, [draw(scores) for _ in best], draw(asked), weak=draw(st.booleans()))
        for best in all_rows
    ]


def answer(catalogue: Catalogue, found: SearchResult, version: str, timing: Timing) -> Answer:
    """The same as the retriever gives it without a transport."""
    best = zip(found.rows, found.scores, strict=True)
    hits = tuple(Hit(catalogue.ids[row], score, catalogue.fields(row)) for row, score in best)
    context = found.context
    return Answer(hits, version, timing, context.unknown_history, context.basis, weak=found.weak)


def answer_to_wire(answer: Answer) -> wire.SearchResponse:
    """The answer to one query, as protobuf builds it."""
    (hits,) = answers_to_wire([answer]).results
    return wire.SearchResponse(
        hits=hits.hits,
        bundle_version=answer.bundle_version,
        timing=wire.Timing(**answer.timing._asdict()),
        unknown_history=answer.unknown_history,
        basis=BASES[answer.basis],
        weak=answer.weak,
    )


def answers_to_wire(answers: Sequence[Answer]) -> wire.SearchBatchResponse:
    """The answers to a batch, as protobuf builds them."""
    results = [
        wire.HitList(
            hits=[wire.Hit(id=hit.id, score=hit.score, fields=hit.fields) for hit in each.hits],
            unknown_history=each.unknown_history,
            basis=BASES[each.basis],
            weak=each.weak,
        )
        for each in answers
    ]
    timing = wire.Timing(**answers[0].timing._asdict())
    return wire.SearchBatchResponse(results=results, bundle_version=answers[0].bundle_version, timing=timing)


@given(answered(), st.text(max_size=70), times)
def test_packed_answers_are_those_of_protobuf(
    answered: tuple[Catalogue, list[SearchResult]], version: str, timing: Timing
) -> None:
    catalogue, found = answered
    packed = ResponseWriter(PackedItems(catalogue))
    answers = [answer(catalogue, each, version, timing) for each in found]
    for each, expected in zip(found, answers, strict=True):
        parsed = wire.SearchResponse.FromString(packed.response(each, version, timing))
        assert parsed == answer_to_wire(expected)
    together = wire.SearchBatchResponse.FromString(packed.batch_response(found, version, timing))
    assert together == answers_to_wire(answers)


@given(catalogues())
def test_an_item_is_read_out_of_its_part_of_an_answer(catalogue: Catalogue) -> None:
    packed = PackedItems(catalogue)
    hits = [packed.hit(row) for row in range(len(packed))]
    expected = [wire.Hit(id=each, fields=catalogue.fields(row)) for row, each in enumerate(catalogue.ids)]
    assert hits == expected


@given(st.integers(0, 2**64 - 1))
def test_a_varint_is_what_protobuf_writes(number: int) -> None:
    written: Any = wire.Timing(queue_us=number).SerializeToString()
    assert varint(number) == (written[1:] or b"\0")


@pytest.mark.parametrize("edge", [127, 128, 16_383, 16_384])
def test_an_item_may_be_as_long_as_the_edge_of_a_length(edge: int, tmp_path: Path) -> None:
    for length in range(edge - 12, edge + 3):
        table = {"ids": ["x" * length], "popularity": [0.0], "fields": {}}
        (tmp_path / bundle.ITEMS).write_text(json.dumps(table))
        catalogue = Catalogue(tmp_path, tiny_manifest(1, TinyTower(), display_fields=()))
        found = SearchResult([0], [-0.0], PLAIN)
        for packed in (
            ResponseWriter(PackedItems(catalogue)).response(found, "v", Timing()),
            ResponseWriter(PackedItems(catalogue)).batch_response([found], "v", Timing()),
        ):
            assert b"x" * length in packed
        parsed = wire.SearchResponse.FromString(
            ResponseWriter(PackedItems(catalogue)).response(found, "v", Timing(1, 2, 3))
        )
        assert parsed == answer_to_wire(answer(catalogue, found, "v", Timing(1, 2, 3)))
