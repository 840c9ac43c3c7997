"""Counting: exact, whole after a worker is gone, in buckets that add up."""

import math
import os
from itertools import accumulate

import pytest

from tests.serving.conftest import ROOT
from twinspire.protos.errors import Overloaded
from twinspire.serving.observability import layout, metrics
from twinspire.serving.observability.layout import width
from twinspire.serving.observability.metrics import METRICS, SECONDS, SIZES, Kind, MetricSource
from twinspire.serving.observability.worker_metrics import Observer, SharedMetrics
from twinspire.serving.service_status import catalogue_readings
from twinspire.serving.wire.status import Code


def histogram(row: list[float], start: int, bounds: tuple[float, ...]) -> tuple[list[float], float]:
    """How many were at most as large as each bound and infinity; and the sum."""
    *buckets, total = row[start : start + width(bounds)]
    return [*accumulate(buckets)], total


def test_a_call_counts_under_its_method_and_code() -> None:
    shared = SharedMetrics(workers=2)
    mine, other = shared.worker(0), shared.worker(1)
    for code in ("OK", "OK", "NOT_FOUND"):
        mine.began()
        mine.finished("Search", code, 0.001)
    other.began()
    other.finished("Encode", "OK", 0.002)
    other.began()
    first, second = shared.read()
    assert first[layout.REQUESTS["Search"]["OK"]] == 2
    assert first[layout.REQUESTS["Search"]["NOT_FOUND"]] == 1
    assert second[layout.REQUESTS["Encode"]["OK"]] == 1
    counts, total = histogram(first, layout.REQUEST_SECONDS["Search"], SECONDS)
    assert counts[-1] == 3
    assert total == pytest.approx(0.003)
    assert (first[layout.IN_FLIGHT], second[layout.IN_FLIGHT]) == (0, 1)


def test_a_call_that_was_turned_away_took_no_time() -> None:
    shared = SharedMetrics(workers=1)
    Observer(shared.worker(0)).turned_away("Search", Code.RESOURCE_EXHAUSTED, Overloaded("no room", 1.0))
    snapshot = shared.snapshot()
    assert snapshot["requests"] == {"RESOURCE_EXHAUSTED": 1}
    assert snapshot["refused"] == {"no_room": 1}
    assert snapshot["in_flight"] == 0
    (row,) = shared.read()
    assert histogram(row, layout.REQUEST_SECONDS["Search"], SECONDS) == ([0] * 20, 0)


def test_no_two_metrics_share_a_cell() -> None:
    used = [layout.PID, layout.HEARTBEAT, *layout.VERSION_STARTS]
    for metric, found in layout.CELLS.items():
        size = width(metric.buckets) if metric.kind is Kind.HISTOGRAM else 1
        own = [cell + n for cell in found.values() for n in range(size)]
        starts = layout.VERSION_STARTS if metric.source is MetricSource.BUNDLE else (0,)
        used += [start + cell for start in starts for cell in own]
    assert len(set(used)) == len(used)
    assert max(used) < layout.ROW
    assert {*layout.CELLS} == {metric for metric in METRICS if metric.source is not MetricSource.SCRAPE}


def test_a_batch_counts_each_of_its_queries() -> None:
    shared = SharedMetrics(workers=1)
    mine = shared.worker(0)
    mine.batch(32, 1000, 2000)
    mine.batch(1, 1000, 3, searched=0)  # vectors only
    (row,) = shared.read()
    sizes, total = histogram(row, layout.BATCH_SIZE, SIZES)
    assert sizes == [1] * 5 + [2] * 7
    assert total == 33
    assert histogram(row, layout.STAGE_SECONDS["encode"], SECONDS)[0][-1] == 33
    counts, total = histogram(row, layout.STAGE_SECONDS["search"], SECONDS)
    assert counts[-1] == 32
    assert total == pytest.approx(0.064)


@pytest.mark.parametrize(
    ("microseconds", "bound"),
    [(10, 1e-5), (11, 2e-5), (10_000_001, float("inf"))],
)
def test_a_value_is_counted_from_the_first_bound_that_is_no_smaller(microseconds: int, bound: float) -> None:
    shared = SharedMetrics(workers=1)
    shared.worker(0).waited(1, microseconds)
    (row,) = shared.read()
    start = layout.STAGE_SECONDS["queue"]
    counts, total = histogram(row, start, SECONDS)
    assert counts == [float(each >= bound) for each in (*SECONDS, math.inf)]
    assert total == microseconds / 1e6


def test_the_next_worker_counts_on_and_begins_with_nothing_in_flight() -> None:
    shared = SharedMetrics(workers=1)
    first = shared.worker(0)
    first.began()
    first.finished("Search", "OK", 0.001)
    first.began()
    first.streams(1)
    first.queued(5)
    assert shared.snapshot()["in_flight"] == 1
    shared.ended(0)
    ended = shared.snapshot()
    assert (ended["workers_up"], ended["in_flight"], ended["streams"], ended["queue_depth"]) == (0, 0, 0, 0)
    assert ended["requests"] == {"OK": 1}
    second = shared.worker(0)
    second.began()
    second.finished("Search", "OK", 0.001)
    (row,) = shared.read()
    assert row[layout.PID] == os.getpid()
    assert shared.snapshot()["requests"] == {"OK": 2}
    assert shared.snapshot()["restarts"] == 1


def test_a_snapshot_is_the_sum_of_all_workers() -> None:
    shared = SharedMetrics(workers=3)
    for slot in range(2):
        mine = shared.worker(slot)
        mine.began()
        mine.add(layout.QUERIES["SearchBatch"], 32)
        mine.finished("SearchBatch", "OK", 0.001)
        mine.began()
        mine.add(layout.REFUSED["no_room"])
        mine.finished("Search", "RESOURCE_EXHAUSTED", 0.0)
        mine.began()
        mine.streams(1)
        mine.queued(4)
    snapshot = shared.snapshot()
    assert snapshot.pop("uptime_seconds") >= 0
    assert snapshot == {
        "workers": 3,
        "workers_up": 2,
        "restarts": 0,
        "requests": {"OK": 2, "RESOURCE_EXHAUSTED": 2},
        "refused": {"no_room": 2},
        "queries": 64,
        "interleaved": {"answers": 0, "alone": 0},
        "queue_depth": 8,
        "in_flight": 2,
        "streams": 2,
    }


def test_the_table_of_metrics_in_the_readme_is_the_one_that_is_declared() -> None:
    assert "\n".join(metrics.table()) in (ROOT / "serving/observability/README.md").read_text()


def test_the_lag_of_each_worker_that_runs_is_told() -> None:
    shared = SharedMetrics(workers=4)
    for slot, (sequence, overlay) in enumerate([(7, 3), (12, 5), (9, 4)]):
        worker = shared.worker(slot)
        worker.set(layout.SEEN_SEQUENCE, sequence)
        worker.set(layout.OVERLAY_ROWS, overlay)
    shared.ended(2)
    found = dict(catalogue_readings({"sequence": 10}, shared.read()))
    assert found[metrics.CATALOGUE_WORKER_SEQUENCE] == [(["0"], 7.0), (["1"], 12.0)]
    assert found[metrics.CATALOGUE_WORKER_LAG] == [(["0"], 3.0), (["1"], 0.0)]
    assert found[metrics.CATALOGUE_OVERLAY] == [(["0"], 3.0), (["1"], 5.0)]
    again = shared.worker(1)  # does not show what the worker before it had applied
    assert again.row[layout.SEEN_SEQUENCE] == 0
