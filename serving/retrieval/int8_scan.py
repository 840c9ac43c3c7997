"""Exact search among many items, of which most is done on int8 copies of the vectors.

To compare a query with N vectors takes as long as reading them, and int8 takes a quarter of the bytes of
float32. So the inner products with all copies come first, in int8 arithmetic (SimSIMD). With x' for the copy
of an item x and q' for that of a query q, the Cauchy-Schwarz inequality bounds their error:

    |q.x - q'.x'| = |q.(x - x') + (q - q').x'| <= e = |q| max |x - x'| + |q - q'| max |x'|

An item whose product in int8 is more than 2 e below the k-th highest is not among the best k. The others,
usually a few hundred, are compared in float32. So the result is that of exact search.
"""

import threading

import numpy as np
import numpy.typing as npt
import simsimd

from protos.search import highest
from protos.vectors import BLOCK, Int8Rows, int8_rows

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

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
        self._error = self._length = 0.0  # max |x - x'| and max |x'|
        for start in range(0, len(vectors), BLOCK):
            rows = slice(start, start + BLOCK)
            self._copies[rows], self._scales[rows] = int8_rows(vectors[rows])
            restored = self._copies[rows] * self._scales[rows, None]
            self._error = max(self._error, _longest(vectors[rows] - restored))
            self._length = max(self._length, _longest(restored))
        self._local = threading.local()

    def subset(self, rows: Rows) -> "Int8Scan":
        """A scan of some vectors only, ascending (R,), with copies of its own side by side."""
        subset = Int8Scan.__new__(Int8Scan)
        subset._vectors, subset._rows, subset._local = self._vectors, rows, threading.local()
        subset._copies, subset._scales = self._copies[rows], self._scales[rows]
        subset._error, subset._length = self._error, self._length
        return subset

    def search(self, queries: Vectors, k: int, rows: Rows | None = None) -> tuple[Rows, Vectors]:
        """The `k` items with the largest inner products; equal products are ordered by row.

        Args:
            queries: float32 (B, D).
            k: at most the number of items.
            rows: search only these, ascending (R,), while all are compared; not in a subset.

        Returns:
            rows int64 (B, k) and inner products float32 (B, k), best first.
        """
        best, products = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        for n, query in enumerate(queries):
            near = self._candidates(query, k, rows)
            exact = self._vectors[near] @ query
            order = np.argsort(-exact, kind="stable")[:k]
            best[n], products[n] = near[order], exact[order]
        return best, products

    def _candidates(self, query: Vectors, k: int, rows: Rows | None) -> Rows:
        """Ascending rows, among them the `k` best."""
        (copy,), (scale,) = int8_rows(query[None])
        values = self._products()
        simsimd.cdist(copy[None], self._copies, "dot", out=values[None], out_dtype="f32")
        values *= self._scales
        if rows is None:
            rows = self._rows
        else:
            values = np.take(values, rows)
        length, lost = float(np.linalg.norm(query)), float(np.linalg.norm(query - copy * scale))
        error = length * self._error + lost * self._length + ROUNDING * length * (self._length + self._error)
        # `values` lack the factor `scale`. A query of zeros has no scale, and all items are as near.
        margin = 2 * error / float(scale) if scale else np.inf
        near: Rows = np.flatnonzero(values >= values[highest(values, k)].min() - margin)
        return near if rows is None else rows[near]

    def _products(self) -> Vectors:
        """This thread's buffer, a value for each copy: new memory takes longer than filling it."""
        buffer: Vectors | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = np.empty(len(self._copies), np.float32)
        return buffer


def _longest(rows: Vectors) -> float:
    return float(np.sqrt(np.einsum("nd,nd->n", rows, rows).max(initial=0)))
