"""How items are searched: the search width in the graph, exact search, and queries of several vectors.

Service, evaluation and the choice of ef share this module, so that recall is measured as items are searched.

A query of several vectors (multi-interest retrieval) is one row that holds its K vectors side by side,
float32 (K * D,). An item's score is that of the vector nearest to it. A search looks for the neighbours of
each vector, and merges what it finds. Where each search is exact, that loses nothing: an item of the k best
is among the k best of its nearest vector.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

EXACT_SHARE = 64  # a search in the graph takes as long as comparing this many times its width with the query
SAMPLED = 64  # every 64th score is in the sample from which a bound of the highest ones is taken
SPARE = 4  # scores of the sample above the bound, beside those that `k` makes likely
FEW = 4  # a bound is sought only if fewer than 1/4 of the scores are expected above it
BLOCK = 16  # queries that exact search scores at once: bounds memory to 16 N floats


def graph_width(k: int, ef_search: int, count: int, passing: int | None = None) -> int | None:
    """How wide the graph is searched for `k` items: at least 2 k.

    Where only some items may be found, a search walks through the others as well, until it has `width` of
    those that may. So it takes longer, and misses fewer of the best.

    Args:
        k: items wanted.
        count: N, items in the graph.
        passing: R, items that may be found; all by default.

    Returns:
        the width, or None if comparing the R items with the query is as fast.
    """
    passing = count if passing is None else passing
    if not passing:
        return None
    width = max(ef_search, 2 * k)
    return None if compared_like(width, count, passing) >= passing else width


def compared_like(width: int, count: int, passing: int) -> int:
    """How many items are compared with a query in the time of a search in the graph; as of `graph_width`."""
    return EXACT_SHARE * width * count // passing


def exact_search(queries: Vectors, items: Vectors, k: int) -> tuple[Rows, Vectors]:
    """The items with the largest inner products; equal products are ordered by row.

    Args:
        queries: float32 (B, D).
        items: float32 (N, D).

    Returns:
        rows int64 (B, min(k, N)) and inner products float32 (B, min(k, N)), best first.
    """
    k = min(k, len(items))
    rows = np.empty((len(queries), k), np.int64)
    products = np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), BLOCK):
        stop = start + BLOCK
        scores = queries[start:stop] @ items.T  # (BLOCK, N)
        rows[start:stop] = top_k(scores, k)
        products[start:stop] = np.take_along_axis(scores, rows[start:stop], axis=1)
    return rows, products


def top_k(scores: Vectors, k: int) -> Rows:
    """The columns of the `k` highest scores of each row, best first; equal scores are ordered by column.

    Args:
        scores: float32 (B, N).
        k: at most N.

    Returns:
        int64 (B, k).
    """
    best = np.empty((len(scores), k), np.int64)
    for row, values in enumerate(scores):
        candidates = highest(values, k)
        best[row] = candidates[np.argsort(-values[candidates], kind="stable")[:k]]
    return best


def highest(values: Vectors, k: int) -> Rows:
    """Ascending columns of the `k` highest of N values, and of a few others.

    A selection among all values takes ten times as long as comparing each with a bound. So the bound is taken
    from a sample, such that about twice `k` values are above it. Only if fewer than `k` are, all are selected
    from.
    """
    if k >= len(values):
        return np.arange(len(values))
    sampled = values[::SAMPLED]
    most = 2 * k // SAMPLED + SPARE
    if most * SAMPLED <= len(values) // FEW:
        found = np.flatnonzero(values >= np.partition(sampled, -most)[-most])
        if len(found) >= k:
            chosen = values[found]
            rows: Rows = found[chosen >= np.partition(chosen, -k)[-k]]
            return rows
    return np.flatnonzero(values >= np.partition(values, -k)[-k])


def each_vector(queries: Vectors, dimension: int) -> Vectors:
    """The vectors of all queries, one after another: (B * K, D) of (B, K * D)."""
    return queries.reshape(-1, dimension)


def largest_products(items: Vectors, query: Vectors) -> Vectors:
    """(R,): the inner product of each item and the nearest vector of a query.

    Args:
        items: (R, D).
        query: (K * D,).
    """
    if items.shape[1] == len(query):
        return np.asarray(items @ query)
    found: Vectors = (items @ each_vector(query, items.shape[1]).T).max(axis=1)
    return found


def paired_products(queries: Vectors, items: Vectors) -> Vectors:
    """(P,): the inner product of each pair; of a query of several vectors, that of the nearest.

    Args:
        queries: (P, K * D).
        items: (P, D).
    """
    if queries.shape == items.shape:
        return np.asarray((queries * items).sum(axis=1))
    each = queries.reshape(len(queries), -1, items.shape[1])
    found: Vectors = np.einsum("pkd,pd->pk", each, items).max(axis=1)
    return found


def search_each(
    search: Callable[[Vectors], Rows],
    vectors_of: Callable[[Rows], Vectors],
    queries: Vectors,
    dimension: int,
    k: int,
) -> list[tuple[Rows, Vectors]]:
    """For each query the rows and products of its best items, as `merge` gives them.

    Args:
        search: the rows (B * K, n) that are found for vectors (B * K, D).
        vectors_of: the item vectors of some rows.
        queries: (B, K * D).
        dimension: D.
    """
    found = search(each_vector(queries, dimension)).reshape(len(queries), -1)
    return [merge(rows, vectors_of, query, k) for rows, query in zip(found, queries, strict=True)]


def merge(found: Rows, vectors_of: Callable[[Rows], Vectors], query: Vectors, k: int) -> tuple[Rows, Vectors]:
    """One answer of what was found for each vector of a query; equal products are ordered by row.

    Args:
        found: int64, rows of any shape; below 0 is none.
        vectors_of: the item vectors of some rows.
        query: (K * D,).

    Returns:
        rows int64 and products float32, best first: `k` of each, or fewer if fewer items were found.
    """
    rows = np.unique(found[found >= 0])
    products = largest_products(vectors_of(rows), query)
    order = np.argsort(-products, kind="stable")[:k]
    return rows[order], products[order]
