"""The rows of a growing segment that each search compares with the query, side by side in memory.

A growing segment keeps the rows of outdated versions. If they were compared too, the time of a search would
grow with the number of writes: an item that is written each second would soon cost as much as thousands.
"""

import numpy as np
import numpy.typing as npt

from serving.index.vector_index import Rows, Vectors

FIRST_CAPACITY = 256
# Rows that may have become outdated before the others are copied anew: OUTDATED, or 1/SHARE of all.
OUTDATED, SHARE = 64, 4


class BruteForceBuffer:
    """A contiguous copy of a segment's rows from some row on, without most of the outdated ones.

    Args:
        dimension: D.
    """

    def __init__(self, dimension: int) -> None:
        self._rows: Rows = np.empty(FIRST_CAPACITY, np.int64)
        self._vectors: Vectors = np.empty((FIRST_CAPACITY, dimension), np.float32)
        self._count = 0
        self._first = self._end = 0  # the segment's rows between them have been taken
        self._dead_count = 0  # of the segment, when the rows were last copied

    def since(
        self, first: int, vectors: Vectors, alive: npt.NDArray[np.bool_], dead_count: int
    ) -> tuple[Rows, Vectors]:
        """The segment's rows from `first` on: their numbers, ascending (C,), and their vectors (C, D).

        All current versions are among them. So are some outdated ones, which the caller has to leave out.

        Args:
            first: row, from 0 on.
            vectors: of all rows of the segment, float32 (M, D). In all calls it is the same segment; rows are
                only ever added to it, and become outdated.
            alive: whether each row is the current version of its item, bool (at least M,).
            dead_count: rows that are not.
        """
        if first != self._first or dead_count - self._dead_count > max(OUTDATED, self._count // SHARE):
            self._count, self._first, self._end, self._dead_count = 0, first, first, dead_count
        if self._end < len(vectors):
            self._take(vectors, self._end + alive[self._end : len(vectors)].nonzero()[0])
            self._end = len(vectors)
        return self._rows[: self._count], self._vectors[: self._count]

    def _take(self, vectors: Vectors, rows: Rows) -> None:
        end = self._count + len(rows)
        if end > len(self._rows):
            more = max(end, 2 * len(self._rows)) - self._count
            self._rows = np.concatenate([self._rows[: self._count], np.empty(more, np.int64)])
            spare = np.empty((more, self._vectors.shape[1]), np.float32)
            self._vectors = np.concatenate([self._vectors[: self._count], spare])
        self._rows[self._count : end] = rows
        self._vectors[self._count : end] = vectors[rows]
        self._count = end
