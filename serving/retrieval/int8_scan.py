"""Exact search among many items, of which most is done on int8 copies of the vectors.

To compare a query with N vectors takes as long as reading them, and int8 takes a quarter of the bytes of
float32. So the inner products with all copies come first, in int8 arithmetic (`int8_copies.py`). With x' for
the copy of an item x and q' for that of a query q, the Cauchy-Schwarz inequality bounds their error:

    |q.x - q'.x'| = |q.(x - x') + (q - q').x'| <= e = |q| max |x - x'| + |q - q'| max |x'|

An item whose product in int8 is more than 2 e below the k-th highest is not among the best k. The others,
usually a hundred, are compared in float32. So the result is that of exact search.
"""

import math

import numpy as np
import numpy.typing as npt

from protos.vectors import BLOCK, int8_rows
from serving.retrieval.int8_copies import int8_copies, int8_query

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

GATHER = 1024  # vectors that are copied at once: a query of zeros makes all items candidates
ROUNDING = 1e-5  # of float32 arithmetic, as a part of the largest product that is possible


class Int8Scan:
    """Vectors to search exactly; safe to call from several threads.

    Args:
        vectors: float32 (N, D); the copies take (D + 5) bytes each besides.
    """

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors
        self._rows: Rows | None = None  # of the copies; None: all
        self._copies = int8_copies(*vectors.shape)
        self._max_residual = self._max_norm = 0.0  # max |x - x'| and max |x'|
        for start in range(0, len(vectors), BLOCK):
            rows = slice(start, start + BLOCK)
            copies, scales = int8_rows(vectors[rows])
            self._copies.put(rows, copies, scales)
            restored = copies * scales[:, None]
            self._max_residual = max(self._max_residual, _longest(vectors[rows] - restored))
            self._max_norm = max(self._max_norm, _longest(restored))

    def subset(self, rows: Rows) -> "Int8Scan":
        """A scan of some vectors only, ascending (R,), with copies of its own side by side."""
        subset = Int8Scan.__new__(Int8Scan)
        subset._vectors, subset._rows, subset._copies = self._vectors, rows, self._copies.subset(rows)
        subset._max_residual, subset._max_norm = self._max_residual, self._max_norm
        return subset

    def search(self, queries: Vectors, k: int, rows: Rows | None = None) -> tuple[Rows, Vectors]:
        """The `k` items with the largest inner products; equal products are ordered by row.

        Args:
            queries: float32 (B, D).
            k: at least 1, at most the number of items.
            rows: search only these, ascending (R,); None in a scan that `subset` has made.

        Returns:
            rows int64 (B, k) and inner products float32 (B, k), best first.
        """
        best, products = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        for n, query in enumerate(queries):
            near = self._candidates(query, k, rows)
            exact = self._products(query, near)
            order = (-exact).argsort(kind="stable")[:k]
            best[n], products[n] = near[order], exact[order]
        return best, products

    def _candidates(self, query: Vectors, k: int, rows: Rows | None) -> Rows:
        """Ascending rows, among them the `k` best."""
        copy, scale = int8_query(query)
        rest = query - copy * np.float32(scale)
        length, lost = math.sqrt(query @ query), math.sqrt(rest @ rest)
        error = (
            length * self._max_residual
            + lost * self._max_norm
            + ROUNDING * length * (self._max_norm + self._max_residual)
        )
        # The values of copies lack the factor `scale`. A query of zeros has none, and all items are as near.
        near = self._copies.near(copy, k, 2 * error / scale if scale else math.inf, rows)
        return near if self._rows is None else self._rows[near]

    def _products(self, query: Vectors, rows: Rows) -> Vectors:
        if len(rows) <= GATHER:
            products: Vectors = self._vectors[rows] @ query
            return products
        parts = (rows[at : at + GATHER] for at in range(0, len(rows), GATHER))
        return np.concatenate([self._vectors[part] @ query for part in parts])


def _longest(rows: Vectors) -> float:
    return float(np.sqrt(np.einsum("nd,nd->n", rows, rows).max(initial=0)))
