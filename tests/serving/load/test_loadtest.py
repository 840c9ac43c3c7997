"""The whole load test, as the command line runs it: servers, report and table."""

import re
from pathlib import Path

import pytest

from tests.load.plan import CLIENTS, TARGETS, missed
from tests.load.report import Figures
from tests.serving.load.commands import measured

pytestmark = [pytest.mark.exhaustive, pytest.mark.quiet]


def test_the_report_is_one_flat_document_and_answers_are_right(plain: Path) -> None:
    flags = ["--bundle", str(plain), "--rounds", "1", "--seconds", "0.2", "--overload-seconds", "0.3"]
    report = measured("loadtest", *flags)
    nested = {key: value for key, value in report.items() if isinstance(value, dict)}
    assert set(nested) == {"errors"}
    for server in ("search", "naive", "noop"):
        for clients in CLIENTS:
            rps, *latencies = (report[f"{server}_c{clients}_{key}"] for key in ("rps", "p50_us", "p99_us"))
            if rps:  # the time is short where others use the machine
                assert 0 < latencies[0] <= latencies[1]
    (note,) = [note for note in report["notes"] if note.startswith("p99 is uncertain")]
    counts = [int(count) for count in re.findall(r" \((\d+)\)", note)]
    assert counts and max(counts) < 1000  # so short a test times few calls, how many depends on the machine
    for each in TARGETS:
        assert each.key in report
    assert report["one_worker_pss_mib"] > 10
    assert report["p50_c1_over_parts"] > 0
    assert report["targets_missed"] == missed(TARGETS, report)
    assert report["distinct_queries"] > 100
    assert report["index"] == "exact search" or "ef_search" in report["index"]
    for prefix in ("inprocess_single", "inprocess_batch32"):
        assert report[f"{prefix}_encode_us"] > 0 and report[f"{prefix}_search_us"] > 0
    assert report["content_checked"] > 0
    assert (report["content_different"], report["content_first_difference"]) == (0, "")


def test_ratios_are_those_of_a_round() -> None:
    figures = Figures()
    for ours, theirs in ((2.0, 1.0), (30.0, 10.0), (8.0, 2.0)):
        figures.add(ours=ours, theirs=theirs)
    figures.divide("ratio", "ours", "theirs")
    figures.divide("nothing", "ours", "absent")
    found = figures.document()
    assert (found["ours"], found["ratio"], found["ratio_min"], found["ratio_max"]) == (8.0, 3.0, 2.0, 4.0)
    assert "nothing" not in found
