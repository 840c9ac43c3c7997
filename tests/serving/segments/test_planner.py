"""The plans, and that each of them finds what exists."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from twinspire.protos.search import top_k
from twinspire.serving.filters.expression import where
from twinspire.serving.filters.passing_rows import PassingRows
from twinspire.serving.filters.plan import Plan
from twinspire.serving.index.vector_index import Neighbours, Rows, VectorIndex, Vectors
from twinspire.serving.segments.planner import expected_cost, search_one_passing, search_passing

RNG = np.random.default_rng(0)
ITEMS = RNG.standard_normal((100_000, 8)).astype(np.float32)
QUERIES = RNG.standard_normal((6, 8)).astype(np.float32)
NODE = where.any == 1


class FlatIndex(VectorIndex):
    """Compares with every item, and counts how it was asked."""

    def __init__(self, items: Vectors) -> None:
        self.items = items
        self.widths: list[int] = []
        self.compared = 0

    @property
    def count(self) -> int:
        return len(self.items)

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        self.widths.append(k)
        return self._nearest(vectors, np.arange(len(self.items)), k)

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
    return PassingRows(NODE, BitMap(rows.tolist()), items)


def check(index: FlatIndex, passing: PassingRows, k: int) -> set[Plan]:
    """Compare with exact search, and with each query alone; the plans that were taken."""
    found = search_passing(index, QUERIES, k, passing)
    for query, each in zip(QUERIES, found, strict=True):
        scores = index.items[passing.rows] @ query
        best = np.sort(scores)[::-1][:k]
        np.testing.assert_allclose(each.scores, best, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(index.items[each.rows] @ query, each.scores, rtol=1e-5, atol=1e-5)
        assert len({*each.rows.tolist()}) == len(each.rows) == min(k, passing.count)
        assert all(row in passing.passing for row in each.rows.tolist())
        rows, products, plan = search_one_passing(FlatIndex(index.items), query[None], k, passing, 0)
        assert (len(rows), plan) == (len(each.rows), each.plan)
        np.testing.assert_allclose(products, each.scores, rtol=1e-5, atol=1e-5)
    return {each.plan for each in found}


@given(
    share=st.sampled_from([0.0, 0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 1.0]),
    k=st.integers(1, 60),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
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


def test_the_search_is_wider_where_few_of_the_nearest_pass() -> None:
    nearest = np.argsort(-(QUERIES @ ITEMS.T), axis=1)[:, :32].ravel()
    index = FlatIndex(ITEMS)
    assert check(index, compiled(np.setdiff1d(np.arange(100_000), nearest)), 10) == {Plan.GRAPH}
    assert len(index.widths) > 1
    assert index.widths[0] == min(index.widths)


def test_all_are_compared_where_filter_and_query_contradict_each_other() -> None:
    scores = (QUERIES @ ITEMS.T).max(axis=0)
    far = np.sort(np.argsort(scores)[:30_000])
    index = FlatIndex(ITEMS)
    assert check(index, compiled(far), 10) == {Plan.GRAPH_THEN_EXACT}


def test_a_query_is_not_changed_by_the_others_of_its_batch() -> None:
    far = np.sort(np.argsort(ITEMS @ QUERIES[0])[:60_000])
    together = search_passing(FlatIndex(ITEMS), QUERIES, 10, compiled(far))
    for n, each in enumerate(together):
        (alone,) = search_passing(FlatIndex(ITEMS), QUERIES[n : n + 1], 10, compiled(far))
        assert alone.plan is each.plan
        np.testing.assert_allclose(alone.scores, each.scores, rtol=1e-5, atol=1e-5)


def test_no_item_passes() -> None:
    (found, *_) = search_passing(FlatIndex(ITEMS), QUERIES, 10, compiled(np.empty(0, int)))
    assert (found.plan, len(found.rows)) == (Plan.EMPTY, 0)


def test_an_index_that_may_not_be_searched_is_not() -> None:
    index = FlatIndex(ITEMS)
    found = search_passing(index, QUERIES, 10, compiled(np.arange(15_000)), approximate=False)
    assert {each.plan for each in found} == {Plan.EXACT}
    assert index.widths == []


@pytest.mark.parametrize(
    ("k", "count", "free_width", "expected"),
    [
        (10, 0, 32, 0),  # nothing is searched
        (10, 100, 32, 5),  # 100 scattered vectors are compared, 20 in the time of one step
        (10, 50_000, None, 390),  # all 100,000 vectors are compared, 256 in the time of one step
        (10, 100_000, 32, 39),  # 2 (10 + 3 sqrt(10)) items, of which all pass
        (10, 50_000, 32, 78),  # twice as many, because half of them pass
        (10, 50_000, 100, 100),  # to ask for less saves no time
        (10, 50_000, 200, 390),  # more than half of the time of comparing all
        (100, 50_000, 32, 390),  # 520 items would take longer than to compare all
        (60, 5, 32, 0),  # five vectors are compared in less time than one step
    ],
)
def test_the_expected_cost_is_that_of_the_plan(
    k: int, count: int, free_width: int | None, expected: int
) -> None:
    assert expected_cost(k, compiled(np.arange(count)), free_width) == expected


def test_a_subset_makes_comparing_cheaper() -> None:
    passing = PassingRows(NODE, BitMap(range(6400)), len(ITEMS), lambda *_: True)
    assert expected_cost(10, passing, None) == 320
    passing.used_again()
    assert expected_cost(10, passing, None) == 25
