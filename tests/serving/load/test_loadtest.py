"""The whole load test, as the command line runs it: servers, report and table."""

import io
import json
import math
import re
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.load import measure_load
from tests.load.load import LoadResult
from tests.load.plan import CLIENTS, TARGETS, missed
from tests.load.report import Figures
from tests.serving.cli.test_commands import Capture
from tests.serving.conftest import ROOT
from tests.serving.load.commands import failure, misuse
from twinspire.protos.system.timing import p99_remark

pytestmark = [pytest.mark.exhaustive, pytest.mark.quiet]


@pytest.fixture(scope="module")
def done(plain: Path) -> "subprocess.CompletedProcess[str]":
    """The load test of every part, each as short as can be."""
    flags = ["--bundle", str(plain), "--rounds", "1", "--seconds", "0.2", "--overload-seconds", "0.3"]
    return subprocess.run(
        [sys.executable, "-m", "tests.load", "loadtest", "--json", *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def report(done: "subprocess.CompletedProcess[str]") -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_report_is_one_flat_document(report: Any) -> None:
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


def test_answers_are_compared_and_right(report: Any) -> None:
    assert report["content_checked"] > 0
    assert (report["content_different"], report["content_first_difference"]) == (0, "")


def test_the_table_puts_targets_beside_figures(report: Any) -> None:
    output = io.StringIO()
    measure_load.show(
        Console(file=output, width=120), {**report, "ratio_to_naive_c16": 1.7, "ratio_to_noop_c64": 0.2}
    )
    lines = output.getvalue().splitlines()
    (met,) = [line for line in lines if line.startswith("throughput against naive, 16 clients")]
    (failing,) = [line for line in lines if line.startswith("throughput against no-op, 64 clients")]
    assert met.split()[-4:] == [">=", "1.6", "1.7", "met"]
    assert failing.split()[-4:] == [">=", "0.45", "0.2", "missed"]
    titles = {"closed loop", "targets"}
    assert titles <= {line.strip() for line in lines}
    assert any(line.startswith("a request of Twinspire, microseconds") for line in lines)
    assert f"D = {report['dimension']}, {report['index']}" in output.getvalue()


def test_targets_that_were_not_measured_are_not_missed() -> None:
    assert missed(TARGETS, {}) == []
    assert missed(TARGETS, {"batch32_share": 0.84, "recovered_errors": 0}) == ["batch32_share"]
    assert missed(TARGETS, {"overload_p99_ratio": None}) == ["overload_p99_ratio"]


def test_ratios_are_those_of_a_round() -> None:
    figures = Figures()
    for ours, theirs in ((2.0, 1.0), (30.0, 10.0), (8.0, 2.0)):
        figures.add(ours=ours, theirs=theirs)
    figures.divide("ratio", "ours", "theirs")
    figures.divide("nothing", "ours", "absent")
    found = figures.document()
    assert (found["ours"], found["ratio"], found["ratio_min"], found["ratio_max"]) == (8.0, 3.0, 2.0, 4.0)
    assert "nothing" not in found


def test_a_p99_is_of_the_calls_of_its_smallest_round() -> None:
    figures = Figures()
    for calls in (1200, 999, 1500):
        figures.add_calls("search_c1", LoadResult(1.0, latencies=array("d", [0.001] * calls)))
        figures.add_calls("search_c64", LoadResult(1.0, latencies=array("d", [0.001] * (calls + 1))))
    assert figures.calls == {"search_c1": 999, "search_c64": 1000}
    assert p99_remark(figures.calls).endswith("were timed: search_c1 (999)")
    assert p99_remark({"search_c64": 1000}) == p99_remark({}) == ""


def test_a_round_that_could_not_be_measured_does_not_count() -> None:
    figures = Figures()
    for value in (math.nan, 3.0, 1.0, math.nan, 2.0):
        figures.add(ours=value, nothing=math.nan)
    assert figures.document() == {
        "ours": 2.0,
        "ours_min": 1.0,
        "ours_max": 3.0,
        **dict.fromkeys(("nothing", "nothing_min", "nothing_max")),
    }


def test_without_a_bundle_there_is_nothing_to_test(capsys: Capture, tmp_path: Path) -> None:
    assert "holds no bundle" in failure(capsys, "loadtest", "--bundle", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--seconds", "301"], "at most 300, got '301'"),
        (["--seed", "-1"], "expected a whole number from 0"),
        (["--only", "closed,dance"], "expected some of closed, batch, overload, workers, got 'dance'"),
    ],
)
def test_misuse_is_told_apart(capsys: Capture, arguments: list[str], expected: str) -> None:
    assert expected in misuse(capsys, "loadtest", *arguments)
