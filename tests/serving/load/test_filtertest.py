"""The filter test, from the command on: it fails where a bucket misses its recall or has wrong answers."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.serving.shown import shown
from tests.helpers.tiny import FILTERS, build_links, tiny_bundle
from tests.load import filter_times
from tests.load.__main__ import main
from tests.load.cli import filtertest
from tests.load.cli.filtertest import failures
from tests.serving.cli.test_commands import Capture
from tests.serving.load.commands import document
from twinspire.protos import bundle
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.nearest import search
from twinspire.protos.system.machine import machine
from twinspire.protos.system.timing import Effort
from twinspire.serving.benchmark.filter_measurement import SELECTIVITIES

ITEMS = 8000  # enough for a search of the graph where half of them pass
QUERIES = 20


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose fields allow filters of each selectivity."""
    return tiny_bundle(tmp_path_factory.mktemp("filtertest"), ITEMS, filters=FILTERS)


@pytest.fixture
def few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take times of fewer calls than `make filtertest`: what they are is not looked at here."""
    monkeypatch.setattr(filter_times, "WHOLE", Effort(iterations=2 * QUERIES, fewest=QUERIES, seconds=1.0))
    monkeypatch.setattr(filter_times, "PARTS", Effort(iterations=QUERIES, fewest=10, seconds=1.0))


@pytest.mark.exhaustive
def test_recall_completeness_and_times_of_each_bucket(
    capsys: Capture, filtered: Path, few_calls: None
) -> None:
    flags = ("--bundle", str(filtered), "--queries", str(QUERIES))
    report = document(capsys, "filtertest", *flags)
    found = {(each["selectivity"], each["kind"]): each for each in report["buckets"]}
    assert len(found) + len(report["left_out"]) == 2 * len(SELECTIVITIES)
    assert {share for share, _ in found} == {*SELECTIVITIES}
    assert (report["failed"], report["filter_incomplete"], report["filter_wrong"]) == ([], 0, 0)
    assert report["filter_recall_min"] == min(each["recall"] for each in found.values()) >= 0.98
    assert machine()["processor"] in report["machine"]
    for each in found.values():
        assert 5 < each["queries"] <= QUERIES
        assert 5 < each["timed_queries"] <= QUERIES
        times = [*each["p50_us"].values(), *each["search_p50_us"].values()]
        assert np.isfinite(times).all() and min(times) > 0
    text = shown(filtertest.show, {**report, "failed": ["a bucket missed its recall"]})
    assert f"{report['items']:,} items" in text
    assert text.endswith("a bucket missed its recall\n")
    assert all(f"{each['p50_ratio']:.2f}" in text for each in report["buckets"])


def sparse(folder: Path, parent: Path) -> Path:
    """A copy of a bundle whose graph has too few links to find all items."""
    index = IndexParameters(space="ip", m=2, ef_construction=1, ef_search=10, seed=0)

    def fill(draft: Path) -> None:
        shutil.copytree(folder, draft, dirs_exist_ok=True)
        (draft / bundle.MANIFEST).unlink()
        vectors = np.load(draft / bundle.VECTORS)
        np.save(draft / bundle.LINKS, build_links(vectors, index.m, index.ef_construction))

    return bundle.write(parent, dataclasses.replace(bundle.read(folder), index=index), fill)


@pytest.mark.exhaustive
def test_a_bucket_below_its_recall_fails_by_name(
    capsys: Capture, filtered: Path, tmp_path: Path, few_calls: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "EXACT_SHARE", 1)  # so that the graph is searched, which misses some
    folder = sparse(filtered, tmp_path)
    # The graph depends on the processor: of few queries the interval may reach the bound.
    flags = ("--bundle", str(folder), "--queries", "60")
    assert main(["filtertest", *flags, "--json"]) == 1
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    low = [each for each in report["buckets"] if each["recall_high"] < report["recall_bound"] == 0.98]
    assert len(low) == len(report["failed"]) > 0
    for each in low:
        assert f"{each['selectivity']:.1%} {each['kind']}: recall {each['recall']:.4f}" in captured.err
    assert captured.err.count(": recall ") == len(low)


def test_what_a_bucket_misses_is_said() -> None:
    whole = {
        "selectivity": 0.1,
        "kind": "random",
        "queries": 9,
        "recall": 0.9,
        "recall_high": 0.94,
        "incomplete": 0,
        "wrong": 0,
    }
    assert failures([whole], 0.9) == []
    assert failures(
        [whole, whole | {"incomplete": 2}, whole | {"wrong": 1, "kind": "anti_correlated"}], 0.9
    ) == [
        "10.0% random: 2 of 9 answers have too few hits",
        "10.0% anti_correlated: 1 hits do not pass the filter",
    ]
    assert failures([whole], 0.94) == []
    assert failures([whole], 0.95) == [
        "10.0% random: recall 0.9000, 95 % interval up to 0.9400, expected 0.95"
    ]
