"""Exact search over rows of int8 that are mapped from a file, in blocks that fit a processor's cache.

A block becomes float32, is multiplied with the queries, and only what beats a query's k-th best so far is
looked at again: nothing is held beside the file but a block and the best. Products of whole numbers this
small are exact in float32.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Whole = npt.NDArray[np.int8]
Rows = npt.NDArray[np.int64]

BLOCK = 8192  # rows


class Best:
    """The best rows for some queries so far.

    Args:
        queries: B.
        k: rows of each.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.rows: Rows = np.full((queries, k), -1, np.int64)
        self.scores: Vectors = np.full((queries, k), -np.inf, np.float32)  # best first

    def see(self, scores: Vectors, first: int) -> None:
        """Take in a block.

        Args:
            scores: (n, B).
            first: row of the first of them; all rows seen before are lower, and win among equals.
        """
        better = scores > self.scores[:, -1]
        for query in np.flatnonzero(better.any(axis=0)).tolist():
            places = np.flatnonzero(better[:, query])
            self._merge(query, places + first, scores[places, query])

    def join(self, other: "Best") -> None:
        """Take in the best of other rows, all of them higher."""
        for query, (rows, scores) in enumerate(zip(other.rows, other.scores, strict=True)):
            self._merge(query, rows, scores)

    def _merge(self, query: int, rows: Rows, scores: Vectors) -> None:
        k = self.rows.shape[1]
        if len(rows) > 4 * k:  # sorting all of them would take longer than the product
            likely = scores >= np.partition(scores, -k)[-k]
            rows, scores = rows[likely], scores[likely]
        rows = np.concatenate([self.rows[query], rows])
        scores = np.concatenate([self.scores[query], scores])
        kept = np.argsort(-scores, kind="stable")[:k]
        self.rows[query], self.scores[query] = rows[kept], scores[kept]


@dataclass(frozen=True)
class Int8Search:
    """Exact search by inner product.

    Args:
        rows: (N, D).
        scales: float32 (N,), what a row is multiplied by.
    """

    rows: Whole
    scales: Vectors

    def search(self, queries: Vectors, k: int, threads: int = 1) -> Best:
        """The best `k` rows for each query (B, D), the lower one among equals; -1 beyond the last."""
        if threads == 1:
            return self._part(queries, k, 0, len(self.rows))
        ends = np.linspace(0, len(self.rows), threads + 1).astype(int).tolist()
        with ThreadPoolExecutor(threads) as pool:  # numpy lets go of Python's lock in all that takes long
            parts = pool.map(lambda part: self._part(queries, k, *part), itertools.pairwise(ends))
            best, *others = parts
        for other in others:
            best.join(other)
        return best

    def _part(self, queries: Vectors, k: int, begin: int, end: int) -> Best:
        best, columns = Best(len(queries), k), np.ascontiguousarray(queries.T)
        room = np.empty((BLOCK, self.rows.shape[1]), np.float32)
        for at in range(begin, end, BLOCK):
            stop = min(at + BLOCK, end)
            block = room[: stop - at]
            np.copyto(block, self.rows[at:stop])
            scores = block @ columns  # (n, B)
            scores *= self.scales[at:stop, None]
            best.see(scores, at)
        return best
