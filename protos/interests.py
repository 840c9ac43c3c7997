"""Queries of several vectors (multi-interest retrieval): their score of an item is that of the best vector.

A row of query vectors holds the K vectors of a query side by side, float32 (B, K * D), so that a query is
one row everywhere; item vectors are (N, D). A search looks for the neighbours of each of the K vectors, and
merges what it finds. Where each search is exact, that loses nothing: an item of the k best is among the k
best of its nearest vector.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


def each_vector(queries: Vectors, dimension: int) -> Vectors:
    """The vectors of all queries, one after another: (B * K, D) of (B, K * D)."""
    return queries.reshape(-1, dimension)


def products(items: Vectors, query: Vectors) -> Vectors:
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
        queries: (P, D), or (P, K * D).
        items: (P, D).
    """
    if queries.shape == items.shape:
        return np.asarray((queries * items).sum(axis=1))
    each = queries.reshape(len(queries), -1, items.shape[1])
    found: Vectors = np.einsum("pkd,pd->pk", each, items).max(axis=1)
    return found


def merged(
    found: Rows, vectors_of: Callable[[Rows], Vectors], query: Vectors, k: int
) -> tuple[Rows, Vectors]:
    """What the searches for the vectors of one query have found, as one answer; result as of `best`.

    Args:
        found: int64, rows of any shape; below 0 is none.
        vectors_of: the item vectors of some rows.
        query: (K * D,).
        k: items wanted.
    """
    rows = np.unique(found[found >= 0])
    return best(rows, vectors_of(rows), query, k)


def best(rows: Rows, items: Vectors, query: Vectors, k: int) -> tuple[Rows, Vectors]:
    """The `k` best of some items, fewer if there are fewer; equal products are ordered by row.

    Args:
        rows: int64 (R,), distinct and ascending.
        items: their vectors (R, D).
        query: (K * D,).

    Returns:
        rows and products (min(k, R),), best first.
    """
    values = products(items, query)
    order = np.argsort(-values, kind="stable")[:k]
    return rows[order], values[order]
