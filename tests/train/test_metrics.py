"""Ranking metrics against cases worked out by hand."""

from math import log2
from typing import get_args

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, nDCG

from twinspire.train.metrics import (
    HEADLINE,
    MAIN_AND_RECALL,
    OF_COLD_START,
    OF_LABELS,
    SHOWN_OF_HISTORIES,
    WITH_INTERVAL,
    RankingMetric,
    Selection,
    catalogue_metrics,
    mean,
    ndcg,
    per_query,
)

RANKED = np.array([[7, 3, 5, 1, -1, -1], [2, 4, 6, 8, 0, 9], [1, 2, 3, 4, 5, 6]])
RELEVANT = [np.array([5]), np.array([2, 0, 3]), np.array([9])]


def test_by_hand() -> None:
    found = per_query(RANKED, RELEVANT)
    ideal = 1 + 1 / log2(3) + 1 / log2(4)
    expected: dict[str, list[float]] = {
        "recall_at_1": [0, 1 / 3, 0],
        "recall_at_10": [1, 2 / 3, 0],
        "recall_at_20": [1, 2 / 3, 0],
        "recall_at_50": [1, 2 / 3, 0],
        "recall_at_100": [1, 2 / 3, 0],
        "hr_at_10": [1, 1, 0],
        "hr_at_50": [1, 1, 0],
        "mrr_at_10": [1 / 3, 1, 0],
        "ndcg_at_10": [1 / log2(4), (1 + 1 / log2(6)) / ideal, 0],
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, err_msg=name)


def test_ndcg_reads_all_places_that_it_is_given() -> None:
    ranked = np.array([[3, 1, 4, 7], [0, 5, -1, -1], [6, 2, 0, 9]])
    relevant = [np.array([1, 7]), np.array([9]), np.arange(10)]
    expected = [(1 / log2(3) + 1 / log2(5)) / (1 + 1 / log2(3)), 0, 1]  # the last has ten for four places
    np.testing.assert_allclose(ndcg(ranked, relevant), expected)
    random = np.random.default_rng(0)
    many = np.stack([random.permutation(50)[:10] for _ in range(20)])
    some = [np.unique(random.integers(0, 50, 5)) for _ in range(20)]
    np.testing.assert_allclose(ndcg(many, some), per_query(many, some)["ndcg_at_10"])


def test_rankings_and_answers_are_of_the_same_queries() -> None:
    with pytest.raises(ValueError, match="3 rankings of 2 queries"):
        per_query(RANKED, RELEVANT[1:])
    with pytest.raises(ValueError, match="query 1 has no relevant items"):
        per_query(RANKED, [RELEVANT[0], RELEVANT[1][:0], RELEVANT[2]])


def test_coverage_and_popularity_by_hand() -> None:
    counts = np.array([9, 5, 5, 0, 1])  # more popular than 4, 2, 2, 0 and 1 of the other four
    ranked = np.array([[0, 1, 3], [2, 1, -1]])
    found = catalogue_metrics(ranked, counts)
    assert found["coverage_at_10"] == pytest.approx(4 / 5)
    assert found["popularity_at_10"] == pytest.approx(np.mean([4, 2, 0, 2, 2]) / 4)
    first = catalogue_metrics(ranked, counts, k=1)
    assert first == {"coverage_at_1": pytest.approx(2 / 5), "popularity_at_1": pytest.approx(6 / 8)}
    assert catalogue_metrics(np.full((2, 3), -1), counts) == {"coverage_at_10": 0, "popularity_at_10": 0}


def test_each_metric_of_a_ranking_has_its_name() -> None:
    found = per_query(np.array([[0, 1]]), [np.array([1])])
    assert [*found] == [*get_args(RankingMetric)]
    assert {*MAIN_AND_RECALL, *HEADLINE, *SHOWN_OF_HISTORIES, *WITH_INTERVAL, *OF_COLD_START} <= {*found}
    assert {*get_args(Selection)} - {*OF_LABELS} <= {*found}


def test_the_figures_are_those_of_ir_measures() -> None:
    """With gains, rankings of all lengths, and queries to which one finds nothing."""
    draw = np.random.default_rng(0)
    relevant = [np.sort(draw.choice(300, draw.integers(1, 25), replace=False)) for _ in range(60)]
    gains = [draw.integers(1, 5, len(rows)) for rows in relevant]
    scores = draw.random((60, 300))
    for query, rows in enumerate(relevant):
        scores[query, rows] += 0.3
    best = np.argsort(-scores, axis=1)[:, :100]
    ranked = np.where(np.arange(100) < draw.integers(0, 130, 60)[:, None], best, -1)
    ranked[0] = -1
    known = [
        ir_measures.Qrel(str(query), str(row), int(gain))
        for query, pairs in enumerate(zip(relevant, gains, strict=True))
        for row, gain in zip(*pairs, strict=True)
    ]
    answers = [
        ir_measures.ScoredDoc(str(query), str(row), float(-rank))  # equal scores would be ordered by id
        for query, rows in enumerate(ranked)
        for rank, row in enumerate(rows)
        if row >= 0
    ]
    measures = {
        "ndcg_at_10": nDCG @ 10,
        "recall_at_10": R @ 10,
        "recall_at_100": R @ 100,
        "mrr_at_10": RR @ 10,
    }
    found = ir_measures.calc_aggregate(measures.values(), known, answers)
    expected = mean(per_query(ranked, relevant, gains))
    for name, measure in measures.items():
        assert found[measure] == pytest.approx(expected[name], abs=1e-9), name
