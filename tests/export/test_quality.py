"""Quality as it is served, with what the index costs and what the model is worth beside it."""

import io

import hnswlib
import numpy as np
import pytest
from rich.console import Console

from export import index
from export.backends import onnx_encoder
from export.catalogue import encode_all
from export.quality import Searched, continued, encode_queries, evaluate, verdict
from export.tables import show_quality
from protos import bundle
from tests.export.test_index import CONFIG
from tests.stdlib import Made
from train.config import IndexConfig
from train.metrics import mean, per_query
from train.problem import Problem, problem_of


@pytest.fixture
def problem(made: Made) -> Problem:
    return problem_of(made.dataset, made.experiment.query, made.experiment.item)


@pytest.fixture
def items(made: Made, problem: Problem, console: Console) -> index.Vectors:
    """The items as they are evaluated."""
    schema = bundle.read(made.folder).schema
    return encode_all(
        onnx_encoder(made.folder / bundle.ITEM_TOWER), schema.side("item"), problem.items, console, "items"
    )


def searched(made: Made, items: index.Vectors, graph: hnswlib.Index, ef_search: int) -> Searched:
    inputs = bundle.read(made.folder).schema.side("query")
    parameters = index.parameters(made.experiment.index, ef_search)
    return Searched(onnx_encoder(made.folder / bundle.QUERY_TOWER), inputs, items, graph, parameters)


def narrow(items: index.Vectors) -> hnswlib.Index:
    return index.build(items, IndexConfig(m=2, ef_construction=4, threads=1))


def test_served_and_exact_are_measured_apart(
    made: Made, problem: Problem, items: index.Vectors, console: Console
) -> None:
    good = searched(made, items, index.build(items, CONFIG), 400)
    torn = searched(made, items, narrow(items), 10)
    score = bundle.read(made.folder).score
    found = evaluate(made.experiment, problem, good, score, console)
    poor = evaluate(made.experiment, problem, torn, score, console)
    queries, relevant = problem.parts["test"].by_query()
    vectors = encode_queries(good.query, good.inputs, problem, queries, console, "queries")
    exact = mean(per_query(index.exact(vectors, items, 100), relevant))
    for name, value in exact.items():
        assert found[f"exact_{name}"] == poor[f"exact_{name}"] == value
        assert found[name] == pytest.approx(value, abs=0.03)
    assert poor["recall_at_10"] < found["recall_at_10"] - 0.05
    assert found["queries"] == len(queries)
    assert found["recall_at_10_low"] < found["recall_at_10"] < found["recall_at_10_high"]


def test_bm25_is_that_of_the_run(made: Made) -> None:
    quality = bundle.read(made.folder).quality
    for name in ("recall_at_10", "mrr_at_10", "ndcg_at_10", "recall_at_10_low"):
        assert quality[f"bm25_{name}"] == pytest.approx(made.run.data.metrics[f"bm25_{name}"])


def test_the_verdict_says_who_wins() -> None:
    assert verdict({"recall_at_10": 0.5, "bm25_recall_at_10": 0.7}, "recall_at_10") == (
        "BM25 is better at recall@10: 0.700 against 0.500"
    )
    even = {"ndcg_at_10": 0.7, "popularity_ndcg_at_10": 0.1, "ease_ndcg_at_10": 0.7}
    assert verdict(even, "ndcg_at_10") == "better than EASE at nDCG@10: 0.700 against 0.700"
    assert verdict({"auc": 0.8, "itemmean_auc": 0.75}, "auc").startswith("better than item means at AUC")
    assert verdict(even, "auc") == verdict(even, "ndcg_at_10")  # where the test part has no negatives
    assert verdict({"hr_at_10": 0.5}, "hr_at_10") == "HR@10 0.500, with no baseline to compare it with"


def test_what_people_are_shown_has_a_column_for_each_baseline(films_made: Made, made: Made) -> None:
    for folder, columns in (
        (made.folder, "served exact BM25"),
        (films_made.folder, "served exact popularity item-kNN EASE"),
    ):
        shown = Console(file=io.StringIO(), width=200)
        quality = bundle.read(folder).quality
        show_quality(quality, shown)
        lines = shown.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert " ".join(lines[0].split()).endswith(columns)
        (ndcg,) = (line.split() for line in lines if line.strip().startswith("nDCG@10"))
        assert ndcg[1:3] == [f"{quality[name]:.4f}" for name in ("ndcg_at_10", "exact_ndcg_at_10")]
        assert quality["verdict"] in lines


def test_a_model_of_histories_beats_popularity_and_says_how_sure_it_is(films_made: Made) -> None:
    quality = bundle.read(films_made.folder).quality
    assert quality["ndcg_at_10_low"] > quality["popularity_ndcg_at_10_high"]
    for name in ("recall_at_10", "hr_at_50", "mrr_at_10", "ndcg_at_10", "ndcg_at_10_high"):
        assert quality[f"exact_{name}" if "high" not in name else name] == pytest.approx(
            films_made.run.data.metrics[name], abs=0.005
        )
        assert quality[f"ease_{name}"] == pytest.approx(films_made.run.data.metrics[f"ease_{name}"])


def test_the_first_ten_are_those_of_a_request_for_ten() -> None:
    first, more = np.array([[3, 1], [4, 6]]), np.array([[1, 2, 3, 5], [6, 4, 7, -1]])
    assert continued(first, more).tolist() == [[3, 1, 2, 5], [4, 6, 7, -1]]
