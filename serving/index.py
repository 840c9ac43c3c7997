"""Vector to rows: the HNSW graph of a bundle, and exact search where the graph is no use.

Both give inner products. Item vectors are of unit length. Where scores are not cosines, their last
coordinate only fills them up to that, and the graph goes without it: a query from a tower has a zero there,
and an item as a query is compared with every other.
"""

from pathlib import Path

import hnswlib
import numpy as np
import numpy.typing as npt

from protos.beam import graph_width
from protos.bundle import INDEX, VECTORS, Manifest
from protos.errors import BundleDamaged
from serving.graph_file import read_graph

Vectors = npt.NDArray[np.float32]
Found = tuple[npt.NDArray[np.int64], Vectors]  # rows (B, K) and scores (B, K), best first

BLOCK = 16  # queries that exact search scores at once: bounds memory to 16 N floats


class Index:
    """N item vectors to search in; safe to call from several threads.

    Args:
        folder: of a bundle whose files have been verified.
        manifest: of that bundle.

    Raises:
        BundleDamaged: vectors or graph are not those that the manifest describes.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.count, self.dimension = manifest.count, manifest.dimension
        self.filled = manifest.score.kind != "cosine"
        self._ef = manifest.index.ef_search
        self.vectors = self._load_vectors(folder / VECTORS)
        self._graph = self._load_graph(folder / INDEX, manifest.index.space)

    def search(self, queries: Vectors, k: int) -> Found:
        """The `min(k, N)` items nearest to each query, float32 (B, D), as a tower gives it."""
        k = min(k, self.count)
        width = graph_width(k, self._ef, self.count)
        if width is None:
            return self.exact(queries, k)
        try:
            rows, distances = self._graph.knn_query(queries, k=width, num_threads=1)
        except RuntimeError:  # the graph reached fewer items than were asked for
            return self.exact(queries, k)
        return rows[:, :k].astype(np.int64), 1 - distances[:, :k]

    def exact(self, queries: Vectors, k: int) -> Found:
        """As `search`, of any queries, by comparing with every item; among equals the lower row is first."""
        k = min(k, self.count)
        rows = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float32)
        for start in range(0, len(queries), BLOCK):
            stop = start + BLOCK
            all_scores = queries[start:stop] @ self.vectors.T  # (BLOCK, N)
            rows[start:stop] = nearest(all_scores, k)
            scores[start:stop] = np.take_along_axis(all_scores, rows[start:stop], axis=1)
        return rows, scores

    def _load_vectors(self, path: Path) -> Vectors:
        try:
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise BundleDamaged(f"{path}: {error}") from None
        expected = (self.count, self.dimension)
        if vectors.dtype != np.float32 or vectors.shape != expected:
            raise BundleDamaged(f"{path}: {vectors.dtype} {vectors.shape}, expected float32 {expected}")
        return np.asarray(vectors)

    def _load_graph(self, path: Path, space: str) -> hnswlib.Index:
        if space != "ip":
            raise BundleDamaged(f"{path}: space {space!r}, but this program searches in 'ip'")
        graph = read_graph(path, space, self.dimension)
        if graph.get_current_count() != self.count:
            raise BundleDamaged(
                f"{path}: {graph.get_current_count()} items, but the manifest counts {self.count}"
            )
        # A graph can be whole, and yet be that of another bundle.
        sample = np.unique(np.linspace(0, self.count // 2, 8).astype(np.int64))
        try:
            held, end = graph.get_items(sample, return_type="numpy"), -1 if self.filled else None
            same = np.array_equal(held[:, :end], self.vectors[sample, :end])
        except RuntimeError:  # an item is marked as deleted
            same = False
        if not same:
            raise BundleDamaged(f"{path}: holds other vectors than {VECTORS}")
        graph.set_ef(self._ef)
        return graph


def nearest(scores: Vectors, k: int) -> npt.NDArray[np.int64]:
    """Columns of the `k` highest scores of each row, best first, the lower one among equals.

    Args:
        scores: float32 (B, N).
        k: at most N.

    Returns:
        int64 (B, k).
    """
    if k < scores.shape[1]:
        threshold = np.partition(scores, -k, axis=1)[:, -k]  # (B,)
    else:
        threshold = scores.min(axis=1)
    best = np.empty((len(scores), k), np.int64)
    for row, (values, least) in enumerate(zip(scores, threshold, strict=True)):
        candidates = np.flatnonzero(values >= least)
        best[row] = candidates[np.argsort(-values[candidates], kind="stable")[:k]]
    return best
