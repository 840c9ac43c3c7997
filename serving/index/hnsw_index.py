"""Search in the HNSW graph of a bundle, and exactly where the graph does not help."""

import threading
from pathlib import Path
from typing import Self

import hnswlib
import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import INDEX, VECTORS, Manifest
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.search import graph_width
from twinspire.protos.system.huge_pages import on_huge_pages
from twinspire.serving.index.hnsw_file import read_graph
from twinspire.serving.index.vector_index import ExactIndex, Neighbours, Vectors

SPACE = "ip"


class HnswIndex(ExactIndex):
    """An HNSW graph over the item vectors (Malkov and Yashunin 2018); safe to call from several threads.

    Where scores are not cosines, the graph holds the items without their padding coordinate. A query of the
    tower has a zero there; an item as a query must be searched with `exact`.

    Args:
        folder: of a bundle whose files have been verified.

    Raises:
        BundleDamaged: vectors or graph are not those that the manifest describes.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        super().__init__(folder, manifest)
        self._ef = manifest.index.ef_search
        self._graph = self._load_graph(folder / INDEX, manifest.index.space, manifest.dimension)
        self._widths: dict[int, int | None] = {}  # k -> what `_width` returns for it

    @classmethod
    def of(
        cls, vectors: Vectors, graph: hnswlib.Index, ef_search: int, has_padding_dim: bool, path: Path
    ) -> Self:
        """An index over vectors that are not those of a bundle.

        Args:
            vectors: float32 (N, D).
            graph: over them, label n for row n.
            ef_search: width of a search.
            has_padding_dim: whether the graph holds 0 in the last coordinate.
            path: of the graph's file.

        Raises:
            BundleDamaged: the graph holds other vectors.
        """
        index = cls.__new__(cls)
        index._count, index._vectors, index._has_padding_dim = len(vectors), vectors, has_padding_dim
        index._local, index._scan = threading.local(), None
        index._ef, index._widths = ef_search, {}
        index._graph = index._checked(graph, path)
        return index

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        """The `min(k, N)` items nearest to each query of the query tower, float32 (B, D)."""
        k = min(k, self._count)
        width = self._width(k)
        if width is None:
            return self.exact(vectors, k)
        try:
            rows, distances = self._graph.knn_query(vectors, k=width, num_threads=1)
        except RuntimeError:  # the graph reaches fewer items than `width`
            return self.exact(vectors, k)
        return _neighbours(rows, distances, k)

    def search_one(self, vector: Vectors, k: int) -> tuple[list[int], list[float]]:
        """As `search`, of one query (1, D), in lists.

        It calls no function of numpy: after a search their code is no longer in the processor's caches, and
        each takes microseconds.
        """
        k = min(k, self._count)
        width = self._widths[k] if k in self._widths else self._width(k)
        if width is not None:
            try:
                rows, distances = self._graph.knn_query(vector, k=width, num_threads=1)
                return rows.tolist()[0][:k], [1 - each for each in distances.tolist()[0][:k]]
            except RuntimeError:  # as in `search`
                pass
        best, scores = self.exact(vector, k)
        return best.tolist()[0], scores.tolist()[0]

    def _width(self, k: int) -> int | None:
        """The number of items to request from the graph for its best `k`; None if exact search is as fast."""
        if k not in self._widths:
            self._widths[k] = graph_width(k, self._ef, self._count)
        return self._widths[k]

    def _load_graph(self, path: Path, space: str, dimension: int) -> hnswlib.Index:
        if space != SPACE:
            raise BundleDamaged(f"{path}: space {space!r}, but this program searches in {SPACE!r}")
        with on_huge_pages():
            graph = read_graph(path, space, dimension)
        return self._checked(graph, path)

    def _checked(self, graph: hnswlib.Index, path: Path) -> hnswlib.Index:
        """The graph, set to the search width.

        Raises:
            BundleDamaged: it holds another number of items, or other vectors.
        """
        if graph.get_current_count() != self._count:
            raise BundleDamaged(
                f"{path}: {graph.get_current_count()} items, but the manifest counts {self._count}"
            )
        # A valid graph can belong to another bundle. Vectors have the same bits on every processor
        # (`protos/vectors.py`), except for the padding coordinate.
        sample = np.unique(np.linspace(0, self._count - 1, 8).astype(np.int64))
        try:
            held, end = graph.get_items(sample, return_type="numpy"), -1 if self._has_padding_dim else None
            same = np.array_equal(held[:, :end], self._vectors[sample, :end])
        except RuntimeError:  # an item is marked as deleted
            same = False
        if not same:
            raise BundleDamaged(f"{path}: holds other vectors than {VECTORS}")
        graph.set_ef(self._ef)
        return graph


def _neighbours(rows: npt.NDArray[np.uint64], distances: Vectors, k: int) -> Neighbours:
    """The first `k` of what the graph found; its distance is 1 - inner product."""
    return Neighbours(rows[:, :k].view(np.int64), 1 - distances[:, :k])
