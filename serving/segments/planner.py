"""Chooses how to search among the items that pass a filter.

The items that pass are counted before anything is searched. Where they are few, all of them are compared with
the query, which is exact. Where they are many, the index searches, and keeps only those that pass. If it
reaches too few of them, all that pass are compared. So an answer never has fewer items than exist.
"""

import numpy as np

from twinspire.protos.nearest.search import compared_like, graph_width
from twinspire.serving.filters.compiled import PassingRows
from twinspire.serving.filters.plan import Plan
from twinspire.serving.index.vector_index import Neighbours, VectorIndex, Vectors
from twinspire.serving.segments.neighbours import none_of

STEP_ITEMS = 128  # that are compared with a query of D = 512 in 1 step (defined at `columns.TEST_STEPS`)


FoundPassing = tuple[Neighbours, list[Plan]]  # and the plan that found those of each query


def expected_cost(k: int, count: int, passing: int, ef_search: int | None) -> int:
    """The time of a search among the items that pass, in steps, as far as it is known before.

    A search that gives up in the graph and compares all that pass takes up to three times as long.

    Args:
        k: items wanted.
        count: N, all items.
        passing: R, items that pass.
        ef_search: of the graph; None if all items that pass are compared.
    """
    k = min(k, passing)
    width = None if ef_search is None else graph_width(k, ef_search, count, passing)
    return (passing if width is None else compared_like(width, count, passing)) // STEP_ITEMS if k else 0


def search_passing(
    index: VectorIndex, vectors: Vectors, k: int, passing: PassingRows, approximate: bool = True
) -> FoundPassing:
    """The `min(k, R)` best of the R items that pass a filter, for each query.

    The result of a query does not depend on the other queries of the batch, except for rounding.

    Args:
        index: of N items.
        vectors: of the queries, float32 (B, D).
        k: items wanted, at least 1.
        passing: the filter.
        approximate: whether the index may be searched; otherwise all items that pass are compared.
    """
    k = min(k, passing.count)
    if k == 0:
        return none_of(len(vectors)), [Plan.EMPTY] * len(vectors)
    found = None
    if approximate:
        all_pass = passing.count == index.count
        found = index.search(vectors, k) if all_pass else index.search_filtered(vectors, k, passing)
    if found is None:
        return index.exact(vectors, k, passing.rows), [Plan.EXACT] * len(vectors)
    plans = [Plan.GRAPH] * len(vectors)
    short = np.flatnonzero(found.rows[:, -1] < 0)
    if len(short):
        found.rows[short], found.scores[short] = index.exact(vectors[short], k, passing.rows)
        for n in short.tolist():
            plans[n] = Plan.GRAPH_THEN_EXACT
    return found, plans
