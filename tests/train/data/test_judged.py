"""Judged queries: read from a folder, kept beside the pairs, answered over the served items."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from tests.helpers.beir import write_folder
from twinspire.protos.errors import DataError
from twinspire.protos.features import CategoryFeature, FeatureSpec, HistoryFeature, TextFeature
from twinspire.train.config import Experiment, read_experiment
from twinspire.train.config.data import JudgedConfig
from twinspire.train.config.losses import InBatchSoftmax
from twinspire.train.config.towers import BagTower
from twinspire.train.data.dataset import Dataset, prepare
from twinspire.train.data.judged import read_judged
from twinspire.train.data.sources.files import FilesData
from twinspire.train.data.training_data import TrainingData, training_data_of

QUERY: dict[str, FeatureSpec] = {"text": TextFeature("text", "asked")}
ITEM: dict[str, FeatureSpec] = {"text": TextFeature("text", "title", catalogue_column="full")}
IDS = pl.Series("item_id", ["a", "b", "c"])
QUERIES = {"q1": "wings", "q2": "heat", "q3": "wings", "q4": "shock"}
JUDGED = [("q3", "c", 1), ("q1", "b", 3), ("q1", "a", 1), ("q1", "c", 0), ("q2", "b", 2), ("q4", "a", -1)]


def read(
    base: Path,
    judged: Any = JUDGED,
    query: Mapping[str, FeatureSpec] = QUERY,
    queries: Mapping[str, str] | None = None,
) -> tuple[pl.DataFrame, dict[str, int]]:
    write_folder(base / "asked", [], queries or QUERIES, test=judged)
    return read_judged(base, JudgedConfig("asked"), query, IDS)


def test_each_judgement_of_a_relevant_item_is_a_row(tmp_path: Path) -> None:
    table = read(tmp_path)
    assert table[0].select("query_id", "asked", "item_row", "score").rows() == [
        ("q1", "wings", 1, 3),
        ("q1", "wings", 0, 1),
        ("q2", "heat", 1, 2),
        ("q3", "wings", 2, 1),
    ]
    assert table[1] == {"judged query without a relevant document": 1}


def test_what_nobody_knows_is_left_out_and_counted(tmp_path: Path) -> None:
    table = read(tmp_path, [*JUDGED, ("q9", "a", 1), ("q2", "z", 1), ("q3", "c", 1)])
    assert table[0].height == 4
    assert table[1] == {
        "judgement merged with an equal one": 1,
        "judgement of a query that is not in queries.jsonl": 1,
        "judgement of a document that is not in the catalogue": 1,
        "judged query without a relevant document": 1,
    }


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "foreign ids": (
        {"judged": [("q1", "doc-7", 1), ("q8", "a", 1)]},
        "no query with a relevant document is left of 2 judgements: 1 name a query that",
    ),
    "too high": (
        {"judged": [("q1", "a", 1001)]},
        "test.tsv: row 1, column 'score': expected a whole number of at most 1,000, got '1001'",
    ),
    "another feature": (
        {"query": {**QUERY, "device": CategoryFeature("category", "device")}},
        "queries.jsonl: column 'device' is missing; columns present: _id, text",
    ),
    "history": (
        {"query": {**QUERY, "seen": HistoryFeature("history")}},
        "queries.jsonl: query.seen is a history, which queries.jsonl cannot hold",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    changed, expected = BAD[case]
    with pytest.raises(DataError) as error:
        read(tmp_path, **changed)
    assert expected in str(error.value)


@pytest.fixture
def shop(tmp_path: Path) -> Experiment:
    """An experiment on tables of its own, with judged queries beside them."""
    items = "".join(f"i{n},title {n},title {n} and all\n" for n in range(40))
    pairs = "".join(f"query {n % 30},i{n % 40}\n" for n in range(120))
    (tmp_path / "items.csv").write_text("item_id,title,full\n" + items)
    (tmp_path / "pairs.csv").write_text("asked,item_id\n" + pairs)
    asked = {"x": "3, Query!", "y": "something else", "z": "something else"}
    judged = [("x", "i1", 1), ("y", "i2", 3), ("y", "i0", 1), ("z", "i39", 2), ("z", "gone", 1)]
    write_folder(tmp_path / "judged", [], asked, best=judged)
    return Experiment(
        name="shop",
        data=FilesData("files", "items.csv", "pairs.csv"),
        query=QUERY,
        item=ITEM,
        tower=BagTower("bag"),
        loss=InBatchSoftmax("in_batch_softmax"),
        judged=JudgedConfig("judged", "best"),
    )


def prepared(experiment: Experiment, base: Path) -> Dataset:
    return prepare(experiment, base, base / "cache", console=Console(file=io.StringIO()))


def in_memory(experiment: Experiment, base: Path) -> TrainingData:
    return training_data_of(prepared(experiment, base), experiment.query, experiment.item)


def test_any_kind_of_data_can_have_judged_queries(shop: Experiment, tmp_path: Path) -> None:
    dataset = prepared(shop, tmp_path)
    report = dataset.report
    judged = report["judged"]
    assert (judged["queries"], judged["queries_in_training"]) == (3, 1)
    assert judged["judgements"] == {"1": 2, "2": 1, "3": 1}
    assert report["dropped"]["judged: judgement of a document that is not in the catalogue"] == 1


def test_other_judgements_are_another_data_set_of_the_same_split(shop: Experiment, tmp_path: Path) -> None:
    first = prepared(shop, tmp_path)
    write_folder(tmp_path / "judged", [], {"x": "query 3"}, best=[("x", "i1", 2)])
    second = prepared(shop, tmp_path)
    without = prepared(replace(shop, judged=None), tmp_path)
    assert len({each.report["fingerprint"] for each in (first, second, without)}) == 3
    assert first.split_hash == second.split_hash == without.split_hash
    assert without.judged is None


def test_judged_queries_are_distinct_queries_among_the_others(shop: Experiment, tmp_path: Path) -> None:
    data, plain = in_memory(shop, tmp_path), in_memory(replace(shop, judged=None), tmp_path)
    assert data.judged is not None
    assert list(data.judged.ids) == ["x", "y", "z"]
    texts = data.queries["text"]
    assert [texts[row] for row in data.judged.query] == ["3, Query!", "something else", "something else"]
    assert data.query_count == len(texts) == plain.query_count + 2
    assert [rows.tolist() for rows in data.judged.relevant] == [[1], [0, 2], [39]]
    assert [gains.tolist() for gains in data.judged.gains] == [[1], [1, 3], [2]]
    for part, pairs in plain.parts.items():
        same = [data.queries["text"][row] for row in data.parts[part].query]
        assert same == [plain.queries["text"][row] for row in pairs.query]
        np.testing.assert_array_equal(data.parts[part].item, pairs.item)
    assert plain.judged is None


def test_judged_queries_are_answered_over_what_is_served(shop: Experiment, tmp_path: Path) -> None:
    data = in_memory(shop, tmp_path)
    served = data.as_served()
    assert data.serves_other_texts
    assert served.items["text"][7] == "title 7 and all"
    assert served.chosen_with == data.items
    assert served.chosen_with["text"][7] == "title 7"
    plain = replace(shop, item={"text": TextFeature("text", "title")})
    alike = in_memory(plain, tmp_path)
    assert alike.as_served() is alike
    assert alike.chosen_with is None


def test_a_folder_brings_its_own_judged_queries(tmp_path: Path) -> None:
    documents = [{"_id": f"{n}", "title": f"title {n}", "text": f"text of {n}"} for n in range(40)]
    folder = write_folder(tmp_path / "papers", documents, {"q": "asked"}, test=[("q", "7", 2)])
    path = tmp_path / "papers.toml"
    path.write_text('name = "papers"\ndata.kind = "beir"\ndata.folder = "papers"\n')
    experiment = read_experiment(path)
    judged = prepared(experiment, tmp_path).report["judged"]
    assert (judged["folder"], judged["split"], judged["queries"]) == ("papers", "test", 1)
    write_folder(tmp_path / "others", [], {"p": "asked", "r": "else"}, dev=[("p", "1", 1), ("r", "2", 1)])
    path.write_text(path.read_text() + '[judged]\nfolder = "others"\nsplit = "dev"\n')
    assert prepared(read_experiment(path), tmp_path).report["judged"]["queries"] == 2
    (folder / "qrels" / "test.tsv").unlink()
    assert "judged" not in prepared(experiment, tmp_path).report
