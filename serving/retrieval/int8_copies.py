"""int8 copies of vectors, and which of them are near a query.

`int8_kernel.c` compares copies in two halves, which its head describes. Where it is not compiled, SimSIMD and
NumPy compare whole copies, and find the same in several times the time.
"""

import logging
import math
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import simsimd

from protos.search import highest
from protos.system.huge_pages import on_huge_pages
from protos.vectors import HIGHEST, Int8Rows

compiled: Any
try:
    from serving.retrieval import _int8_kernel

    compiled = _int8_kernel
except ImportError:  # no compiler was there when this package was installed
    compiled = None

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Halves = npt.NDArray[np.uint8]

GATHER_SHARE = 4  # NumPy compares the copies of all items if more than 1/4 are asked for
MIDDLE, MOST_SPREAD = 7.5, 255  # of the lower half of a coordinate; of the distance of all from it, as a byte


class Int8Copies(Protocol):
    """int8 copies of N vectors of dimension D."""

    def put(self, rows: slice, copies: Int8Rows, scales: Vectors) -> None:
        """Take the copies of some rows, int8 (R, D), with the scales that restore them (R,)."""

    def subset(self, rows: Rows) -> Self:
        """The copies of some rows only (R,), side by side: row n is the n-th of them."""

    def near(self, query: npt.NDArray[np.int8], k: int, margin: float, rows: Rows | None = None) -> Rows:
        """Ascending rows, whose values are at most `margin` below the k-th highest.

        Args:
            query: int8 (D,).
            k: at least 1, at most the number of rows searched.
            margin: at least 0. A value is the product of copy and query, times the scale.
            rows: search only these, ascending (R,); all by default.

        Raises:
            ValueError: rows do not ascend from 0 to N - 1, or `k` or `margin` is outside its bounds.
        """


class SplitCopies(Int8Copies):
    """Copies in two halves, for the compiled search; they take D + 5 bytes each.

    Args:
        count: N.
        dimension: D.
    """

    def __init__(self, count: int, dimension: int) -> None:
        width = -(-dimension // 2)
        with on_huge_pages():
            self.upper: Halves = np.zeros((count, width), np.uint8)
            self.lower: Halves = np.zeros((count, width), np.uint8)
        self.scales: Vectors = np.zeros(count, np.float32)
        self.spreads: Halves = np.zeros(count, np.uint8)

    def put(self, rows: slice, copies: Int8Rows, scales: Vectors) -> None:
        """As `Int8Copies.put`."""
        shifted: Halves = copies.view(np.uint8) ^ np.uint8(128)
        lower: Halves = shifted & np.uint8(15)
        self.upper[rows], self.lower[rows] = self._pairs(shifted >> np.uint8(4)), self._pairs(lower)
        distances = lower - np.float32(MIDDLE)
        unit = MIDDLE * math.sqrt(2 * self.upper.shape[1]) / MOST_SPREAD
        spreads = np.ceil(np.sqrt(np.einsum("nd,nd->n", distances, distances)) / unit)
        self.scales[rows], self.spreads[rows] = scales, np.minimum(spreads, MOST_SPREAD)

    def subset(self, rows: Rows) -> Self:
        """As `Int8Copies.subset`."""
        subset = type(self).__new__(type(self))
        subset.upper, subset.lower = self.upper[rows], self.lower[rows]
        subset.scales, subset.spreads = self.scales[rows], self.spreads[rows]
        return subset

    def _pairs(self, halves: Halves) -> Halves:
        width = self.upper.shape[1]
        pairs = halves[:, :width].copy()
        pairs[:, : halves.shape[1] - width] |= halves[:, width:] << np.uint8(4)
        return pairs

    def near(self, query: npt.NDArray[np.int8], k: int, margin: float, rows: Rows | None = None) -> Rows:
        """As `Int8Copies.near`."""
        if len(query) % 2:
            query = np.append(query, np.int8(0))
        found = compiled.near(
            self.upper, self.lower, self.scales, self.spreads, query, rows, k, margin
        )  # fmt: skip
        return np.frombuffer(found, np.int64)


class PlainCopies(Int8Copies):
    """Whole copies, for NumPy; they take D + 4 bytes each. Arguments as of `SplitCopies`."""

    def __init__(self, count: int, dimension: int) -> None:
        self._copies: Int8Rows = np.zeros((count, dimension), np.int8)
        self._scales: Vectors = np.zeros(count, np.float32)

    def put(self, rows: slice, copies: Int8Rows, scales: Vectors) -> None:
        """As `Int8Copies.put`."""
        self._copies[rows], self._scales[rows] = copies, scales

    def subset(self, rows: Rows) -> Self:
        """As `Int8Copies.subset`."""
        subset = type(self).__new__(type(self))
        subset._copies, subset._scales = self._copies[rows], self._scales[rows]
        return subset

    def near(self, query: npt.NDArray[np.int8], k: int, margin: float, rows: Rows | None = None) -> Rows:
        """As `Int8Copies.near`."""
        if rows is None:
            values = self._values(query, slice(None))
        elif len(rows) * GATHER_SHARE < len(self._copies):
            values = self._values(query, rows)
        else:
            values = np.take(self._values(query, slice(None)), rows)
        limit = values[highest(values, k)].min() - np.float32(margin)
        near: Rows = np.flatnonzero(values >= limit)
        return near if rows is None else rows[near]

    def _values(self, query: npt.NDArray[np.int8], rows: Rows | slice) -> Vectors:
        # Without `out=`: there SimSIMD 6.5 returns None without counting the reference to it, and Python 3.11
        # ends with an error when none is left.
        products = simsimd.cdist(query[None], self._copies[rows], "dot", out_dtype="f32")
        values: Vectors = np.asarray(products)[0] * self._scales[rows]
        return values


def int8_copies(count: int, dimension: int) -> Int8Copies:
    """Copies of N vectors, to be put."""
    if compiled is None:
        log.info("the search of int8 copies is not compiled here, so it takes longer: make setup")
        return PlainCopies(count, dimension)
    return SplitCopies(count, dimension)


def int8_query(query: Vectors) -> tuple[npt.NDArray[np.int8], float]:
    """A query, float32 (D,), in int8, and the scale that restores it, 0 for zeros."""
    scale = float(np.abs(query).max(initial=0)) / HIGHEST
    if not scale:
        return np.zeros(len(query), np.int8), 0.0
    return np.rint(query / scale).astype(np.int8), scale
