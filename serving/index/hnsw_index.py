"""Search in the HNSW graph of a bundle, and exactly where the graph does not help."""

from pathlib import Path
from typing import Self

import numpy as np

from twinspire.protos.bundle import HNSWLIB, LINKS, Manifest
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.protos.nearest.links import Links, read_hnswlib, read_links
from twinspire.protos.nearest.search import graph_width
from twinspire.serving.filters.compiled import PassingRows
from twinspire.serving.index.vector_index import Neighbours, VectorIndex, Vectors, coded_vectors

SPACE = "ip"
# Where a share of the items passes a filter, a search follows the links of about ef / share items. One that
# follows PATIENCE times as many gives up: near the query fewer pass, and it would miss some of the best.
PATIENCE = 1.8


class HnswIndex(VectorIndex):
    """An HNSW graph over the item vectors (Malkov and Yashunin 2018); safe to call from several threads.

    Where scores are not cosines, the graph is that of the items without their padding coordinate. A query of
    the tower has a zero there; an item as a query must be searched with `exact`.

    Args:
        folder: of a bundle whose files have been verified.

    Raises:
        BundleDamaged: vectors or graph are not those that the manifest describes.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        (name,) = manifest.index_files()
        if manifest.index.space != SPACE:
            raise BundleDamaged(
                f"{folder / name}: space {manifest.index.space!r}, but this program searches in {SPACE!r}"
            )
        links = (
            read_links(folder / LINKS, manifest.count)
            if name == LINKS
            else read_hnswlib(folder / HNSWLIB, manifest.dimension)
        )
        if len(links) != manifest.count:
            raise BundleDamaged(
                f"{folder / name}: {len(links)} items, but the manifest counts {manifest.count}"
            )
        self._coded = coded_vectors(folder, manifest, links)
        self._ef = manifest.index.ef_search

    @classmethod
    def of(cls, vectors: Vectors, links: Links, ef_search: int, has_padding_dim: bool) -> Self:
        """An index over vectors that are not those of a bundle.

        Args:
            vectors: float32 (N, D).
            links: of the graph over them.
            ef_search: width of a search.
            has_padding_dim: as of `CodedVectors`.
        """
        index = cls.__new__(cls)
        index._coded, index._ef = CodedVectors(vectors, has_padding_dim, links), ef_search
        return index

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        """The `min(k, N)` items nearest to each query of the query tower, float32 (B, D)."""
        width = graph_width(k, self._ef, self.count)
        if width is not None:
            rows, scores, least = self._coded.search(vectors, k, width)
            if least < k:
                short = np.flatnonzero(rows[:, -1] < 0)
                rows[short], scores[short] = self.exact(vectors[short], k)
            return Neighbours(rows, scores)
        return self.exact(vectors, k)

    def search_filtered(self, vectors: Vectors, k: int, passing: PassingRows) -> Neighbours | None:
        """As `VectorIndex.search_filtered`; None where it takes no longer to compare all that pass."""
        width = graph_width(k, self._ef, self.count, passing.count)
        if width is None:
            return None
        most = int(PATIENCE * width * self.count / passing.count)
        return Neighbours(*self._coded.search(vectors, k, width, passing.mask, most)[:2])
