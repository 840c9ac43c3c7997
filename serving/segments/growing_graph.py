"""An HNSW graph over the first rows of a growing segment, where they are too many to be compared one by one.

The process that encodes the items builds the graph (`live/encoding/graph_builder.py`), and the workers load
it. It covers the first rows of the segment, and grows with them; outdated versions stay in it, until the
next generation of encoded items.

Many equal vectors would cut a graph into parts. So it holds the first `COPIES` of them, and the others are
compared one by one. Vectors of one text from batches of different sizes may differ by rounding; they count
as equal. Its labels number the rows that it holds, which follow from the encoded items alone.
"""

from collections import Counter
from hashlib import blake2b
from pathlib import Path

import numpy as np

from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.protos.nearest.links import read_hnswlib
from twinspire.protos.nearest.search import exact_search
from twinspire.serving.segments.neighbours import Mask, merged, remaining_of_all
from twinspire.serving.segments.vector_index import Neighbours, Rows, VectorIndex, Vectors

COPIES = 16  # equal vectors that a graph holds
# Vectors in one cell are equal; a cell is 2**-10 to 2**-11 of the largest coordinate, wide against rounding.
CELL_BITS = 11
NARROWEST = 32  # ef of a search in a small graph


class CopyCounter:
    """Counts equal vectors, to decide which rows of a segment its graph holds."""

    def __init__(self) -> None:
        self._seen: Counter[bytes] = Counter()

    def count_and_admit(self, vector: bytes) -> bool:
        """Whether the graph holds a row: fewer than `COPIES` rows before it have its vector.

        Args:
            vector: of the row, float32 (D,) as bytes. Call this once for each row, in their order.
        """
        values = np.frombuffer(vector, np.float32)
        exponent = np.frexp(np.abs(values).max())[1]
        cell = np.rint(np.ldexp(values, CELL_BITS - exponent)) + 0.0  # -0 is 0
        digest = blake2b(cell.tobytes() + exponent.tobytes(), digest_size=16).digest()
        self._seen[digest] += 1
        return self._seen[digest] <= COPIES


class GrowingGraph:
    """The first rows of a growing segment: most are in a graph; the others are compared one by one.

    Args:
        index: of G vectors.
        held: their rows in the segment, from 0 on, ascending (G,).
        others: the rows between them, ascending (H,).
        vectors: of the others, float32 (H, D).

    Attributes:
        count: G + H; it covers the segment's rows before this one.
    """

    def __init__(self, index: VectorIndex, held: Rows, others: Rows, vectors: Vectors) -> None:
        self.count = len(held) + len(others)
        self._index, self._held, self._others, self._vectors = index, held, others, vectors

    def search(self, alive: Mask, vectors: Vectors, k: int) -> Neighbours:
        """The `k` nearest of the rows that are alive, fewer if there are fewer.

        Args:
            alive: bool, by row of the segment.
            vectors: of the queries, float32 (B, D).
            k: rows wanted.
        """
        if not len(self._others):
            gone = ~alive[: self.count]
            return remaining_of_all(self._index.search, gone, int(np.count_nonzero(gone)), vectors, k)
        gone = ~alive[self._held]
        best = remaining_of_all(self._index.search, gone, int(np.count_nonzero(gone)), vectors, k)
        best = Neighbours(self._held[best.rows], best.scores)
        there = alive[self._others]
        rows, compared = self._others, self._vectors
        if not there.all():
            rows, compared = rows[there], compared[there]
        if not len(rows):
            return best
        places, scores = exact_search(vectors, compared, min(k, len(rows)))
        return merged(best, Neighbours(rows[places], scores), k)


def open_graph(path: Path, manifest: Manifest, vectors: Vectors) -> GrowingGraph | None:
    """The graph over the first of the segment's rows; None if it has more rows than the segment has yet.

    Args:
        vectors: of the segment's rows, float32 (M, D).

    Raises:
        BundleDamaged: the file is not a graph.
    """
    links = read_hnswlib(path, manifest.dimension)
    held, others = _rows(vectors, len(links))
    if len(held) < len(links):
        return None
    # A graph of at most half as many items is searched half as widely as the bundle's, and finds as much.
    ef = manifest.index.ef_search
    if 2 * len(held) <= manifest.count:
        ef = max(NARROWEST, ef // 2)
    searched = vectors[held] if len(others) else vectors[: len(held)]
    try:
        index = VectorIndex(CodedVectors(searched, manifest.score.has_padding_dim, links), ef)
    except ValueError as error:
        raise BundleDamaged(f"{path}: {error}") from None
    return GrowingGraph(index, held, others, vectors[others])


def _rows(vectors: Vectors, count: int) -> tuple[Rows, Rows]:
    """The first `count` rows that a graph holds, fewer if there are fewer, and the others among them."""
    copies = CopyCounter()
    held: list[int] = []
    others: list[int] = []
    for row, vector in enumerate(vectors):
        if len(held) == count:
            break
        (held if copies.count_and_admit(vector.tobytes()) else others).append(row)
    return np.array(held, np.int64), np.array(others, np.int64)
