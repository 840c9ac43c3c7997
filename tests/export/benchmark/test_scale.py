"""The scale report goes on where it was killed, and shows no figure at another recall."""

import argparse
import copy
import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from export.benchmark.report_writer import page_of, size, value
from export.benchmark.scale import command, report
from export.benchmark.scale.command import CATALOGUE, VECTORS, Launch, measured
from export.benchmark.scale.extrapolation import (
    BUILDING,
    LOADING,
    SERVING,
    at_target,
    laws_of,
    line,
    power_law,
)
from export.benchmark.scale.measuring.__main__ import measure
from export.benchmark.scale.measuring.documents import ITEMS, QUERIES, Documents
from export.benchmark.scale.measuring.int8_vectors import BLOCK, best, generate, search_int8
from export.benchmark.scale.report import about, hours, milliseconds, parts_of
from export.benchmark.towers import torch_threads
from protos.errors import Unavailable
from protos.system import memory
from protos.vectors import int8_rows
from tests.helpers.rendered import HOSTILE, elements

pytestmark = pytest.mark.exhaustive

SIZES = (500, 1500)
COUNT = 3_000

Document = dict[str, Any]


class Launcher:
    """Measures in this process, and remembers what it was asked for; breaks off before `dies_at`."""

    def __init__(self, dies_at: tuple[str, int] | None = None) -> None:
        self.asked: list[tuple[str, int]] = []
        self.dies_at = dies_at

    def __call__(self, step: str, folder: Path, items: int, seed: int) -> None:
        if (step, items) == self.dies_at:
            raise KeyboardInterrupt
        self.asked.append((step, items))
        measure(step, folder, items, seed)


def scale(sizes: tuple[int, ...], vectors: int, output: Path, work: Path, launch: Launch) -> Document:
    asked = argparse.Namespace(sizes=sizes, vectors=vectors, output=output, seed=0)
    return command.scale(asked, work, launch)


def page(document: Document) -> str:
    return page_of(parts_of(document))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def document(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Document:
    """A report that was broken off in its second size, and made again."""
    output, first, second = tmp_path_factory.mktemp("output"), Launcher(("search", 1500)), Launcher()
    with pytest.MonkeyPatch.context() as patch, torch_threads(0):
        patch.setattr("export.benchmark.scale.measuring.graph.SECONDS", 0.1)
        with pytest.raises(KeyboardInterrupt):
            scale(SIZES, COUNT, output, work, first)
        found = scale(SIZES, COUNT, output, work, second)
    assert first.asked == [*((step, 500) for step in CATALOGUE), ("encode", 1500), ("build", 1500)]
    assert second.asked == [("search", 1500), ("load", 1500), *((step, COUNT) for step in VECTORS)]
    return found


def test_documents_are_seeded_and_clustered() -> None:
    documents = Documents(0, 5_000)
    (texts, topics), (again, _) = (documents.draw(ITEMS, 3, 2_000) for _ in range(2))
    assert texts == again
    assert texts != Documents(1, 5_000).draw(ITEMS, 3, 2_000)[0]
    assert texts != documents.draw(QUERIES, 3, 2_000)[0]
    assert all(4 <= len(text.split()) <= 10 and 20 <= len(text) <= 61 for text in texts)
    sizes = np.bincount(topics, minlength=10)
    assert sizes.min() > 0 and sizes[0] > 3 * sizes[-1]
    common = set(documents.common)
    own = [set(text.split()) - common for text in texts]
    for n in range(50):  # most words shared: the same topic
        shared = np.array([len(own[n] & other) for other in own])
        shared[n] = 0
        assert topics[shared.argmax()] == topics[n]


def test_a_catalogue_is_the_same_in_memory_and_in_its_file(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("export.benchmark.scale.measuring.documents.SLICE", 300)
    documents = Documents(0, 1_000)
    documents.write_items(tmp_path / "items.tsv")
    frame = pl.read_csv(tmp_path / "items.tsv", separator="\t")
    texts = list(chain.from_iterable(documents.slices()))
    assert frame["text"].to_list() == texts
    assert len(texts) == frame["item_id"].n_unique() == 1_000
    assert [path.name for path in tmp_path.iterdir()] == ["items.tsv"]


def test_vectors_are_seeded_and_clustered_and_queries_are_others() -> None:
    count = 4_000
    some, again = (generate(count, 0, ITEMS, 0, count) for _ in range(2))
    assert np.array_equal(some, again)
    np.testing.assert_allclose(np.linalg.norm(some, axis=1), 1, atol=1e-6)
    queries = generate(count, 0, QUERIES, 0, 50)
    scores = np.sort(queries @ some.T, axis=1)
    assert (scores[:, -10:].mean(axis=1) > scores.mean(axis=1) + 0.4).all()
    assert scores[:, -1].max() < 0.999


@pytest.mark.parametrize("threads", [1, 3])
def test_int8_search_agrees_with_numpy(threads: int) -> None:
    rng = np.random.default_rng(0)
    rows, scales = int8_rows(rng.standard_normal((2 * BLOCK + 500, 16), np.float32))
    rows[7], scales[7] = rows[-1], scales[-1]  # equals: the lower row comes first
    queries = rng.standard_normal((5, 16), np.float32)
    queries[0] = rows[7] * scales[7]
    found, products = search_int8(rows, scales, queries, 10, threads)
    scores = queries @ (rows.astype(np.float32) * scales[:, None]).T
    assert found[0, 0] == 7
    assert all(len({*best}) == 10 for best in found.tolist())
    np.testing.assert_allclose(products, np.take_along_axis(scores, found, axis=1), rtol=1e-4)
    np.testing.assert_allclose(products, -np.sort(-scores, axis=1)[:, :10], rtol=1e-4)
    few, _ = search_int8(rows[:4], scales[:4], queries, 10, threads)
    assert (few[:, 4:] == -1).all() and (np.sort(few[:, :4], axis=1) == range(4)).all()


def test_the_best_do_not_depend_on_how_they_come_in() -> None:
    scores = np.random.default_rng(0).integers(0, 50, (1_000, 3)).astype(np.float32)
    whole, _ = best([(0, scores)], 3, 20)
    parts, _ = best(((at, scores[at : at + 70]) for at in range(0, 1_000, 70)), 3, 20)
    np.testing.assert_array_equal(whole, parts)
    np.testing.assert_array_equal(whole, np.argsort(-scores.T, axis=1, kind="stable")[:, :20])


def test_fits_recover_what_they_were_made_from() -> None:
    sizes = [1e3, 1e4, 1e5, 1e6]
    noise = np.exp(np.random.default_rng(0).normal(0, 0.02, 4))
    law = power_law(sizes, (3e-6 * np.array(sizes) ** 1.15 * noise).tolist())
    assert law is not None and law.exponent == pytest.approx(1.15, abs=0.02)
    assert law.at(1e7) == pytest.approx(3e-6 * 1e7**1.15, rel=0.2)
    straight = line(sizes, [9e7 + 700 * n for n in sizes])
    assert straight is not None
    assert straight.base == pytest.approx(9e7)
    assert straight.each == pytest.approx(700)
    assert power_law([1e3, 1e3], [1, 2]) is None and line([1e3], [1]) is None


def test_a_peak_is_of_its_own_step() -> None:
    held = np.ones(50_000_000 // 8)
    high = memory.peak()
    del held
    if not memory.reset_peak():
        pytest.skip("this system does not let a process forget its peak")
    low = memory.peak()
    assert high is not None and low is not None and low < high - 40_000_000
    assert memory.resident() <= low * 1.1


def test_a_report_is_whole_and_its_files_tell_it(document: Document, work: Path) -> None:
    assert [each["items"] for each in document["sizes"]] == list(SIZES)
    for each in document["sizes"]:
        search, load = each["search"], each["load"]
        assert at_target(each) and search["recall"] >= 0.98 and search["queries"] == 1_000
        assert search["graph"]["p99_us"] >= search["graph"]["p50_us"] > 0
        assert each["build"]["file_bytes"] > each["items"] * 64 * 4
        assert load["rss_bytes"] > 0 and len(load["loads"]) == 3
    exact = document["vectors"]["exact"]
    assert document["vectors"]["vectors"]["file_bytes"] == COUNT * (64 + 4)
    assert 0.9 < exact["recall"] <= 1
    text = re.sub(" +", " ", Path(document["page"]).read_text())
    for expected in ("1,500", "0.98", "D = 64", "int8", "| 256 |", "scale.png", "extrapolated"):
        assert expected in text
    assert Path(document["plot"]).read_bytes().startswith(b"\x89PNG")
    assert not [path for path in work.iterdir() if path.is_dir()]  # what was made is gone, figures stay
    assert len(list(work.glob("*.json"))) == 3
    json.dumps(document, allow_nan=False)
    console = Console(record=True, width=200)
    report.show(document, console)
    assert "1,500" in console.export_text()


def test_every_declared_figure_is_measured(document: Document) -> None:
    # A table leaves a missing figure empty, so a wrong path would not be seen.
    shown = [column.path for column in (*report.BUILDING, *report.QUERIES)]
    fitted = [*(curve.path for curve in report.CURVES), BUILDING, LOADING, SERVING]
    for each in document["sizes"]:
        assert [path for path in (*shown, *fitted) if value(each, path) is None] == []
    for path, _ in report.INT8_POINTS.values():
        assert value(document["vectors"], path) > 0
    assert document["capacity"]["largest"] == SIZES[-1]
    for machine in document["capacity"]["machines"]:
        assert [column.path for column in report.MACHINES if value(machine, column.path) is None] == []


def test_what_was_measured_is_not_measured_again(document: Document, work: Path, tmp_path: Path) -> None:
    launch = Launcher()
    assert [measured(each, CATALOGUE, 0, work, launch) for each in SIZES] == document["sizes"]
    assert launch.asked == []

    def nothing(step: str, folder: Path, items: int, seed: int) -> None:
        (folder / f"{step}.json").write_text("{}")

    for steps, seed in ((CATALOGUE, 0), (CATALOGUE, 1), (VECTORS, 0)):
        measured(500, steps, seed, tmp_path, nothing)
    assert len(list(tmp_path.glob("500-*.json"))) == 3


def test_a_size_that_misses_the_recall_has_no_times(document: Document) -> None:
    missed = copy.deepcopy(document)
    search = missed["sizes"][1]["search"]
    search |= {"recall": 0.9712, "graph": search["graph"] | {"p50_us": 123_456.0, "p99_us": 234_567.0}}
    text = page(missed)
    assert "not reached" not in page(document)
    assert "not reached" in text and "0.9712" in text
    (row,) = [line for line in text.splitlines() if line.startswith("|") and "0.9712" in line]
    assert [cell.strip() for cell in row.split("|")[4:7]] == [""] * 3


def test_a_peak_that_is_not_of_its_step_alone_is_told(document: Document) -> None:
    shared = copy.deepcopy(document)
    for each in shared["sizes"]:
        for step in report.PEAKED:
            each[step]["peak_is_own"] = True
    assert report.PEAKS not in page(shared)
    shared["sizes"][1]["build"]["peak_is_own"] = False
    assert report.PEAKS in page(shared)


def test_a_p99_of_few_queries_is_told(document: Document) -> None:
    changed = copy.deepcopy(document)
    for each in changed["sizes"]:
        for way in ("graph", "exact"):
            each["search"][way]["calls"] = 1000
    assert "p99 is uncertain" not in page(changed)
    last = changed["sizes"][-1]
    last["search"]["exact"]["calls"] = 20
    assert f"calls were timed: {last['items']:,} items, exact (20)\n" in page(changed)


def test_names_from_outside_are_shown_as_text(document: Document) -> None:
    pages = []
    for text in (" ".join(HOSTILE), "x"):
        changed = copy.deepcopy(document)
        changed["machine"] |= {"processor": text, "system": text}
        changed |= {"versions": {"numpy": text}, "at": text, "measured_by": text, "vectors": None}
        changed["left_out"] = text
        changed["sizes"][0]["encode"]["example"] = text
        pages.append([each for each in elements(page(changed)) if each[0] != "code"])
    assert pages[0] == pages[1]


def test_capacity_is_what_memory_and_rebuilding_allow(document: Document) -> None:
    laws = laws_of(document["sizes"])
    assert laws is not None
    encoding = 1e6 / document["sizes"][-1]["encode"]["items_per_s"]
    parts = encoding, laws.building.at(1e6), max(0, laws.loading.at(1e6))
    assert laws.rebuild_s(1e6) == pytest.approx(sum(parts))
    each = laws.bytes_an_item(64)
    assert laws.bytes_an_item(512) == pytest.approx(each + 2 * 4 * (512 - 64))
    assert laws.items_in(64, 64) * each == pytest.approx(0.8 * 64 * 2**30, rel=0.01)
    assert laws_of(document["sizes"][:1]) is None


def test_one_size_alone_makes_a_page(document: Document, work: Path, tmp_path: Path) -> None:
    found = scale((500,), 0, tmp_path, work, Launcher())
    text = Path(found["page"]).read_text()
    assert found["capacity"] is None and found["left_out"] == "--vectors is 0"
    assert "over 1 sizes; one is too few" in text and "vectors is 0" in text and "Capacity" not in text


def test_a_step_that_fails_is_told_and_no_other_report_may_measure(tmp_path: Path) -> None:
    def other(step: str, folder: Path, items: int, seed: int) -> None:
        with pytest.raises(Unavailable, match="another scale report"):
            scale((300,), 0, tmp_path, tmp_path, Launcher())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scale((200,), 0, tmp_path, tmp_path, other)
    # In a process of its own: there is no graph to search yet.
    with pytest.raises(Unavailable, match="search of 200 items ended with 1"):
        measured(200, ("search",), 0, tmp_path, command.run_step)


@pytest.mark.parametrize(
    "arguments",
    [["--sizes", "1000,500"], ["--sizes", "many"], ["--sizes", "10"], ["--vectors", "5"], ["--config", "x"]],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], capsys: Any) -> None:
    top = argparse.ArgumentParser()
    command.add_scale(top.add_subparsers())
    with pytest.raises(SystemExit) as ended:
        top.parse_args(["scale", *arguments])
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_vectors_that_do_not_fit_are_left_out_by_name(tmp_path: Path) -> None:
    assert command._too_many(1_000, tmp_path) == ""
    assert "GB of memory" in command._too_many(10**12, tmp_path)


def test_figures_read_well() -> None:
    assert [hours(each) for each in (300, 8 * 3600, 9e6)] == ["0.1", "8.0", "2,500.0"]
    assert [size(each) for each in (4.2e6, 9.3e7, 2.5e9)] == ["4.2 MB", "93 MB", "2.50 GB"]
    assert [about(each) for each in (371_234, 13.6e6, 1.84e9)] == ["370,000", "14 million", "1.8 billion"]
    assert [milliseconds(each) for each in (41, 620, 44_123, 445_000)] == ["0.041", "0.62", "44.1", "445"]
