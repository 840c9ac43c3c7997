"""Quality as it is served, with what the index costs and what the model is worth beside it."""

import hnswlib
import numpy as np
import pytest

from export import index
from export.quality import Asked, evaluate, verdict
from tests.export.test_index import CONFIG, unit_vectors
from tests.stdlib import Made
from train.config import IndexConfig
from train.metrics import mean, per_query
from train.problem import Problem, problem_of


@pytest.fixture
def problem(made: Made) -> Problem:
    return problem_of(made.dataset, made.experiment.query, made.experiment.item)


def asked_about(problem: Problem, items: index.Vectors) -> Asked:
    """Queries near one of their items."""
    rows, relevant = problem.parts["test"].by_query()
    noise = unit_vectors(len(rows), items.shape[1], seed=3)
    vectors = np.stack([items[found[0]] for found in relevant]) + 0.6 * noise
    return Asked(rows, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), relevant)


def narrow(items: index.Vectors) -> hnswlib.Index:
    return index.build(items, IndexConfig(m=3, ef_construction=8, threads=1))


def test_served_and_exact_are_measured_apart(made: Made, problem: Problem) -> None:
    items = unit_vectors(problem.item_count)
    asked = asked_about(problem, items)
    found = evaluate(made.experiment, problem, asked, items, index.build(items, CONFIG), 400)
    poor = evaluate(made.experiment, problem, asked, items, narrow(items), 10)
    exact = mean(per_query(index.exact(asked.vectors, items, 100), asked.relevant))
    for name, value in exact.items():
        assert found[f"exact_{name}"] == poor[f"exact_{name}"] == value
        assert found[name] == pytest.approx(value, abs=0.03)
    assert poor["recall_at_10"] < found["recall_at_10"] - 0.05
    assert found["queries"] == len(asked.rows)


def test_bm25_is_that_of_the_run(made: Made, problem: Problem) -> None:
    items = unit_vectors(problem.item_count)
    found = evaluate(made.experiment, problem, asked_about(problem, items), items, narrow(items), 10)
    for name in ("recall_at_10", "mrr_at_10", "ndcg_at_10"):
        assert found[f"bm25_{name}"] == pytest.approx(made.run.data.metrics[f"bm25_{name}"])


def test_the_verdict_says_who_wins() -> None:
    assert verdict({"recall_at_10": 0.5, "bm25_recall_at_10": 0.7}) == (
        "BM25 is better at recall@10: 0.700 against 0.500"
    )
    assert verdict({"recall_at_10": 0.7, "bm25_recall_at_10": 0.7}).startswith("better than BM25")
