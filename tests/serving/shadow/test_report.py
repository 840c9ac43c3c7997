"""What Info and /metrics tell of the shadow."""

from typing import Any

from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.observability.metrics import Kind, Reading
from twinspire.serving.shadow.comparison import AnswerComparison, PairRecord
from twinspire.serving.shadow.report import shadow_readings, shadow_state

VERSION = "c" * 64


def entry_of(record: PairRecord) -> dict[str, Any]:
    return {"model": "models:/x@y", "model_version": "7", **record.document(), "last_error": "", "pid": 1}


def samples(readings: list[Reading]) -> dict[str, float]:
    """Name in a scrape -> value; a metric without samples is left out."""
    found = [(metric, sample) for metric, series in readings for sample in series]
    assert all(list(labels) == ["c" * 12] for _, (labels, _) in found)
    return {f"{m.name}{'_total' * (m.kind is Kind.COUNTER)}": value for m, (_, value) in found}


def record() -> PairRecord:
    record = PairRecord({})
    record.set_challenger(VERSION, dropped=3)
    record.set_champion("a", dropped=3)
    return record


def test_info_gets_every_field_of_its_message() -> None:
    made = record()
    made.sums.add(AnswerComparison(0.5, -0.25, empty=False))
    made.sums.fail()
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
    without = PairRecord({})
    without.set_challenger("x", 0)
    without.set_challenger("", 0)
    assert [*shadow_readings(entry_of(without), dropped=4)] == []


def test_a_scrape_tells_counts_and_means() -> None:
    made = record()
    made.sums.add(AnswerComparison(0.5, -0.25, empty=False))
    made.sums.add(AnswerComparison(1.0, None, empty=True))
    made.sums.fail()
    assert samples([*shadow_readings(entry_of(made), dropped=8)]) == {
        "twinspire_shadow_queries_total": 3,
        "twinspire_shadow_dropped_total": 5,
        "twinspire_shadow_errors_total": 1,
        "twinspire_shadow_empty_total": 1,
        "twinspire_shadow_overlap": 0.75,
        "twinspire_shadow_score_shift": -0.25,
    }


def test_what_was_not_measured_has_no_sample() -> None:
    made = record()
    made.sums.add(AnswerComparison(0.0, None, empty=True))
    found = samples([*shadow_readings(entry_of(made), dropped=3)])
    assert found["twinspire_shadow_overlap"] == 0
    assert "twinspire_shadow_score_shift" not in found
