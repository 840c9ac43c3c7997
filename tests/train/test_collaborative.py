"""Baselines of histories against slower ways to say the same, and towers that start as EASE."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse
import torch

from tests.train.people import ids_of, problem_of_people, random_people, schema_of_people
from train.baselines import by_scores
from train.build import build_towers, hashing_of
from train.collaborative import ease, interactions, item_knn, of_histories
from train.config import SequenceTower
from train.corpus import Corpus
from train.loop import Towers
from train.problem import Problem
from train.start import start_factors

ITEMS = 25
STRENGTH = 3.0
Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def problem() -> Problem:
    return problem_of_people(random_people(60, ITEMS), ITEMS)


@pytest.fixture(scope="module")
def dense(problem: Problem) -> Floats:
    return np.asarray(interactions(problem).toarray(), np.float64)


def test_interactions_are_what_people_did_in_training() -> None:
    people = [[0, 1, 2, 3, 4], [2, 2, 0, 1, 4], [3]]
    found = interactions(problem_of_people(people, 6)).toarray()
    assert found.tolist() == [[1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]]


def test_of_histories_is_what_came_before_each_query() -> None:
    problem = problem_of_people([[0, 1, 1, 2], [3, 0]], 4)
    found = of_histories(problem, np.array([3, 0, 5])).toarray()
    assert found.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_ease_is_a_ridge_regression_of_each_item_on_the_others(problem: Problem, dense: Floats) -> None:
    weights = ease(interactions(problem), STRENGTH)
    for item in range(ITEMS):
        others = np.delete(dense, item, axis=1)
        stacked = np.vstack([others, np.sqrt(STRENGTH) * np.eye(ITEMS - 1)])
        wanted = np.concatenate([dense[:, item], np.zeros(ITEMS - 1)])
        solved = np.linalg.lstsq(stacked, wanted, rcond=None)[0]
        np.testing.assert_allclose(np.delete(weights[:, item], item), solved, atol=1e-5)
        assert weights[item, item] == 0


def test_ease_knows_nothing_of_an_item_that_nobody_took() -> None:
    matrix = scipy.sparse.csr_matrix(np.array([[1, 1, 0], [1, 0, 0]], np.float32))
    weights = ease(matrix, 1.0)
    assert np.abs(weights[2]).max() == np.abs(weights[:, 2]).max() == 0
    assert weights[0, 1] > 0


@pytest.mark.parametrize("neighbours", [1, 4, 100])
def test_item_knn_written_as_loops(problem: Problem, dense: Floats, neighbours: int) -> None:
    weights = item_knn(interactions(problem), neighbours)
    for item in range(ITEMS):
        cosines = np.zeros(ITEMS)
        for other in range(ITEMS):
            lengths = np.linalg.norm(dense[:, item]) * np.linalg.norm(dense[:, other])
            if other != item and lengths:
                cosines[other] = dense[:, item] @ dense[:, other] / lengths
        least = sorted(cosines)[-neighbours] if neighbours < ITEMS else 0
        np.testing.assert_allclose(weights[:, item], np.where(cosines >= least - 1e-6, cosines, 0), atol=1e-5)


def test_popularity_ranks_by_training_pairs_and_leaves_out_what_was_seen(problem: Problem) -> None:
    counts = np.bincount(problem.parts["train"].item, minlength=ITEMS)
    queries = problem.parts["test"].query
    ranked = by_scores(problem, counts.astype(np.float32))(queries)
    assert problem.histories is not None
    for query, row in zip(queries.tolist(), ranked, strict=True):
        seen = {*problem.histories.rows(query).tolist()}
        expected = sorted({*range(ITEMS)} - seen, key=lambda item: (-counts[item], item))
        assert [item for item in row if item >= 0] == expected


def test_item_weights_are_summed_over_a_history(problem: Problem, dense: Floats) -> None:
    weights = ease(interactions(problem), STRENGTH)
    queries = problem.parts["validation"].query
    ranked = by_scores(problem, weights)(queries)
    assert problem.histories is not None
    for query, row in zip(queries.tolist(), ranked, strict=True):
        seen = problem.histories.rows(query)
        scores = weights[seen].sum(axis=0)
        scores[seen] = -np.inf
        found = scores[row[row >= 0]]
        assert len(found) == ITEMS - len({*seen.tolist()})
        assert (np.diff(found) <= 1e-6).all()


def started(problem: Problem, latent: int, scale: float = 4.0) -> tuple[Towers, Corpus, Corpus]:
    """Towers of factors alone, as they are before the first step."""
    config = SequenceTower(
        "sequence", history="latent", latent=latent, dimension=4, regularisation=STRENGTH, latent_scale=scale
    )
    schema = schema_of_people(ITEMS)
    torch.manual_seed(0)
    towers = build_towers(config, schema)
    start_factors(towers, problem, schema, STRENGTH)
    for tower in towers:
        tower.eval()
    hashing = hashing_of(config)
    return (
        towers,
        Corpus(schema, "query", problem.queries, hashing),
        Corpus(schema, "item", problem.items, hashing),
    )


@torch.no_grad()
def scores_of(problem: Problem, latent: int, scale: float = 4.0) -> Floats:
    """(Q, N) of all queries."""
    (query, item), queries, items = started(problem, latent, scale)
    vectors = query(queries.batch(np.arange(problem.query_count)))
    return np.asarray(vectors @ item(items.batch(np.arange(ITEMS))).T, np.float64)


def test_with_as_many_factors_as_items_a_tower_starts_as_ease(problem: Problem) -> None:
    weights = ease(interactions(problem), STRENGTH)
    expected = of_histories(problem, np.arange(problem.query_count)) @ weights
    for scale in (1.0, 4.0):
        np.testing.assert_allclose(scores_of(problem, ITEMS, scale), scale * expected, atol=1e-4)
    more = scores_of(problem, ITEMS + 6)  # than there are: they stay zero
    np.testing.assert_allclose(more, 4 * expected, atol=1e-4)


def test_with_fewer_it_is_the_best_there_is_for_so_many(problem: Problem) -> None:
    weights = ease(interactions(problem), STRENGTH).astype(np.float64)
    histories = of_histories(problem, np.arange(problem.query_count)).toarray()
    left, values, right = np.linalg.svd(weights)
    errors = []
    for latent in (2, 8, 20):
        cut = (left[:, :latent] * values[:latent]) @ right[:latent]
        assert np.linalg.norm(cut - weights) == pytest.approx(np.linalg.norm(values[latent:]), rel=1e-4)
        found = scores_of(problem, latent, 1.0)
        np.testing.assert_allclose(found, histories @ cut, atol=1e-4)
        errors.append(np.linalg.norm(found - histories @ weights))
    assert errors[0] > errors[1] > errors[2] > 0


def test_items_that_the_vocabulary_lacks_are_worth_nothing(problem: Problem) -> None:
    schema = schema_of_people(ITEMS)
    known = tuple(ids_of(ITEMS)[::-1][:20])  # in another order, five of them unknown
    schema = type(schema)(schema.query, schema.item, {"items": known})
    config = SequenceTower("sequence", history="latent", latent=20, dimension=4, latent_scale=1.0)
    towers = build_towers(config, schema)
    start_factors(towers, problem, schema, STRENGTH)
    items = Corpus(schema, "item", problem.items, hashing_of(config))
    table: Any = towers[1].factors["id"]
    rows = np.array([int(each[1:]) for each in known])
    weights = ease(interactions(problem)[:, rows], STRENGTH)
    query: Any = towers[0].factors["history"]
    found = query.table.detach() @ table.table.detach().T
    np.testing.assert_allclose(found[2:, 2:], weights, atol=1e-4)
    batch: Any = items.batch(np.arange(5))["id"]
    assert table(batch).abs().max() == 0
