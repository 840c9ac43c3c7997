"""Equal queries become one query, which has the positives of all its pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from twinspire.protos.features import CategoryFeature, FeatureSpec, NumberFeature, TextFeature
from twinspire.train.data.dataset import Dataset
from twinspire.train.data.training_data import Pairs, Positives, training_data_of, values_of

QUERY: dict[str, FeatureSpec] = {"text": TextFeature("text", "query")}
ITEM: dict[str, FeatureSpec] = {"text": TextFeature("text", "title", catalogue_column="full")}


def dataset(pairs: dict[str, list[Any]], **types: pl.DataType) -> Dataset:
    items = pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["A", "B", "C"], "full": ["AA", "BB", "CC"]})
    count = len(pairs["item_row"])
    frame = pl.DataFrame({"weight": [1.0] * count, "group": [0] * count, **pairs}, schema_overrides=types)
    frame = frame.cast({"weight": pl.Float32, "item_row": pl.UInt32})
    return Dataset(Path(), items, frame.lazy(), {"unit": "queries"})


def test_equal_queries_become_one_across_parts() -> None:
    data = dataset(
        {
            "query": ["read", "write", "read", "read"],
            "item_row": [0, 1, 2, 1],
            "part": ["train", "train", "test", "validation"],
        }
    )
    training_data = training_data_of(data, QUERY, ITEM)
    assert training_data.query_count == 2
    assert (training_data.query_count, training_data.item_count) == (len(training_data.queries["text"]), 3)
    asked = {
        part: [training_data.queries["text"][row] for row in pairs.query]
        for part, pairs in training_data.parts.items()
    }
    assert asked == {"train": ["read", "write"], "validation": ["read"], "test": ["read"], "cold": []}
    assert training_data.items == {"text": ["A", "B", "C"]}
    assert values_of(data.items, ITEM, catalogue=True) == {"text": ["AA", "BB", "CC"]}


def test_queries_that_differ_in_any_feature_are_two() -> None:
    features: dict[str, FeatureSpec] = {
        **QUERY,
        "tags": CategoryFeature("category", "tags", multi=True),
        "age": NumberFeature("number", "age"),
    }
    data = dataset(
        {
            "query": ["q"] * 6,
            "tags": [["a"], ["a", "b"], ["a"], ["a"], [], None],
            "age": [1.0, 1.0, None, 1.0, 1.0, 1.0],
            "item_row": [0, 1, 2, 1, 0, 0],
            "part": ["train"] * 4 + ["validation", "test"],
        }
    )
    training_data = training_data_of(data, features, ITEM)
    rows = [tuple(values) for values in zip(*training_data.queries.values(), strict=True)]
    assert len(rows) == training_data.query_count == 5
    for part, pairs in training_data.parts.items():
        expected = data.pairs.filter(pl.col("part") == part).select("query", "tags", "age").rows()
        assert [rows[row] for row in pairs.query] == expected


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=30))
def test_positives_and_pairs_by_query_are_those_of_a_dictionary(pairs: list[tuple[int, int]]) -> None:
    query, item = np.array(pairs).T
    made = Pairs(query, item, np.ones(len(pairs), np.float32))
    expected = {q: sorted({i for other, i in pairs if other == q}) for q, _ in sorted(pairs)}
    queries, relevant = made.by_query()
    assert dict(zip(queries.tolist(), map(list, relevant), strict=True)) == expected
    positives = Positives.of(made, queries=8)
    asked = np.array([5, 0, 7, 5])
    place, found = positives.of_queries(asked)
    for n, each in enumerate(asked):
        assert found[place == n].tolist() == expected.get(each, [])


def test_further_answers_of_a_query_move_with_its_items() -> None:
    one = np.ones(2, np.float32)
    answers = Positives.of(Pairs(np.array([0, 0]), np.array([1, 2]), one), 2)
    pairs = Pairs(np.array([0, 1]), np.array([0, 2]), one, answers=answers)
    queries, relevant = pairs.with_rows(np.array([5, 3, 4])).by_query()
    assert (queries.tolist(), [each.tolist() for each in relevant]) == ([0, 1], [[3, 4, 5], [4]])
