"""Item vectors with int8 codes, and the searches that read them.

A search takes as long as it takes to read the vectors that it compares, and a code has a quarter of the bytes
of a float32 vector. So items are compared by their codes, and the best of them once more in float32.

Where `kernel.c` could not be compiled, NumPy compares all items in float32: each search is exact, and takes
many times as long.
"""

import logging
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.protos.nearest.links import Links
from twinspire.protos.nearest.search import exact_search, top_k
from twinspire.protos.nearest.vectors import BLOCK, int8_rows

compiled: Any
try:
    from twinspire.protos.nearest import _kernel

    compiled = _kernel
except ImportError:  # it was not compiled when this package was installed
    compiled = None

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

LINE = 64  # the length of a code is a multiple of it
GATHERED = 8192  # rows whose vectors are copied at once


class CodedVectors:
    """N item vectors and their codes; safe to call from several threads.

    Args:
        vectors: float32 (N, D), kept; the codes take 4 bytes more than D, rounded up to 64, for each.
        has_padding_dim: the last coordinate only pads the vectors to unit length. Queries have 0 there,
            except for items that are searched as queries. Codes have 0 there.
        links: of a graph over the items, uint32 (N, W), if there is one; see `links.py`.
        has_codes: without codes, vectors are compared in float32.

    Raises:
        ValueError: a vector is not finite.
    """

    def __init__(
        self,
        vectors: Vectors,
        has_padding_dim: bool = False,
        links: Links | None = None,
        has_codes: bool = True,
    ) -> None:
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        self.links = np.empty((len(self.vectors), 0), np.uint32) if links is None else links
        count, dimension = self.vectors.shape
        self._has_padding_dim, used = has_padding_dim, dimension - has_padding_dim
        self._max_residual = self._max_norm = 0.0
        self._codes, self._scales = np.empty((count, 0), np.int8), np.empty(count, np.float32)
        if compiled is None:
            log.warning("the search of vectors is not compiled, so each compares all items; see `make setup`")
        if not has_codes:
            self._max_residual = math.inf  # codes say nothing
            return
        self._codes = _aligned_zeros(count, -(-used // LINE) * LINE)
        for start in range(0, count, BLOCK):
            rows, block = slice(start, start + BLOCK), self.vectors[start : start + BLOCK, :used]
            if not np.isfinite(block).all():
                raise ValueError(f"rows {start} to {start + len(block) - 1}: not all numbers are finite")
            self._codes[rows, :used], self._scales[rows] = int8_rows(block)
            restored = self._codes[rows, :used] * self._scales[rows, None]
            self._max_residual = max(self._max_residual, _longest(block - restored))
            self._max_norm = max(self._max_norm, _longest(restored))

    def exact(self, queries: Vectors, k: int, rows: Rows | None = None) -> tuple[Rows, Vectors]:
        """The items with the largest inner products; equal products are ordered by row.

        Args:
            queries: float32 (B, D), of queries or items.
            k: items wanted.
            rows: of the R items to compare; all N by default.

        Returns:
            rows int64 (B, min(k, R)) and inner products float32 (B, min(k, R)), best first.
        """
        residual = self._max_residual
        if self._has_padding_dim and queries[:, -1].any():
            residual = math.inf  # codes say nothing of the last coordinate
        k = min(k, len(self.vectors) if rows is None else len(rows))
        return self._searched(queries, k, k, rows, None, None, residual)[:2]

    def search(
        self, queries: Vectors, k: int, ef: int, allowed: Mask | None = None, most_steps: int = -1
    ) -> tuple[Rows, Vectors, int]:
        """Search in the graph.

        Args:
            queries: float32 (B, D).
            k: items wanted.
            ef: width of the search; the higher, the fewer of the nearest items are missed.
            allowed: whether each item may be found (N,); all by default.
            most_steps: items whose links are followed; a search that needs more finds none. Any by default.

        Returns:
            rows int64 (B, k) and inner products float32 (B, k), best first, and the lowest number of items
            that a query has found; rows are -1 where there are no more.
        """
        return self._searched(queries, k, max(k, ef), None, self.links, allowed, 0.0, most_steps)

    def _searched(
        self,
        queries: Vectors,
        k: int,
        ef: int,
        rows: Rows | None,
        links: Links | None,
        allowed: Mask | None,
        max_residual: float,
        most_steps: int = -1,
    ) -> tuple[Rows, Vectors, int]:
        found, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        if not found.size:
            return found, scores, 0
        if compiled is None:
            return self._compared(queries, k, np.flatnonzero(allowed) if allowed is not None else rows)
        some = None if rows is None else np.ascontiguousarray(rows, np.int64)
        least = compiled.search(
            self._codes, self._scales, self.vectors, np.ascontiguousarray(queries, np.float32), found, scores,
            some, links, allowed, k, max(k, min(ef, len(self.vectors))), most_steps,
            max_residual, self._max_norm,
        )  # fmt: skip
        return found, scores, least

    def _compared(self, queries: Vectors, k: int, rows: Rows | None) -> tuple[Rows, Vectors, int]:
        """As `search`, by comparing all items or those in some rows."""
        found, scores = np.full((len(queries), k), -1), np.zeros((len(queries), k), np.float32)
        if rows is None:
            places, best = exact_search(queries, self.vectors, k)
        else:
            places, best = self._best_of(queries, k, rows)
        least = places.shape[1]
        found[:, :least], scores[:, :least] = places, best
        return found, scores, least

    def _best_of(self, queries: Vectors, k: int, rows: Rows) -> tuple[Rows, Vectors]:
        """As `exact_search` among some rows; the vectors of `GATHERED` of them are copied at a time."""
        products = np.empty((len(queries), len(rows)), np.float32)
        for start in range(0, len(rows), GATHERED):
            some = slice(start, start + GATHERED)
            products[:, some] = queries @ self.vectors[rows[some]].T
        best = top_k(products, min(k, len(rows)))
        return rows[best], np.take_along_axis(products, best, axis=1)


def is_compiled() -> bool:
    """Whether graphs are searched here; otherwise all items are compared, and widths mean nothing."""
    return compiled is not None


def _longest(rows: Vectors) -> float:
    return float(np.sqrt(np.einsum("nd,nd->n", rows, rows).max(initial=0)))


def _aligned_zeros(count: int, length: int) -> npt.NDArray[np.int8]:
    """int8 (count, length) that begins with a cache line, so that no code is in more lines than it needs."""
    content = np.zeros(count * length + LINE, np.int8)
    start = -content.ctypes.data % LINE
    return content[start : start + count * length].reshape(count, length)
