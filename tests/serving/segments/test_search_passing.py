"""The plans, and that each of them finds what exists."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from twinspire.protos.nearest.search import EXACT_SHARE, graph_width, top_k
from twinspire.serving.filters.compiled import PassingRows
from twinspire.serving.filters.plan import Plan
from twinspire.serving.segments.neighbours import STEP_ITEMS, expected_cost
from twinspire.serving.segments.vector_index import Neighbours, Rows, VectorIndex, Vectors

RNG = np.random.default_rng(0)
ITEMS = RNG.standard_normal((100_000, 8)).astype(np.float32)
QUERIES = RNG.standard_normal((6, 8)).astype(np.float32)
EF_SEARCH = 64


class FlatIndex(VectorIndex):
    """Compares with every item, and counts how it was asked.

    Args:
        reach: items nearest to a query that a search with a filter looks at.
    """

    def __init__(self, items: Vectors, reach: int | None = None) -> None:
        self.items, self.reach = items, reach
        self.widths: list[int] = []
        self.compared = 0

    @property
    def count(self) -> int:
        return len(self.items)

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        self.widths.append(k)
        return self._nearest(vectors, np.arange(len(self.items)), k)

    def search_filtered(self, vectors: Vectors, k: int, passing: PassingRows) -> Neighbours | None:
        if graph_width(k, EF_SEARCH, self.count, passing.count) is None:
            return None
        self.widths.append(k)
        near = self._nearest(vectors, np.arange(self.count), self.reach or self.count)
        rows, scores = np.full((len(vectors), k), -1), np.zeros((len(vectors), k), np.float32)
        for n, (own, own_scores) in enumerate(zip(*near, strict=True)):
            kept = passing.mask[own]
            found = own[kept][:k]
            rows[n, : len(found)], scores[n, : len(found)] = found, own_scores[kept][:k]
        return Neighbours(rows, scores)

    def exact(self, vectors: Vectors, k: int, rows: Rows | None = None) -> Neighbours:
        assert rows is not None
        self.compared += 1
        return self._nearest(vectors, rows, k)

    def vectors(self, rows: Rows | Sequence[int] | slice) -> Vectors:
        found: Vectors = self.items[rows]
        return found

    def _nearest(self, vectors: Vectors, rows: np.ndarray, k: int) -> Neighbours:
        scores = vectors @ self.items[rows].T
        best = top_k(scores, min(k, len(rows)))
        return Neighbours(rows[best], np.take_along_axis(scores, best, axis=1))


def compiled(rows: np.ndarray, items: int = len(ITEMS)) -> PassingRows:
    return PassingRows(BitMap(rows.tolist()), items)


def check(index: FlatIndex, passing: PassingRows, k: int) -> set[Plan]:
    """Compare with exact search, and with each query alone; the plans that were taken."""
    found, plans = index.search_passing(QUERIES, k, passing)
    for query, rows, scores, plan in zip(QUERIES, *found, plans, strict=True):
        best = np.sort(index.items[passing.rows] @ query)[::-1][:k]
        np.testing.assert_allclose(scores, best, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(index.items[rows] @ query, scores, rtol=1e-5, atol=1e-5)
        assert len({*rows.tolist()}) == len(rows) == min(k, passing.count)
        assert all(row in passing.passing for row in rows.tolist())
        alone, own_plan = FlatIndex(index.items, index.reach).search_passing(query[None], k, passing)
        assert own_plan == [plan]
        np.testing.assert_allclose(alone.scores[0], scores, rtol=1e-5, atol=1e-5)
    return {*plans}


@given(
    share=st.sampled_from([0.0, 0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 1.0]),
    k=st.integers(1, 60),
    seed=st.integers(0, 99),
)
@settings(max_examples=12, deadline=None)
def test_every_plan_finds_the_best_of_those_that_pass(share: float, k: int, seed: int) -> None:
    rows = np.flatnonzero(np.random.default_rng(seed).random(len(ITEMS)) < share)
    check(FlatIndex(ITEMS), compiled(rows), k)


def test_few_that_pass_are_compared() -> None:
    index = FlatIndex(ITEMS)
    assert check(index, compiled(np.arange(0, 100_000, 100)), 10) == {Plan.EXACT}
    assert index.widths == []


def test_many_that_pass_are_searched() -> None:
    index = FlatIndex(ITEMS)
    assert check(index, compiled(np.arange(0, 100_000, 2)), 10) == {Plan.GRAPH}
    assert index.compared == 0


def test_all_are_compared_where_the_search_reaches_too_few() -> None:
    scores = ITEMS @ QUERIES[0]
    far = np.sort(np.argsort(scores)[:60_000])  # of the first query; some of the others find theirs
    index = FlatIndex(ITEMS, reach=2000)
    assert check(index, compiled(far), 10) == {Plan.GRAPH, Plan.GRAPH_THEN_EXACT}
    assert index.compared == 1


@pytest.mark.parametrize(
    ("k", "passing", "ef_search", "expected"),
    [
        (10, 0, 64, 0),  # nothing is searched
        (10, 1000, 64, 1000),  # few that pass are compared
        (10, 50_000, None, 50_000),  # there is no graph
        (10, 100_000, 64, EXACT_SHARE * 64),  # as without a filter
        (10, 50_000, 64, EXACT_SHARE * 64 * 2),  # it keeps one of two items
        (2000, 50_000, 64, 50_000),  # so wide that comparing takes no longer
    ],
)
def test_the_expected_cost_is_that_of_the_plan(
    k: int, passing: int, ef_search: int | None, expected: int
) -> None:
    assert expected_cost(k, 100_000, passing, ef_search) == expected // STEP_ITEMS
