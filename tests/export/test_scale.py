"""The scale report goes on where it was killed, and shows no figure at another recall."""

import argparse
import copy
import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from export.scale import command, page, tables
from export.scale.capacity import at_target, laws_of
from export.scale.fits import line, power_law
from export.scale.measuring import memory
from export.scale.measuring.__main__ import measure
from export.scale.measuring.documents import ITEMS, QUERIES, slices, topics_of, write_items
from export.scale.measuring.quantised import BLOCK, Best, Int8Search
from export.scale.measuring.vectors import blocks, made
from export.scale.run import CATALOGUE, VECTORS, Subject, measured
from export.scale.wording import about, duration, milliseconds, size
from protos.errors import Unavailable
from protos.vectors import int8_rows
from tests.export.rendered import HOSTILE, elements

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


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def document(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Document:
    """A report that was broken off in its second size, and made again."""
    output, first, second = tmp_path_factory.mktemp("output"), Launcher(("search", 1500)), Launcher()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.scale.measuring.searching.SECONDS", 0.1)
        with pytest.raises(KeyboardInterrupt):
            command.run(SIZES, COUNT, output, 0, work, first)
        found = command.run(SIZES, COUNT, output, 0, work, second)
    assert first.asked == [*((step, 500) for step in CATALOGUE), ("encode", 1500), ("build", 1500)]
    assert second.asked == [("search", 1500), ("load", 1500), *((step, COUNT) for step in VECTORS)]
    return found


def test_documents_are_seeded_and_clustered() -> None:
    topics = topics_of(0, 5_000)
    some, again = (topics.documents(0, ITEMS, 3, 2_000) for _ in range(2))
    assert some.texts == again.texts
    assert some.texts != topics.documents(1, ITEMS, 3, 2_000).texts
    assert some.texts != topics.documents(0, QUERIES, 3, 2_000).texts
    assert all(4 <= len(text.split()) <= 10 and 20 <= len(text) <= 61 for text in some.texts)
    sizes = np.bincount(some.topics, minlength=10)
    assert sizes.min() > 0 and sizes[0] > 3 * sizes[-1]
    common = set(topics.common)
    own = [set(text.split()) - common for text in some.texts]
    for n in range(50):  # most words shared: the same topic
        shared = np.array([len(own[n] & other) for other in own])
        shared[n] = 0
        assert some.topics[shared.argmax()] == some.topics[n]


def test_a_catalogue_is_the_same_in_memory_and_in_its_file(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("export.scale.measuring.documents.SLICE", 300)
    topics = topics_of(0, 1_000)
    write_items(tmp_path / "items.tsv", topics, 0, 1_000)
    frame = pl.read_csv(tmp_path / "items.tsv", separator="\t")
    texts = list(chain.from_iterable(each.texts for each in slices(topics, 0, 1_000)))
    assert frame["text"].to_list() == texts
    assert len(texts) == frame["item_id"].n_unique() == 1_000
    assert [path.name for path in tmp_path.iterdir()] == ["items.tsv"]


def test_vectors_are_seeded_and_clustered_and_queries_are_others() -> None:
    count = 4_000
    (first, some), (_, again) = (next(blocks(count, seed=0)) for _ in range(2))
    assert first == 0 and np.array_equal(some, again)
    np.testing.assert_allclose(np.linalg.norm(some, axis=1), 1, atol=1e-6)
    queries = made(count, 0, QUERIES, 0, 50)
    best = np.sort(queries @ some.T, axis=1)
    assert (best[:, -10:].mean(axis=1) > best.mean(axis=1) + 0.4).all()
    assert best[:, -1].max() < 0.999


@pytest.mark.parametrize("threads", [1, 3])
def test_int8_search_agrees_with_numpy(threads: int) -> None:
    rng = np.random.default_rng(0)
    rows, scales = int8_rows(rng.standard_normal((2 * BLOCK + 500, 16), np.float32))
    rows[7], scales[7] = rows[-1], scales[-1]  # equals: the lower row comes first
    queries = rng.standard_normal((5, 16), np.float32)
    queries[0] = rows[7] * scales[7]
    found = Int8Search(rows, scales).search(queries, 10, threads)
    scores = queries @ (rows.astype(np.float32) * scales[:, None]).T
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    assert found.rows[0, 0] == 7
    np.testing.assert_array_equal(found.rows[1:], expected[1:])
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, found.rows, axis=1), rtol=1e-4)
    few = Int8Search(rows[:4], scales[:4]).search(queries, 10, threads)
    assert (few.rows[:, 4:] == -1).all() and (np.sort(few.rows[:, :4], axis=1) == range(4)).all()


def test_the_best_do_not_depend_on_how_they_come_in() -> None:
    scores = np.random.default_rng(0).integers(0, 50, (1_000, 3)).astype(np.float32)
    whole, parts = Best(3, 20), Best(3, 20)
    whole.see(scores, 0)
    for at in range(0, 1_000, 70):
        parts.see(scores[at : at + 70], at)
    np.testing.assert_array_equal(whole.rows, parts.rows)
    np.testing.assert_array_equal(whole.rows, np.argsort(-scores.T, axis=1, kind="stable")[:, :20])


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
    if not memory.forget_peak():
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
        assert load["rss_bytes"] > load["before_bytes"] and len(load["loads"]) == 3
        assert ("graph_1000" in search) == (each["items"] >= 1_000)
    exact = document["vectors"]["exact"]
    assert document["vectors"]["vectors"]["file_bytes"] == COUNT * (64 + 4)
    assert 0.9 < exact["recall"] <= 1
    text = Path(document["page"]).read_text()
    for expected in ("1,500", "0.98", "D = 64", "int8", "256 GiB", "scale.png", "Milvus", "Extrapolated"):
        assert expected in text
    assert Path(document["plot"]).read_bytes().startswith(b"\x89PNG")
    assert not [path for path in work.iterdir() if path.is_dir()]  # what was made is gone, figures stay
    assert len(list(work.glob("*.json"))) == 3
    json.dumps(document, allow_nan=False)
    console = Console(record=True, width=200)
    tables.show(document, console)
    assert "1,500" in console.export_text()


def test_what_was_measured_is_not_measured_again(document: Document, work: Path, console: Console) -> None:
    launch = Launcher()
    subjects = [Subject(each, CATALOGUE, 0) for each in SIZES]
    assert measured(subjects, console, work, launch) == document["sizes"]
    assert launch.asked == []
    names = {Subject(500, CATALOGUE, seed).name for seed in (0, 1)} | {Subject(500, VECTORS, 0).name}
    assert len(names) == 3


def test_a_size_that_misses_the_recall_has_no_times(document: Document) -> None:
    missed = copy.deepcopy(document)
    search = missed["sizes"][1]["search"]
    search |= {"recall": 0.9712, "graph": search["graph"] | {"p50_us": 123_456.0, "p99_us": 234_567.0}}
    text = page.page(missed, "scale.png")
    assert "not reached" not in page.page(document, "scale.png")
    assert "not reached" in text and "0.9712" in text
    (row,) = [line for line in text.splitlines() if line.startswith("|") and "0.9712" in line]
    assert [cell.strip() for cell in row.split("|")[4:7]] == ["not reached"] * 3
    laws = laws_of(missed["sizes"])
    assert laws is not None and laws.p50_us is None


def test_names_from_outside_are_shown_as_text(document: Document) -> None:
    pages = []
    for text in (" ".join(HOSTILE), "x"):
        changed = copy.deepcopy(document)
        changed["machine"] |= {"processor": text, "system": text}
        changed |= {"versions": {"numpy": text}, "at": text, "measured_by": text, "vectors": None}
        changed["left_out"] = text
        changed["sizes"][0]["encode"]["example"] = text
        pages.append([each for each in elements(page.page(changed, "scale.png")) if each[0] != "code"])
    assert pages[0] == pages[1]


def test_capacity_is_what_memory_and_rebuilding_allow(document: Document) -> None:
    laws = laws_of(document["sizes"])
    assert laws is not None
    for wanted in (600.0, 6e4):
        items = laws.items_within(wanted)
        assert laws.rebuild_s(items) == pytest.approx(wanted, rel=1e-3)
    each = laws.bytes_an_item(64)
    assert laws.bytes_an_item(512) == pytest.approx(each + 2 * 4 * (512 - 64))
    assert laws.items_in(64, 64) * each == pytest.approx(0.8 * 64 * 2**30, rel=0.01)
    assert laws_of(document["sizes"][:1]) is None


def test_one_size_alone_makes_a_page(document: Document, work: Path, tmp_path: Path) -> None:
    found = command.run((500,), 0, tmp_path, 0, work, Launcher())
    text = Path(found["page"]).read_text()
    assert found["capacity"] is None and found["left_out"] == "they were not asked for"
    assert "One size says nothing of growth" in text and "not asked for" in text


def test_a_step_that_fails_is_told_and_nobody_else_may_measure(tmp_path: Path, console: Console) -> None:
    def other(step: str, folder: Path, items: int, seed: int) -> None:
        with pytest.raises(Unavailable, match="another scale report"):
            measured([Subject(300, VECTORS, 0)], console, tmp_path)
        (folder / f"{step}.json").write_text("{}")

    measured([Subject(200, VECTORS, 0)], console, tmp_path, other)
    # In a process of its own: there is no graph to search yet.
    with pytest.raises(Unavailable, match="search of 200 items ended with 1"):
        measured([Subject(200, ("search",), 0)], console, tmp_path)


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
    assert [duration(each) for each in (0.42, 43, 300, 8 * 3600, 9e6)] == [
        "0.42 s",
        "43 s",
        "5 min",
        "8 h",
        "100 days",
    ]
    assert [size(each) for each in (4.2e6, 9.3e7, 2.5e9)] == ["4.2 MB", "93 MB", "2.50 GB"]
    assert [about(each) for each in (371_234, 13.6e6, 1.84e9)] == ["370,000", "14 million", "1.8 billion"]
    assert [milliseconds(each) for each in (41, 620, 44_123, 445_000)] == ["0.041", "0.62", "44.1", "445"]
