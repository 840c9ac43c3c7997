"""Chooses how to search among the items that pass a filter.

The items that pass are counted before anything is searched. Where they are few, all of them are compared with
the query, which is exact. Where they are many, the index is searched for more items than are wanted, and
those that do not pass are left out. If too few pass, the search is repeated for more items; their number
follows from the share that passed in this query's last search. As soon as the next search would take longer
than comparing all items that pass, they are compared. So an answer never has fewer items than exist, even
where the filter excludes all that is near the query.
"""

import math
from typing import NamedTuple

import numpy as np

from twinspire.serving.filters.passing_rows import PassingRows
from twinspire.serving.filters.plan import Plan
from twinspire.serving.index.vector_index import Rows, VectorIndex, Vectors

# Items that are compared with the query in 1 step (defined at `columns.TEST_STEPS`). One more item takes
# hnswlib 3 to 4 us, because the search is twice as wide as its number of items. To compare an item takes
# 0.01 us if the vectors lie side by side in memory (in int8), and 0.2 us if they are scattered. Measured with
# 65,441 items, D = 128 and one thread; all queries differed, so that no vector was in a cache before.
SIDE_BY_SIDE = 256
SCATTERED = 20
GRAPH_SHARE = 2  # the graph, which may not suffice, is searched if it takes at most 1/2 of an exact search
DEVIATIONS = 3.0  # of the number of items that pass, by which a search is wider than the mean needs
MARGIN = 2.0  # for recall: of the nearest items, the graph misses the farthest most often
MAX_GROWTH = 8  # factor of the number of items after a search in which none passed


class Found(NamedTuple):
    """What one query has found.

    Args:
        rows: int64 (K,), best first.
        scores: inner products, float32 (K,).
        plan: that found them.
    """

    rows: Rows
    scores: Vectors
    plan: Plan


def first_width(k: int, passing: PassingRows, free_width: int = 0) -> int | None:
    """Items to ask the index for first; None if all that pass are to be compared.

    Args:
        k: items wanted, at most as many as pass.
        passing: the filter.
        free_width: the index returns this many items in the same time as fewer.
    """
    width = max(free_width, _width_for(k, passing.count / passing.item_count))
    return width if GRAPH_SHARE * width < exact_steps(passing) and width < passing.item_count else None


def is_worth_pushing(k: int, passing: PassingRows) -> bool:
    """Whether an index that can filter is to search for `k` items, instead of comparing all that pass."""
    return GRAPH_SHARE * k < exact_steps(passing)


def exact_steps(passing: PassingRows) -> int:
    """The time of comparing all items that pass, in steps."""
    whole = passing.item_count // SIDE_BY_SIDE  # all items are compared if many pass
    if passing.may_have_subset:
        return min(passing.count // SIDE_BY_SIDE, whole)
    return min(passing.count // SCATTERED, whole)


def expected_cost(k: int, passing: PassingRows, free_width: int | None) -> int:
    """The time of a search among the items that pass, in steps, as far as it is known before.

    Args:
        k: items wanted.
        passing: the filter.
        free_width: as in `first_width`; None if all items that pass are compared.
    """
    k = min(k, passing.count)
    if k == 0:
        return 0
    width = None if free_width is None else first_width(k, passing, free_width)
    return exact_steps(passing) if width is None else width


def search_passing(
    index: VectorIndex,
    vectors: Vectors,
    k: int,
    passing: PassingRows,
    free_width: int = 0,
    approximate: bool = True,
) -> list[Found]:
    """The `min(k, R)` best of the R items that pass a filter, for each query.

    The result of a query does not depend on the other queries of the batch, except for rounding. A filter
    that is used again may be searched by another plan than at its first use.

    Args:
        index: of N items.
        vectors: of the queries, float32 (B, D).
        k: items wanted, at least 1.
        passing: the filter.
        free_width: as in `first_width`.
        approximate: whether the index may be searched; otherwise all items that pass are compared.
    """
    k = min(k, passing.count)
    if k == 0:
        nothing = Found(np.empty(0, np.int64), np.empty(0, np.float32), Plan.EMPTY)
        return [nothing] * len(vectors)
    if passing.count == index.count and approximate:
        best = zip(*index.search(vectors, k), strict=True)
        return [Found(rows, scores, Plan.GRAPH) for rows, scores in best]
    if approximate and is_worth_pushing(k, passing):
        pushed = index.search_filtered(vectors, k, passing)
        if pushed is not None:
            return [Found(rows, scores, Plan.GRAPH) for rows, scores in pushed]
    width = first_width(k, passing, free_width) if approximate else None
    if width is None:
        return _compare_all(index, vectors, k, passing, Plan.EXACT)
    found: list[Found | None] = [None] * len(vectors)
    waiting = {width: list(range(len(vectors)))}  # items to ask for -> queries
    compare: list[int] = []
    while waiting:
        width, queries = waiting.popitem()
        rows, scores = index.search(vectors[queries], width)
        passes = passing.mask[rows]
        for n, own, own_scores, kept in zip(queries, rows, scores, passes, strict=True):
            count = int(np.count_nonzero(kept))
            if count >= k:
                found[n] = Found(own[kept][:k], own_scores[kept][:k], Plan.GRAPH)
                continue
            wider = _wider(k, passing, width, count)
            if wider is None:
                compare.append(n)
            else:
                waiting.setdefault(wider, []).append(n)
    if compare:
        for n, each in zip(
            compare,
            _compare_all(index, vectors[compare], k, passing, Plan.GRAPH_THEN_EXACT),
            strict=True,
        ):
            found[n] = each
    return [each for each in found if each is not None]


def search_one_passing(
    index: VectorIndex, vector: Vectors, k: int, passing: PassingRows, free_width: int
) -> tuple[list[int], list[float], Plan]:
    """As `search_passing`, of one query (1, D) that the index may be searched for, in lists.

    It avoids NumPy's functions: after a search their code is in no cache, and together they take a quarter of
    its time.
    """
    k = min(k, passing.count)
    if k == 0:
        return [], [], Plan.EMPTY
    if passing.count == index.count:
        return *index.search_one(vector, k), Plan.GRAPH
    if is_worth_pushing(k, passing):
        pushed = index.search_filtered(vector, k, passing)
        if pushed is not None:
            ((best, products),) = pushed
            return best.tolist(), products.tolist(), Plan.GRAPH
    first = width = first_width(k, passing, free_width)
    passes = passing.mask.data
    while width is not None:
        rows, scores = index.search_one(vector, width)
        kept = [(row, score) for row, score in zip(rows, scores, strict=True) if passes[row]]
        if len(kept) >= k:
            return [row for row, _ in kept[:k]], [score for _, score in kept[:k]], Plan.GRAPH
        width = _wider(k, passing, width, len(kept))
    plan = Plan.EXACT if first is None else Plan.GRAPH_THEN_EXACT
    ((best, products, _),) = _compare_all(index, vector, k, passing, plan)
    return best.tolist(), products.tolist(), plan


def _wider(k: int, passing: PassingRows, width: int, count: int) -> int | None:
    """Items to ask the index for next; None if comparing all that pass takes no longer.

    Args:
        k: items wanted.
        passing: the filter.
        width: items asked for before.
        count: of them that pass, fewer than `k`.
    """
    wider = max(2 * width, _width_for(k, count / width) if count else MAX_GROWTH * width)
    return wider if wider < min(exact_steps(passing), passing.item_count) else None


def _width_for(k: int, share: float) -> int:
    """Items to ask for so that `k` of them pass, nearly always, where this share of the items passes."""
    return math.ceil(MARGIN * (k + DEVIATIONS * math.sqrt(k)) / share)


def _compare_all(
    index: VectorIndex, vectors: Vectors, k: int, passing: PassingRows, plan: Plan
) -> list[Found]:
    """Compare all items that pass with the queries.

    Args:
        index: of N items.
        vectors: of the queries, float32 (B, D).
        k: items wanted, at most as many as pass.
        passing: the filter.
        plan: to name in the results.
    """
    subset = passing.subset(index)
    if subset is None:
        rows, scores = index.exact(vectors, k, passing.rows)
    else:
        rows, scores = subset.exact(vectors, k)
    return [Found(own, values, plan) for own, values in zip(rows, scores, strict=True)]
