"""Figures of known and new, frequent and rare queries, and weighted by traffic."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.people import data_of_people
from tests.helpers.shop_logs import write_shop
from tests.helpers.stdlib import experiment_at
from tests.train.evaluation.test_baselines import data_of
from tests.train.evaluation.test_report import pairs_of
from twinspire.protos.inputs.query_words import word_numbers
from twinspire.train.config import read_experiment
from twinspire.train.data.training_data import TrainingData, training_data_of
from twinspire.train.evaluation.baselines import baselines
from twinspire.train.evaluation.intervals import clusters_of, interval
from twinspire.train.evaluation.query_groups import query_groups
from twinspire.train.evaluation.report import evaluate_ranking
from twinspire.train.metrics import HEADLINE, per_query


def log_of(trained: list[str], tested: list[str], weight: float = 1.0) -> TrainingData:
    """Clicks on one item after queries of training and of test; equal texts are one query.

    Args:
        weight: of the first click of either part.
    """
    texts = [*dict.fromkeys([*trained, *tested])]
    data = data_of(["shoe"], texts, [0] * len(texts))
    rows = {
        part: [texts.index(each) for each in asked] for part, asked in (("train", trained), ("test", tested))
    }
    parts = {part: pairs_of(each, [0] * len(each)) for part, each in rows.items()}
    for each in parts.values():
        each.weight[0] = weight
    return replace(data, parts={**data.parts, **parts}, query_words=word_numbers(texts))


def groups_of(data: TrainingData) -> dict[str, list[str]]:
    """Name -> texts of its test queries."""
    queries, _ = data.parts["test"].by_query()
    groups = query_groups(data, "test")
    texts = [data.queries["text"][query] for query in queries]
    counts = {name: weights.astype(int).tolist() for name, weights in groups.items()}
    return {
        name: [*chain(*([text] * n for text, n in zip(texts, each, strict=True)))]
        for name, each in counts.items()
    }


def test_queries_are_known_or_new_and_frequent_or_rare() -> None:
    trained = [*["a b"] * 3, *["B, a"] * 2, *["c"] * 2, "d", "e", "f"]  # half of ten clicks have one query
    assert groups_of(log_of(trained, ["b a", "c", "c", "c", "x"])) == {
        "seen": ["c", "b a"],
        "unseen": ["x"],
        "head": ["b a"],
        "tail": ["c", "x"],
        "traffic": ["c", "c", "c", "b a", "x"],
    }


def test_where_most_queries_are_equally_frequent_there_is_no_head() -> None:
    flat = groups_of(log_of([*"abcd"], [*"ae"]))
    assert set(flat) == {"seen", "unseen", "traffic"}
    assert groups_of(log_of([*"aaaaab"], [*"ab"]))["head"] == ["a"]  # large, and not by ties


def test_events_count_by_the_weights_of_their_pairs() -> None:
    found = groups_of(log_of([*"abbccdd"], [*"abe"], weight=9))
    assert (found["head"], found["tail"]) == (["a"], ["b", "e"])
    assert found["traffic"] == [*"aaaaaaaaabe"]


def test_without_known_queries_there_are_no_groups() -> None:
    assert groups_of(log_of(["a", "b"], ["c", "c"])) == {}
    assert groups_of(log_of([" "], ["", "c"])) == {}
    assert query_groups(data_of_people([[0, 1, 2, 3]] * 3, 4), "test") == {}
    # A group without a query has no mean.
    assert set(groups_of(log_of(["a", "a", "b"], ["a"]))) == {"seen", "head", "traffic"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingData]:
    folder = tmp_path_factory.mktemp("shop")
    path = write_shop(folder, items=500, clicks=6_000)
    experiment, dataset = experiment_at(path)
    return path, training_data_of(dataset, experiment.query, experiment.item)


def test_each_group_is_measured_as_all_queries_are(shop: tuple[Path, TrainingData]) -> None:
    path, data = shop
    rank = baselines(read_experiment(path), data)
    own, other = rank["query_popularity"], rank["bm25"]
    found = evaluate_ranking(data, "test", own, {"bm25": other})
    queries, relevant = data.parts["test"].by_query()
    values, beside = (per_query(each(queries), relevant) for each in (own, other))
    clusters = clusters_of(data, "test")
    for name, weights in query_groups(data, "test").items():
        assert found[f"{name}_queries"] == weights.sum()
        # Each query as often as it weighs.
        places = np.repeat(np.arange(len(queries)), weights.astype(int))
        for metric in HEADLINE:
            assert found[f"{name}_{metric}"] == pytest.approx(values[metric][places].mean())
            assert found[f"bm25_{name}_{metric}"] == pytest.approx(beside[metric][places].mean())
            lead = interval(values[metric][places], clusters[places], beside[metric][places])
            ends = [found[f"bm25_difference_{name}_{metric}_{end}"] for end in ("low", "high")]
            assert ends == pytest.approx([lead.low, lead.high])
