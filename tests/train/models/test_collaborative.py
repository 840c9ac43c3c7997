"""EASE and item-kNN against slower references, and towers that start as EASE."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse
import torch

from tests.helpers.people import both_sides, data_of_people, ids_of, random_people, schema_of_people
from twinspire.train.config.history_towers import SequenceTower
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.ranking import rank_by, summed
from twinspire.train.models import initialization
from twinspire.train.models.collaborative import (
    ease,
    history_matrix,
    interaction_matrix,
    item_knn,
    position_weights,
    score_factors,
)
from twinspire.train.models.initialization import initialize_ease
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.tower_factory import Towers, architecture_of

ITEMS = 25
STRENGTH = 3.0
Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return data_of_people(random_people(60, ITEMS), ITEMS)


@pytest.fixture(scope="module")
def dense(data: TrainingData) -> Floats:
    return np.asarray(interaction_matrix(data).toarray(), np.float64)


def test_interactions_are_those_of_training_pairs() -> None:
    people = [[0, 1, 2, 3, 4], [2, 2, 0, 1, 4], [3]]
    found = interaction_matrix(data_of_people(people, 6)).toarray()
    assert found.tolist() == [[1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]]


def test_the_history_matrix_holds_the_items_before_each_query() -> None:
    data = data_of_people([[0, 1, 1, 2], [3, 0]], 4)
    found = history_matrix(data, np.array([3, 0, 5])).toarray()
    assert found.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_ease_is_a_ridge_regression_of_each_item_on_the_others(data: TrainingData, dense: Floats) -> None:
    weights = ease(interaction_matrix(data), STRENGTH)
    for item in range(ITEMS):
        others = np.delete(dense, item, axis=1)
        stacked = np.vstack([others, np.sqrt(STRENGTH) * np.eye(ITEMS - 1)])
        wanted = np.concatenate([dense[:, item], np.zeros(ITEMS - 1)])
        solved = np.linalg.lstsq(stacked, wanted, rcond=None)[0]
        np.testing.assert_allclose(np.delete(weights[:, item], item), solved, atol=1e-5)
        assert weights[item, item] == 0


def test_ease_has_no_weights_for_an_item_without_interactions() -> None:
    matrix = scipy.sparse.csr_matrix(np.array([[1, 1, 0], [1, 0, 0]], np.float32))
    weights = ease(matrix, 1.0)
    assert np.abs(weights[2]).max() == np.abs(weights[:, 2]).max() == 0
    assert weights[0, 1] > 0


@pytest.mark.parametrize("neighbours", [1, 4, 100])
def test_item_knn_equals_a_loop_over_items(data: TrainingData, dense: Floats, neighbours: int) -> None:
    weights = item_knn(interaction_matrix(data), neighbours).toarray()
    for item in range(ITEMS):
        cosines = np.zeros(ITEMS)
        for other in range(ITEMS):
            lengths = np.linalg.norm(dense[:, item]) * np.linalg.norm(dense[:, other])
            if other != item and lengths:
                cosines[other] = dense[:, item] @ dense[:, other] / lengths
        found, largest = weights[:, item], np.sort(cosines)[::-1][:neighbours]
        np.testing.assert_allclose(found[found > 0], cosines[found > 0], atol=1e-5)
        np.testing.assert_allclose(np.sort(found[found > 0])[::-1], largest[largest > 0], atol=1e-5)


def test_an_item_has_no_more_neighbours_where_all_are_equally_similar() -> None:
    """Items that one user alone has taken: all their cosines are 1."""
    matrix = scipy.sparse.csr_matrix(np.ones((1, 6), np.float32))
    found = item_knn(matrix, 2)
    assert found.nnz == 12
    neighbours = [np.flatnonzero(column).tolist() for column in found.toarray().T]
    assert neighbours == [[1, 2], [0, 2], *[[0, 1]] * 4]


def test_item_weights_are_summed_over_a_history(data: TrainingData, dense: Floats) -> None:
    weights = ease(interaction_matrix(data), STRENGTH)
    queries = data.parts["validation"].query
    ranked = rank_by(data, summed(data, weights))(queries)
    assert data.histories is not None
    for query, row in zip(queries.tolist(), ranked, strict=True):
        seen = data.histories.rows(query)
        scores = weights[seen].sum(axis=0)
        scores[seen] = -np.inf
        found = scores[row[row >= 0]]
        assert len(found) == ITEMS - len({*seen.tolist()})
        assert (np.diff(found) <= 1e-6).all()


def started(
    data: TrainingData, latent: int, scale: float = 4.0
) -> tuple[Towers, PreparedInputs, PreparedInputs]:
    """Towers that consist of factors only, before training."""
    config = SequenceTower(
        "sequence", history="sum", latent=latent, dimension=4, regularisation=STRENGTH, latent_scale=scale
    )
    schema = schema_of_people(ITEMS)
    torch.manual_seed(0)
    towers = architecture_of(config).build(schema)
    initialize_ease(towers, data, schema, STRENGTH)
    for tower in towers:
        tower.eval()
    return towers, *both_sides(schema, data, config)


@torch.no_grad()
def scores_of(data: TrainingData, latent: int, scale: float = 4.0) -> Floats:
    """(Q, N) of all queries."""
    (query, item), queries, items = started(data, latent, scale)
    vectors = query(queries.batch(np.arange(data.query_count)))
    return np.asarray(vectors @ item(items.batch(np.arange(ITEMS))).T, np.float64)


def test_with_as_many_factors_as_items_a_tower_starts_as_ease(data: TrainingData) -> None:
    weights = ease(interaction_matrix(data), STRENGTH)
    expected = history_matrix(data, np.arange(data.query_count)) @ weights
    for scale in (1.0, 4.0):
        np.testing.assert_allclose(scores_of(data, ITEMS, scale), scale * expected, atol=1e-4)
    more = scores_of(data, ITEMS + 6)  # the additional factors stay zero
    np.testing.assert_allclose(more, 4 * expected, atol=1e-4)


def test_with_fewer_factors_it_is_the_best_approximation_of_that_rank(data: TrainingData) -> None:
    weights = ease(interaction_matrix(data), STRENGTH).astype(np.float64)
    histories = history_matrix(data, np.arange(data.query_count)).toarray()
    left, values, right = np.linalg.svd(weights)
    errors = []
    for latent in (2, 8, 20):
        cut = (left[:, :latent] * values[:latent]) @ right[:latent]
        assert np.linalg.norm(cut - weights) == pytest.approx(np.linalg.norm(values[latent:]), rel=1e-4)
        found = scores_of(data, latent, 1.0)
        np.testing.assert_allclose(found, histories @ cut, atol=1e-4)
        errors.append(np.linalg.norm(found - histories @ weights))
    assert errors[0] > errors[1] > errors[2] > 0


def test_factors_by_random_projection_are_nearly_the_best_of_their_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(initialization, "EXACT_UP_TO", 100)
    monkeypatch.setattr(np.linalg, "svd", None)  # is not called
    count, latent = 240, 24
    people = data_of_people(random_people(400, count, longest=30), count)
    config = SequenceTower(
        "sequence", history="sum", latent=latent, dimension=4, regularisation=STRENGTH, latent_scale=1.0
    )
    schema = schema_of_people(count)
    towers = architecture_of(config).build(schema)
    initialize_ease(towers, people, schema, STRENGTH)
    query: Any = towers[0].factors["history"]
    item: Any = towers[1].factors["id"]
    found = (query.table.detach() @ item.table.detach().T)[2:, 2:].numpy()
    weights = ease(interaction_matrix(people), STRENGTH)
    values = torch.linalg.svdvals(torch.from_numpy(weights)).numpy()
    best = np.linalg.norm(values[latent:])
    assert best <= np.linalg.norm(found - weights) <= 1.02 * best
    initialize_ease(towers, people, schema, STRENGTH)
    again = (query.table.detach() @ item.table.detach().T)[2:, 2:].numpy()
    np.testing.assert_array_equal(again, found)


def test_items_outside_the_vocabulary_have_zero_factors(data: TrainingData) -> None:
    schema = schema_of_people(ITEMS)
    known = tuple(ids_of(ITEMS)[::-1][:20])  # in another order, five of them unknown
    schema = type(schema)(schema.query, schema.item, {"items": known})
    config = SequenceTower("sequence", history="sum", latent=20, dimension=4, latent_scale=1.0)
    towers = architecture_of(config).build(schema)
    initialize_ease(towers, data, schema, STRENGTH)
    items = PreparedInputs(schema, "item", data.items, architecture_of(config).hashing())
    table: Any = towers[1].factors["id"]
    rows = np.array([int(each[1:]) for each in known])
    weights = ease(interaction_matrix(data)[:, rows], STRENGTH)
    query: Any = towers[0].factors["history"]
    found = query.table.detach() @ table.table.detach().T
    np.testing.assert_allclose(found[2:, 2:], weights, atol=1e-4)
    batch: Any = items.batch(np.arange(5))["id"]
    assert table(batch).abs().max() == 0


def test_score_factors_keep_the_scores_of_the_histories_best(data: TrainingData) -> None:
    matrix = interaction_matrix(data)
    weights = ease(matrix, STRENGTH)
    scores = matrix @ weights
    values = np.linalg.svd(scores, compute_uv=False)
    left, singular, right = np.linalg.svd(weights)
    for width in (2, 8, 20):
        factors = score_factors(matrix, weights, width)
        error = np.linalg.norm(matrix @ factors[0] @ factors[1].T - scores)
        assert error == pytest.approx(np.linalg.norm(values[width:]), rel=1e-3)
        cut = (left[:, :width] * singular[:width]) @ right[:width]  # best for the weights, not for scores
        assert error < np.linalg.norm(matrix @ cut - scores)


def test_positions_weigh_as_events_do_where_each_event_is_a_step(data: TrainingData) -> None:
    found = position_weights(data, 0.5, 4)
    np.testing.assert_allclose(found, [0.125, 0.25, 0.5, 1.0])


def test_with_sessions_a_position_has_the_mean_weight_of_its_events() -> None:
    people = data_of_people([[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]], 6)
    assert people.histories is not None
    # Of the first person two sessions, of the second a session for each event.
    steps = np.array([0, 0, 0, 1, 1, 1, 0, 1, 2, 3, 4, 5])
    data = replace(people, histories=replace(people.histories, steps=steps))
    # The training histories have 1, 2 and 3 events; one of no event has no position.
    expected = [(1 + 0.25) / 2, (1 + 1 + 0.5 + 0.5) / 4, 1.0]
    found = position_weights(data, 0.5, 5)
    assert found[-1] == 1
    np.testing.assert_allclose(found[2:], expected)
    np.testing.assert_allclose(found[:2], expected[0])  # no training history is so long
