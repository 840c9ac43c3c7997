"""The whole load test, as the command line runs it: servers, report, table and plot."""

import io
import json
import math
import re
import subprocess
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from protos.bundle import Precisions
from protos.system.timing import P99_CALLS, p99_remark
from serving.retrieval.retriever import Retriever
from serving.server import RetrievalServer
from tests.helpers.tiny import tiny_bundle
from tests.load import measure_load
from tests.load.load import LoadResult
from tests.load.plan import CLIENTS, OFFERED, TARGETS, missed
from tests.load.report import Figures
from tests.load.rounds import UNCOMPARED
from tests.serving.cli.test_commands import Capture
from tests.serving.conftest import ROOT
from tests.serving.load.commands import document, failure, misuse

pytestmark = [pytest.mark.exhaustive, pytest.mark.quiet]


@pytest.fixture(scope="module")
def address(retriever: Retriever) -> Iterator[str]:
    with RetrievalServer(retriever) as server:
        yield server.address


@pytest.fixture(scope="module")
def done(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> "subprocess.CompletedProcess[str]":
    """The load test of every part, each as short as can be, and its plot."""
    plot = tmp_path_factory.mktemp("plot") / "load.png"
    files = ["--bundle", str(plain), "--plot", str(plot), "--json"]
    flags = ["--rounds", "1", "--seconds", "0.2", "--overload-seconds", "0.3", "--soak", "0.5"]
    return subprocess.run(
        [sys.executable, "-m", "tests.load", "loadtest", *files, *flags],
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
    for server in ("search", "naive"):
        for percent in OFFERED:
            assert f"{server}_open{percent}_rps" in report
            share = report[f"{server}_open{percent}_answered_share"]
            assert share is None or 0 <= share <= 1
    (note,) = [note for note in report["notes"] if note.startswith("p99 is uncertain")]
    counts = [int(count) for count in re.findall(r" \((\d+)\)", note)]
    assert counts and max(counts) < 1000  # so short a test times few calls, how many depends on the machine
    for each in TARGETS:
        assert each.key in report
    assert report["one_worker_pss_mib"] > 10
    assert report["inprocess_paced_us"] > 0
    assert report["p50_c1_over_paced_parts"] > 0
    assert report["targets_missed"] == missed(TARGETS, report)
    assert report["distinct_queries"] > 100


def test_answers_are_compared_and_right(report: Any) -> None:
    assert report["content_checked"] > 0
    assert (report["content_different"], report["content_first_difference"]) == (0, "")


def test_answers_that_depend_on_the_batch_are_not_compared(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path, 20, precision=Precisions(query="int8_dynamic"))
    flags = ["--bundle", str(folder), "--json", "--only", "batch", "--rounds", "1", "--seconds", "0.1"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.load", "loadtest", *flags], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["content_checked"], report["content_different"]) == (0, 0)
    assert UNCOMPARED in report["notes"]


def test_the_plot_is_a_picture(report: Any) -> None:
    assert Path(report["plot"]).read_bytes().startswith(b"\x89PNG")


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
    assert {"closed loop", "open loop", "targets"} <= {line.strip() for line in lines}
    (heads,) = [line for line in lines if "offered/s" in line]
    assert heads.endswith("in time  p50 / p99 ms of those answered in time")


def test_targets_that_were_not_measured_are_not_missed() -> None:
    assert missed(TARGETS, {}) == []
    assert missed(TARGETS, {"batch32_share": 0.84, "soak_errors": 0}) == ["batch32_share"]
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


def test_a_running_server_is_driven(capsys: Capture, address: str, tmp_path: Path) -> None:
    flags = ("--address", address, "--clients", "2", "--seconds", "0.3")
    found = document(capsys, "loadtest", *flags)
    assert found["note"] == "closed loop; clients and server share one machine"
    assert (found["clients"], found["errors"]) == (2, {})
    assert found["requests_per_s"] == pytest.approx(found["requests"] / 0.3, rel=0.01)
    assert 0 < found["search_p50_ms"] <= found["search_p95_ms"] <= found["search_p99_ms"]
    assert ("p99_note" in found) == (found["requests"] < P99_CALLS)
    (tmp_path / "queries.txt").write_text("a\n\nb\n" + "c" * 10_001)
    queries = ("--queries", str(tmp_path / "queries.txt"))
    found = document(capsys, "loadtest", *flags, *queries)
    assert found["distinct_queries"] == 3
    assert found["errors"]["INVALID_ARGUMENT"] > 0
    (tmp_path / "queries.txt").write_text("c" * 10_001)
    assert "no request was answered: {'INVALID_ARGUMENT': " in failure(capsys, "loadtest", *flags, *queries)
    (tmp_path / "queries.txt").write_text("\n")
    assert "expected a query on each line" in failure(capsys, "loadtest", *flags, *queries)
    missing = ("--queries", str(tmp_path / "none"))
    assert "cannot be read: No such file" in failure(capsys, "loadtest", *flags, *missing)


def test_a_server_of_histories_is_driven(capsys: Capture, watched: Path) -> None:
    with RetrievalServer(Retriever.load(watched)) as server:
        found = document(capsys, "loadtest", "--address", server.address, "--seconds", "0.3")
    assert (found["errors"], found["requests"] > 0) == ({}, True)


def test_without_a_bundle_there_is_nothing_to_test(capsys: Capture, tmp_path: Path) -> None:
    assert "holds no bundle" in failure(capsys, "loadtest", "--bundle", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--clients", "257"], "from 1 to 256, got '257'"),
        (["--seconds", "301"], "at most 300, got '301'"),
        (["--seed", "-1"], "expected a whole number from 0"),
        (["--address", "192.0.2.1:50051"], "is not this machine"),
        (["--address", "example.org:50051"], "is not this machine"),
        (["--address", "127.0.0.1:1", "--bundle", "b"], "not allowed with argument"),
        (["--address", "127.0.0.1:1", "--rounds", "2"], "--rounds: has no effect with --address"),
        (["--clients", "2"], "--clients: has no effect with --bundle"),
        (["--only", "closed,dance"], "expected some of closed, batch, open, overload, workers, got 'dance'"),
    ],
)
def test_misuse_is_told_apart(capsys: Capture, arguments: list[str], expected: str) -> None:
    assert expected in misuse(capsys, "loadtest", *arguments)


def test_parts_must_go_together(capsys: Capture, plain: Path) -> None:
    only = ("loadtest", "--bundle", str(plain), "--only", "batch")
    assert "--soak: follows the overload" in misuse(capsys, *only, "--soak", "1")
    assert "--plot: shows the parts closed and open" in misuse(capsys, *only, "--plot", "a.png")
