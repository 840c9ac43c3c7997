"""Exploration: the order of the best items is drawn with the probabilities that it reports."""

from math import exp

import numpy as np
import pytest
from scipy.stats import chisquare

from twinspire.serving.retrieval.query import PLAIN, SearchResult
from twinspire.serving.served_log.sampling import Explorer

SCORES = [0.9, 0.8, 0.75, 0.5, 0.2]


def result(scores: list[float]) -> SearchResult:
    rows = [10 + n for n in range(len(scores))]
    return SearchResult(rows, scores, PLAIN, dense=[*scores], lexical=[0.5] * len(scores))


def explorer(top: int, temperature: float | None = None, seed: int = 0) -> Explorer:
    return Explorer(top, temperature, np.random.default_rng(seed))


def test_the_first_k_of_more_candidates_come_as_often_as_their_propensities_say() -> None:
    drawn, rounds = explorer(5, None, 1), 20_000
    counts: dict[tuple[int, ...], int] = {}
    reported: dict[tuple[int, ...], float] = {}
    for _ in range(rounds):
        found = drawn.explored(result(SCORES), 2)
        assert found.draw is not None
        counts[tuple(found.rows)] = counts.get(tuple(found.rows), 0) + 1
        reported[tuple(found.rows)] = float(np.prod(found.draw.propensities))
    often = [order for order in counts if rounds * reported[order] >= 10]
    rare = rounds - sum(counts[order] for order in often)
    expected = [rounds * reported[order] for order in often]
    assert (
        chisquare([*[counts[each] for each in often], rare], [*expected, rounds - sum(expected)]).pvalue
        > 0.001
    )


def test_propensities_follow_from_what_is_logged() -> None:
    found = explorer(4, 0.25).explored(result(SCORES), 5)
    assert found.draw is not None
    assert found.draw.rows == [10, 11, 12, 13]
    assert found.draw.temperature == 0.25
    left = dict(zip(found.draw.rows, found.draw.scores, strict=True))
    for row, propensity in zip(found.rows[:4], found.draw.propensities, strict=False):
        weights = {each: exp(score / 0.25) for each, score in left.items()}
        assert propensity == pytest.approx(weights[row] / sum(weights.values()))
        del left[row]
    assert found.rows[4] == 14, "what is not drawn follows"
    assert found.draw.propensities[4] == 1.0


def test_all_parts_of_a_hit_move_with_it() -> None:
    found = explorer(5, 10.0, seed=3).explored(result(SCORES), 4)
    assert found.rows != [10, 11, 12, 13]
    assert found.scores == [SCORES[row - 10] for row in found.rows] == found.dense
    assert len(found.lexical) == 4
    assert found.prior == ()


def test_the_temperature_is_by_default_a_tenth_of_the_span() -> None:
    found = explorer(4).explored(result(SCORES), 4)
    assert found.draw is not None
    assert found.draw.temperature == pytest.approx(0.04)


def test_a_low_temperature_keeps_the_order_and_a_high_one_does_not() -> None:
    cold, hot = explorer(5, 1e-4), explorer(5, 1e4)
    assert all(cold.explored(result(SCORES), 5).rows == [10, 11, 12, 13, 14] for _ in range(50))
    firsts = [hot.explored(result(SCORES), 5).rows[0] for _ in range(5000)]
    assert chisquare(np.bincount(firsts)[10:]).pvalue > 0.001


@pytest.mark.parametrize("scores", [[], [0.5]])
def test_where_there_is_no_choice_nothing_is_explored(scores: list[float]) -> None:
    found = explorer(5).explored(result(scores), 3)
    assert found.draw is None
    assert found.scores == scores
