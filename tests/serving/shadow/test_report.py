"""Two answers beside each other, the sums of many, and what Info and /metrics show of them."""

from dataclasses import asdict
from typing import Any

import pytest

from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.observability.metrics import Kind, Reading
from twinspire.serving.shadow.report import PairSums, shadow_readings, shadow_state

VERSION = "c" * 64
IDS = [f"item-{n:03}" for n in range(20)]
POPULAR = wire.Basis.Value("BASIS_POPULAR")


def answer(scores: dict[str, float], basis: int = 0) -> wire.SearchResponse:
    hits = [wire.Hit(id=item, score=score) for item, score in scores.items()]
    return wire.SearchResponse(hits=hits, basis=basis)  # type: ignore[arg-type]


def compared(champion: wire.SearchResponse, challenger: wire.SearchResponse) -> PairSums:
    sums = PairSums()
    sums.add(champion, challenger)
    assert sums.queries == 1
    return sums


def entry_of(sums: PairSums) -> dict[str, Any]:
    return {"model": "models:/x@y", "model_version": "7", **asdict(sums), "last_error": "", "pid": 1}


def samples(readings: list[Reading]) -> dict[str, float]:
    """Name in a scrape -> value; a metric without samples is left out."""
    found = [(metric, sample) for metric, series in readings for sample in series]
    assert all(list(labels) == ["c" * 12] for _, (labels, _) in found)
    return {f"{m.name}{'_total' * (m.kind is Kind.COUNTER)}": value for m, (_, value) in found}


def test_an_equal_answer_overlaps_whole_and_is_not_shifted() -> None:
    scores = {item: 1 - n / 32 for n, item in enumerate(IDS)}
    sums = compared(answer(scores), answer(scores))
    assert (sums.overlap, sums.overlaps, sums.shift, sums.shifts, sums.empty) == (1.0, 1, 0.0, 1, 0)


@pytest.mark.parametrize(
    ("theirs", "mine", "overlap"),
    [
        (IDS[:10], IDS[5:15], 0.5),
        (IDS[:10], IDS[10:], 0.0),
        (IDS[:20], [*IDS[10:], *IDS[:10]], 0.0),  # only the first ten of each count
        (IDS[:3], IDS[1:4], 2 / 3),
        (IDS[:3], IDS, 1.0),
        (IDS, IDS[:3], 0.3),
        (IDS[:3], [], 0.0),
        ([], IDS[:3], None),
        ([], [], None),
    ],
)
def test_overlap_is_the_part_of_the_champions_first_ten(
    theirs: list[str], mine: list[str], overlap: float | None
) -> None:
    sums = compared(answer(dict.fromkeys(theirs, 0.5)), answer(dict.fromkeys(mine, 0.5)))
    assert (sums.overlap, sums.overlaps) == ((0.0, 0) if overlap is None else (overlap, 1))
    assert sums.empty == (mine == [])


def test_the_shift_is_that_of_items_in_both() -> None:
    theirs = answer({"a": 0.5, "b": 0.25, "c": 1.0})
    assert compared(theirs, answer({"b": 0.5, "x": 9.0, "a": 1.0})).shift == (0.25 + 0.5) / 2
    assert compared(theirs, answer({"x": 9.0})).shifts == 0


def test_scores_of_another_kind_are_not_compared() -> None:
    theirs = answer({"a": 0.5}, basis=POPULAR)
    assert compared(theirs, answer({"a": 0.75})).shifts == 0
    assert compared(theirs, answer({"a": 0.75}, basis=POPULAR)).shift == 0.25


def test_info_gets_every_field_of_its_message() -> None:
    made = PairSums(VERSION, "a", 3, overlap=0.5, overlaps=1, shift=-0.25, shifts=1, queries=1)
    made.fail()
    state = shadow_state(entry_of(made), dropped=8)
    assert {*state} == {field.name for field in wire.Shadow.DESCRIPTOR.fields}
    assert wire.Shadow(**state) == wire.Shadow(
        model="models:/x@y",
        bundle_version=VERSION,
        model_version="7",
        queries=2,
        dropped=5,
        errors=1,
        overlap_at_10=0.5,
        score_shift=-0.25,
    )


def test_a_shadow_that_has_not_begun_has_nothing_to_tell() -> None:
    assert wire.Shadow(**shadow_state({}, dropped=4)) == wire.Shadow()
    assert [*shadow_readings({}, dropped=4)] == []
    assert [*shadow_readings(entry_of(PairSums()), dropped=4)] == []


def test_a_scrape_tells_counts_and_means_of_what_was_measured() -> None:
    made = PairSums(VERSION, "a", 3)
    assert {*samples([*shadow_readings(entry_of(made), dropped=3)]).values()} == {0}
    made.add(answer({"a": 0.5, "b": 0.5}), answer({"a": 0.25, "c": 0.5}))
    made.add(answer({}), answer({}))
    made.fail()
    found = samples([*shadow_readings(entry_of(made), dropped=8)])
    assert found == {
        "twinspire_shadow_queries_total": 3,
        "twinspire_shadow_dropped_total": 5,
        "twinspire_shadow_errors_total": 1,
        "twinspire_shadow_empty_total": 1,
        "twinspire_shadow_overlap": 0.5,
        "twinspire_shadow_score_shift": -0.25,
    }
