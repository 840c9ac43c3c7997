"""Two answers beside each other, and what many of them come to."""

import json

import pytest

from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.shadow.comparison import AnswerComparison, PairRecord, Sums, compare

IDS = [f"item-{n:03}" for n in range(20)]
POPULAR = wire.Basis.Value("BASIS_POPULAR")


def answer(scores: dict[str, float], basis: int = 0) -> wire.SearchResponse:
    hits = [wire.Hit(id=item, score=score) for item, score in scores.items()]
    return wire.SearchResponse(hits=hits, basis=basis)  # type: ignore[arg-type]


def test_an_equal_answer_overlaps_whole_and_is_not_shifted() -> None:
    scores = {item: 1 - n / 32 for n, item in enumerate(IDS)}
    assert compare(answer(scores), answer(scores)) == AnswerComparison(1.0, 0.0, empty=False)


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
    compared = compare(answer(dict.fromkeys(theirs, 0.5)), answer(dict.fromkeys(mine, 0.5)))
    assert compared.overlap == overlap
    assert compared.empty == (mine == [])


def test_the_shift_is_that_of_items_in_both() -> None:
    theirs = answer({"a": 0.5, "b": 0.25, "c": 1.0})
    assert compare(theirs, answer({"b": 0.5, "x": 9.0, "a": 1.0})).shift == (0.25 + 0.5) / 2
    assert compare(theirs, answer({"x": 9.0})).shift is None


def test_scores_of_another_kind_are_not_compared() -> None:
    theirs = answer({"a": 0.5}, basis=POPULAR)
    assert compare(theirs, answer({"a": 0.75})).shift is None
    assert compare(theirs, answer({"a": 0.75}, basis=POPULAR)).shift == 0.25


def test_means_are_over_the_queries_that_have_them() -> None:
    sums = Sums()
    assert sums.means() == {"overlap_at_10": 0.0, "score_shift": 0.0}
    sums.add(AnswerComparison(1.0, 0.5, empty=False))
    sums.add(AnswerComparison(0.0, None, empty=True))
    sums.add(AnswerComparison(None, None, empty=True))
    sums.fail()
    assert (sums.queries, sums.errors, sums.empty) == (4, 1, 2)
    assert sums.means() == {"overlap_at_10": 0.5, "score_shift": 0.5}


def test_a_record_goes_on_from_its_note() -> None:
    record = PairRecord({})
    record.set_challenger("x", dropped=5)
    record.set_champion("a", dropped=6)
    record.sums.add(AnswerComparison(0.3, 0.1, empty=False))
    note = json.loads(json.dumps(record.document()))
    again = PairRecord(note)
    again.set_challenger("x", dropped=9)
    again.set_champion("a", dropped=9)
    assert again.document() == record.document()
    assert note["dropped_before"] == 5
    assert (note["bundle_version"], note["champion"]) == ("x", "a")


def test_a_record_begins_anew_with_another_bundle_on_either_side() -> None:
    record = PairRecord({})
    record.set_challenger("x", 0)
    for challenger, answered, count in [("x", "a", 1), ("x", "b", 2), ("y", "b", 3), ("", "", 4)]:
        record.set_challenger(challenger, dropped=count)
        if answered:
            record.set_champion(answered, dropped=count)
        assert (record.challenger, record.champion) == (challenger, answered)
        assert record.sums == Sums()
        record.sums.fail()
        assert record.document()["dropped_before"] == (count if count > 1 else 0)
