"""Vector to rows: the HNSW graph of a bundle, or exact search where the graph is no use.

Both give inner products. Item vectors are of unit length. Where scores are not cosines, their last
coordinate only fills them up to that, and the graph goes without it: a query from a tower has a zero there,
and an item as a query is compared with every other.
"""

from pathlib import Path

import hnswlib
import numpy as np
import numpy.typing as npt

from protos.beam import exact_search, graph_width
from protos.bundle import INDEX, VECTORS, Manifest
from protos.errors import BundleDamaged
from protos.huge_pages import on_huge_pages
from protos.vectors import read_vectors
from serving.graph_file import read_graph

Vectors = npt.NDArray[np.float32]
Found = tuple[npt.NDArray[np.int64], Vectors]  # rows (B, K) and scores (B, K), best first


class Index:
    """N item vectors to search in; safe to call from several threads.

    Args:
        folder: of a bundle whose files have been verified.
        manifest: of that bundle.

    Raises:
        BundleDamaged: vectors, or the graph where it is searched, are not those that the manifest describes.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.count, self.dimension = manifest.count, manifest.dimension
        self.filled = manifest.score.kind != "cosine"
        self._ef, self._exact = manifest.index.ef_search, manifest.index.exact
        self.vectors = read_vectors(
            folder, manifest.precision.vectors, self.count, self.dimension, self.filled
        )
        # A graph that nobody asks would only take memory.
        self._graph = None if self._exact else self._load_graph(folder / INDEX, manifest.index.space)

    def search(self, queries: Vectors, k: int) -> Found:
        """The `min(k, N)` items nearest to each query, float32 (B, D), as a tower gives it."""
        found = self._in_graph(queries, k := min(k, self.count))
        if found is None:
            return self.exact(queries, k)
        rows, distances = found
        return rows[:, :k].view(np.int64), 1 - distances[:, :k]

    def search_one(self, query: Vectors, k: int) -> tuple[list[int], list[float]]:
        """As `search`, of one query (1, D), in lists.

        After a search numpy's code is in no cache: each of its calls takes microseconds then.
        """
        found = self._in_graph(query, k := min(k, self.count))
        if found is None:
            best, scores = self.exact(query, k)
            return best.tolist()[0], scores.tolist()[0]
        rows, distances = found
        return rows.tolist()[0][:k], [1 - each for each in distances.tolist()[0][:k]]

    def exact(self, queries: Vectors, k: int) -> Found:
        """As `search`, of any queries, by comparing with every item; among equals the lower row is first."""
        return exact_search(queries, self.vectors, k)

    def _in_graph(self, queries: Vectors, k: int) -> tuple[npt.NDArray[np.uint64], Vectors] | None:
        """At least `k` rows and their distances, the nearest first; None where the graph is no use."""
        width = graph_width(k, self._ef, self.count, self._exact)
        if width is None or self._graph is None:
            return None
        try:
            found: tuple[npt.NDArray[np.uint64], Vectors]
            found = self._graph.knn_query(queries, k=width, num_threads=1)
        except RuntimeError:  # it reached fewer items than were asked for
            return None
        return found

    def _load_graph(self, path: Path, space: str) -> hnswlib.Index:
        if space != "ip":
            raise BundleDamaged(f"{path}: space {space!r}, but this program searches in 'ip'")
        with on_huge_pages():
            graph = read_graph(path, space, self.dimension)
        if graph.get_current_count() != self.count:
            raise BundleDamaged(
                f"{path}: {graph.get_current_count()} items, but the manifest counts {self.count}"
            )
        # A graph can be whole, and yet be that of another bundle. The bits of its vectors are equal on every
        # processor (`protos/vectors.py`), but for the coordinate that fills up.
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
