"""Exact search among many items, done for the most part on int8 copies of the vectors.

To compare a query with N vectors takes as long as reading them, and int8 takes a quarter of the bytes of
float32. So the inner products with all copies come first, in int8 arithmetic (SimSIMD). With x' for the copy
of an item x and q' for that of a query q, the Cauchy-Schwarz inequality bounds their error:

    |q.x - q'.x'| = |q.(x - x') + (q - q').x'| <= e = |q| max |x - x'| + |q - q'| max |x'|

An item whose product in int8 is more than 2 e below the k-th highest is not among the best k. The others,
usually a few hundred, are compared in float32. So the result is that of exact search.
"""

import math

import numpy as np
import numpy.typing as npt
import simsimd

from twinspire.protos.search import highest
from twinspire.protos.vectors import BLOCK, HIGHEST, Int8Rows, int8_rows

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

GATHER = 1024  # most vectors that are copied at once, since all items may be candidates
ROUNDING = 1e-5  # of float32 arithmetic, as a part of the largest product that is possible


class Int8Scan:
    """Vectors to search exactly; safe to call from several threads.

    Args:
        vectors: float32 (N, D); the copies take (D + 4) bytes each besides.
    """

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors
        self._rows: Rows | None = None  # of the copies; None: all
        self._copies: Int8Rows = np.empty(vectors.shape, np.int8)
        self._scales: Vectors = np.empty(len(vectors), np.float32)
        self._max_residual = self._max_norm = 0.0  # max |x - x'| and max |x'|
        for start in range(0, len(vectors), BLOCK):
            rows = slice(start, start + BLOCK)
            self._copies[rows], self._scales[rows] = int8_rows(vectors[rows])
            restored = self._copies[rows] * self._scales[rows, None]
            self._max_residual = max(self._max_residual, _longest(vectors[rows] - restored))
            self._max_norm = max(self._max_norm, _longest(restored))

    def subset(self, rows: Rows) -> "Int8Scan":
        """A scan of the vectors of ascending rows (R,), with int8 copies of its own side by side."""
        subset = Int8Scan.__new__(Int8Scan)
        subset._vectors, subset._rows = self._vectors, rows
        subset._copies, subset._scales = self._copies[rows], self._scales[rows]
        subset._max_residual, subset._max_norm = self._max_residual, self._max_norm
        return subset

    def search(self, queries: Vectors, k: int, rows: Rows | None = None) -> tuple[Rows, Vectors]:
        """The `k` items with the largest inner products; equal products are ordered by row.

        Args:
            queries: float32 (B, D).
            k: at most the number of items.
            rows: search only these, ascending (R,); None in a scan that `subset` has made.

        Returns:
            rows int64 (B, k) and inner products float32 (B, k), best first.
        """
        best, products = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        for n, query in enumerate(queries):
            near = self._candidates(query, k, rows)
            exact = np.concatenate(
                [self._vectors[near[at : at + GATHER]] @ query for at in range(0, len(near), GATHER)]
            )
            order = np.argsort(-exact, kind="stable")[:k]
            best[n], products[n] = near[order], exact[order]
        return best, products

    def _candidates(self, query: Vectors, k: int, rows: Rows | None) -> Rows:
        """Ascending rows that include the `k` best for a query (D,)."""
        scale = float(np.abs(query).max()) / HIGHEST
        copy = np.rint(query / scale).astype(np.int8) if scale else np.zeros(len(query), np.int8)
        # Without `out=`: there SimSIMD 6.5 returns None without counting the reference to it, and Python 3.11
        # ends with an error when none is left.
        products = simsimd.cdist(copy[None], self._copies, "dot", out_dtype="f32")
        values = np.asarray(products)[0] * self._scales
        if rows is None:
            rows = self._rows
        else:
            values = np.take(values, rows)
        rest = query - copy * np.float32(scale)
        length, lost = math.sqrt(query @ query), math.sqrt(rest @ rest)
        error = (
            length * self._max_residual
            + lost * self._max_norm
            + ROUNDING * length * (self._max_norm + self._max_residual)
        )
        # `values` lack the factor `scale`. A query of zeros has no scale, and all items are as near.
        margin = 2 * error / scale if scale else np.inf
        near: Rows = np.flatnonzero(values >= values[highest(values, k)].min() - margin)
        return near if rows is None else rows[near]


def _longest(rows: Vectors) -> float:
    return float(np.sqrt(np.einsum("nd,nd->n", rows, rows).max(initial=0)))
