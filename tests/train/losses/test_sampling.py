"""Negatives are drawn with the probabilities that the sampler reports."""

import numpy as np
import numpy.typing as npt
import pytest

from twinspire.train.data.training_data import Pairs, Positives
from twinspire.train.losses.sampling import NegativeSampler, mixed_log_q, popularity_weights

SHARE = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04, 0.0])
KNOWN = [[0, 3], [], [6], [0, 1, 2, 3, 4, 5], [5, 6], [0, 1, 2, 3, 4, 5, 6], [1, 2]]  # of query 0, 1, ...


def positives_of(known: list[list[int]]) -> Positives:
    query = [q for q, items in enumerate(known) for _ in items]
    item = [each for items in known for each in items]
    weight = np.ones(len(item), np.float32)
    return Positives.of(Pairs(np.array(query, np.int64), np.array(item, np.int64), weight), len(known))


def expected(weights: npt.ArrayLike, known: list[int]) -> npt.NDArray[np.float64]:
    """The probability of each item in one draw for a query."""
    left = [0.0 if n in known else float(w) for n, w in enumerate(np.asarray(weights))]
    if not sum(left):
        left = [float(w) for w in np.asarray(weights)]
    return np.array(left) / sum(left)


WEIGHTS = {"uniform": np.ones(7), "popularity_weights": SHARE, "flattened": popularity_weights(SHARE, 0.75)}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_draws_have_the_probabilities_of_the_weights_and_are_no_positives(
    weights: npt.NDArray[np.float64],
) -> None:
    queries = np.array([4, 0, 1, 2, 3, 5, 0, 6])  # in any order, one of them twice
    count = 20000
    items = NegativeSampler.from_weights(weights).draw(
        queries, positives_of(KNOWN), count, np.random.default_rng(0)
    )
    assert items.shape == (8, count)
    assert items.dtype == np.int64
    for row, query in enumerate(queries):
        q = expected(weights, KNOWN[query])
        assert (q[items[row]] > 0).all()
        np.testing.assert_allclose(np.bincount(items[row], minlength=7) / count, q, atol=0.02)


def test_without_positives_all_queries_have_the_same_distribution() -> None:
    items = NegativeSampler.from_weights(np.ones(3)).draw(
        np.array([0, 1]), positives_of([[], []]), 3000, np.random.default_rng(0)
    )
    np.testing.assert_allclose(np.bincount(items.ravel()) / 6000, 1 / 3, atol=0.03)


def test_a_seed_gives_the_same_draws_and_another_seed_gives_others() -> None:
    sampler, positives, queries = NegativeSampler.from_weights(SHARE), positives_of(KNOWN), np.arange(7)
    one, again, other = (
        sampler.draw(queries, positives, 50, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_alpha_flattens_the_weights_and_items_without_interactions_stay_at_zero() -> None:
    assert popularity_weights(SHARE, 1.0).tolist() == SHARE.tolist()
    assert popularity_weights(SHARE, 0.0).tolist() == [1, 1, 1, 1, 1, 1, 0]
    steep, flat = popularity_weights(SHARE, 1.0), popularity_weights(SHARE, 0.5)
    assert flat[5] / flat[0] > steep[5] / steep[0]


def test_every_item_of_a_large_catalogue_has_at_least_one_ticket() -> None:
    weights = np.ones(200_000)
    weights[0] = 1e13
    sampler = NegativeSampler.from_weights(weights)
    assert sampler.tickets.min() == 1
    items = sampler.draw(np.zeros(1, np.int64), positives_of([[0]]), 1000, np.random.default_rng(0))
    assert (items > 0).all()
    assert len(np.unique(items)) > 900


def test_few_tickets_are_drawn_exactly() -> None:
    tickets = np.array([1, 2, 1, 0, 3, 1, 2])
    sampler = NegativeSampler(tickets, np.concatenate([[0], np.cumsum(tickets)]))
    items = sampler.draw(np.arange(7), positives_of(KNOWN), 5000, np.random.default_rng(0))
    for row, known in enumerate(KNOWN):
        q = expected(tickets, known)
        np.testing.assert_allclose(np.bincount(items[row], minlength=7) / 5000, q, atol=0.03)
        assert (q[items[row]] > 0).all()


def test_weights_must_not_all_be_zero() -> None:
    with pytest.raises(ValueError, match="weights: expected at least one above 0"):
        NegativeSampler.from_weights(np.zeros(3))


@pytest.mark.parametrize(("batch", "uniform"), [(2, 0), (8, 0), (8, 5), (64, 3)])
def test_mixed_log_q_is_the_frequency_of_an_item_among_the_candidates(batch: int, uniform: int) -> None:
    generator = np.random.default_rng(0)
    rounds = 20000
    present = np.zeros((rounds, len(SHARE)), bool)
    others = generator.choice(len(SHARE), size=(rounds, batch - 1), p=SHARE)
    np.put_along_axis(present, others, True, axis=1)
    if uniform:
        np.put_along_axis(present, generator.integers(0, len(SHARE), (rounds, uniform)), True, axis=1)
    found = mixed_log_q(SHARE, batch - 1, uniform, len(SHARE))
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found), present.mean(axis=0), atol=0.015)


def test_mixed_log_q_nears_the_papers_mixture_where_items_are_rare() -> None:
    share = np.random.default_rng(0).dirichlet(np.ones(200_000))
    paper = np.log(share * 63 / 79 + 16 / 79 / 200_000)
    np.testing.assert_allclose(mixed_log_q(share, 63, 16, len(share)) - np.log(79), paper, atol=0.01)


def test_mixed_log_q_stays_exact_for_rare_and_for_certain_items() -> None:
    assert mixed_log_q(np.array([1e-12, 1 - 1e-12]), 1, 0, 2)[0] == pytest.approx(np.log(1e-12))
    assert mixed_log_q(np.array([1.0, 0.0]), 2, 0, 2).tolist() == [0.0, -np.inf]


def test_mixed_log_q_is_of_each_number_of_drawn_pairs() -> None:
    each = [mixed_log_q(SHARE, drawn, 3, len(SHARE)) for drawn in (1, 2, 60)]
    assert np.array_equal(mixed_log_q(SHARE, np.array([[1], [2], [60]]), 3, len(SHARE)), each)
