"""Ranking metrics against cases worked out by hand."""

from math import log2

import numpy as np
import pytest

from train.metrics import mean, per_query

RANKED = np.array([[7, 3, 5, 1, -1, -1], [2, 4, 6, 8, 0, 9], [1, 2, 3, 4, 5, 6]])
RELEVANT = [np.array([5]), np.array([2, 0, 3]), np.array([9])]


def test_by_hand() -> None:
    found = per_query(RANKED, RELEVANT)
    ideal = 1 + 1 / log2(3) + 1 / log2(4)
    expected: dict[str, list[float]] = {
        "recall_at_1": [0, 1 / 3, 0],
        "recall_at_10": [1, 2 / 3, 0],
        "recall_at_100": [1, 2 / 3, 0],
        "hr_at_10": [1, 1, 0],
        "mrr_at_10": [1 / 3, 1, 0],
        "ndcg_at_10": [1 / log2(4), (1 + 1 / log2(6)) / ideal, 0],
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, err_msg=name)


def test_cutoffs_are_honoured() -> None:
    ranked = np.arange(200)[None]
    at = {place: per_query(ranked, [np.array([place])]) for place in (0, 9, 10, 99, 100)}
    assert [found["recall_at_1"][0] for found in at.values()] == [1, 0, 0, 0, 0]
    assert [found["recall_at_10"][0] for found in at.values()] == [1, 1, 0, 0, 0]
    assert [found["recall_at_100"][0] for found in at.values()] == [1, 1, 1, 1, 0]
    assert [found["mrr_at_10"][0] for found in at.values()] == [1, 0.1, 0, 0, 0]
    assert [found["ndcg_at_10"][0] > 0 for found in at.values()] == [True, True, False, False, False]


def test_more_relevant_items_than_places_can_still_be_perfect() -> None:
    found = per_query(np.arange(20)[None], [np.arange(15)])
    assert found["ndcg_at_10"][0] == pytest.approx(1)
    assert found["recall_at_10"][0] == pytest.approx(10 / 15)


def test_nothing_found_is_zero_and_not_an_error() -> None:
    found = per_query(np.full((1, 3), -1), [np.array([4])])
    assert set(mean(found).values()) == {0.0}


def test_the_mean_is_over_queries() -> None:
    found = mean(per_query(RANKED, RELEVANT))
    assert found["recall_at_10"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found["mrr_at_10"] == pytest.approx((1 / 3 + 1 + 0) / 3)
