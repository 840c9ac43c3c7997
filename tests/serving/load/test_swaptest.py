"""The swap test: it counts what fails and what is mixed, and a short one runs from the command on."""

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.scores import Hits
from tests.helpers.serving import http2
from tests.helpers.serving.shown import shown
from tests.load import measure_swap
from tests.load.measure_swap import MIXED, Swap, SwapRun, Versions, expecting
from tests.load.plan import missed
from tests.serving.load.commands import measured
from twinspire.protos import bundle
from twinspire.protos import retrieval_pb2 as wire

pytestmark = [pytest.mark.exhaustive, pytest.mark.quiet]

FIRST, SECOND = "a" * 64, "b" * 64
EXPECTED: list[list[Hits]] = [
    [[("one", 0.9), ("two", 0.8)], [("same", 0.5)]],
    [[("two", 0.7), ("three", 0.6)], [("same", 0.5)]],
]


def answer(version: str, hits: Hits, queue_us: int = 7) -> bytes:
    message = wire.SearchResponse(
        hits=[wire.Hit(id=name, score=score) for name, score in hits],
        bundle_version=version,
        timing=wire.Timing(queue_us=queue_us, encode_us=300),
    )
    return http2.message(message.SerializeToString())


def test_each_answer_is_of_one_bundle_or_mixed() -> None:
    versions = Versions([FIRST, SECOND], [*map(expecting, EXPECTED)])
    for queue_us in (7, 900, 0):  # the second time by its bytes
        assert versions.of(0, answer(FIRST, EXPECTED[0][0], queue_us)) == 0
        assert versions.of(0, answer(SECOND, EXPECTED[1][0], queue_us)) == 1
    assert versions.mixed == 0
    mixed = [
        answer(SECOND, EXPECTED[0][0]),
        answer(FIRST, EXPECTED[1][0]),
        answer("c" * 64, EXPECTED[0][0]),
        answer(FIRST, EXPECTED[0][0][:1]),
        answer(FIRST, []),
        # What has been seen, and then one hit more, or another version.
        answer(FIRST, EXPECTED[0][0]) + wire.SearchResponse(hits=[wire.Hit(id="x")]).SerializeToString(),
        answer(FIRST, EXPECTED[0][0]) + wire.SearchResponse(bundle_version=SECOND).SerializeToString(),
    ]
    assert [versions.of(0, each) for each in mixed] == [MIXED] * len(mixed)
    assert versions.mixed == len(mixed)
    assert versions.first.startswith("query 0: bundle bbbbbbbbbbbb with [('one', 0.")


def test_a_request_that_overlaps_a_window_is_during() -> None:
    done = SwapRun([Swap(1, 10.0, 11.0), Swap(0, 20.0, 20.5)], start=2.0, stop=30.0)
    for end, latency, version in (
        (2.5, 1.0, 0),  # of the warm-up
        (9.0, 0.010, 0),
        (10.1, 0.2, 0),  # began before the window
        (10.8, 0.030, 0),
        (11.2, 0.4, 1),  # ended after it
        (15.0, 0.020, 1),
        (20.3, 0.050, 0),
        (21.0, 0.030, 0),
    ):
        done.ends.append(end)
        done.latencies.append(latency)
        done.versions.append(version)
    figures = measure_swap.latency_figures(done)
    assert (figures["requests_during"], figures["requests_between"]) == (4, 3)
    assert figures["p50_between_ms"] == pytest.approx(20)
    assert figures["p50_during_ms"] == pytest.approx(125)
    between, during = np.percentile([10, 20, 30], 99), np.percentile([200, 30, 400, 50], 99)
    assert figures["p99_ratio"] == pytest.approx(during / between, rel=1e-4)
    seconds = measure_swap.swap_figures(done)
    assert (seconds["swap_seconds_median"], seconds["swap_seconds_max"]) == (0.4, 0.8)  # 0.8 and 0
    assert (seconds["window_seconds_median"], seconds["window_seconds_max"]) == (0.75, 1.0)


@pytest.mark.timeout(300)
def test_no_request_fails_and_no_answer_is_mixed(folders: tuple[Path, Path]) -> None:
    """A short test: a registry, a service that follows it, clients, and memory."""
    files = ["--bundle", str(folders[0]), "--other", str(folders[1])]
    flags = ["--clients", "6", "--seconds", "2", "--swaps", "3", "--workers", "2"]
    report = measured("swaptest", *files, *flags)
    assert (report["failed"], report["mixed"], report["errors"]) == (0, 0, {})
    assert report["swaps"] == 3
    assert report["versions"] == [bundle.read_manifest(each).bundle_version for each in folders]
    assert (report["workers"], report["clients"]) == (2, 6)
    assert 0 < report["telling_queries"] <= report["distinct_queries"]
    assert report["requests"] >= report["requests_during"] + report["requests_between"]
    assert min(report["requests_during"], report["requests_between"]) > 0
    assert 0 < report["swap_seconds_median"] <= report["swap_seconds_max"] <= report["window_seconds_max"]
    assert 0 < report["p50_during_ms"] <= report["p99_during_ms"]
    assert 0 < report["p50_between_ms"] <= report["p99_between_ms"]
    ratio = report["memory_end_mib"] / report["memory_start_mib"]
    assert report["memory_ratio"] == pytest.approx(ratio, rel=0.01)
    assert report["memory_start_mib"] > 20
    assert report["targets_missed"] == missed(measure_swap.TARGETS, report)
    assert f"{report['requests']:,} answers, all compared; 3 swaps" in shown(measure_swap.show, report)
