"""Negatives are drawn with the probabilities that they should have."""

import numpy as np
import pytest

from twinspire.train.data.training_data import Pairs, Positives
from twinspire.train.losses.sampling import draw_evenly, mixed_log_q

SHARE = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04, 0.0])
KNOWN = [[0, 3], [], [6], [0, 1, 2, 3, 4, 5], [5, 6], [0, 1, 2, 3, 4, 5, 6], [1, 2]]  # of query 0, 1, ...


def positives_of(known: list[list[int]]) -> Positives:
    query = [q for q, items in enumerate(known) for _ in items]
    item = [each for items in known for each in items]
    weight = np.ones(len(item), np.float32)
    return Positives.of(Pairs(np.array(query, np.int64), np.array(item, np.int64), weight), len(known))


@pytest.mark.parametrize("items", [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6, 9, 12]], ids=str)
def test_draws_are_even_and_no_positives(items: list[int]) -> None:
    queries = np.array([4, 0, 1, 2, 3, 5, 0, 6])  # in any order, one of them twice
    count = 20000
    drawn = draw_evenly(np.array(items), queries, positives_of(KNOWN), count, np.random.default_rng(0))
    assert drawn.shape == (8, count)
    assert drawn.dtype == np.int64
    for row, query in enumerate(queries):
        left = [each for each in items if each not in KNOWN[query]] or items
        found, counts = np.unique(drawn[row], return_counts=True)
        assert found.tolist() == left
        np.testing.assert_allclose(counts / count, 1 / len(left), atol=0.02)


def test_a_seed_gives_the_same_draws_and_another_seed_gives_others() -> None:
    items, positives, queries = np.arange(7), positives_of(KNOWN), np.arange(7)
    one, again, other = (
        draw_evenly(items, queries, positives, 50, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


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
