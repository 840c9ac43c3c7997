"""Vectors to rows: the index that compares all items, and how a bundle's index is opened.

All scores are inner products. A bundle's manifest names its kind of index (`index.kind`). To add a kind,
write a subclass of `VectorIndex`, and name it in `KINDS`; for one on another server see `remote.py`.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import VECTORS, Manifest, Score
from twinspire.protos.errors import BundleDamaged, BundleTooNew
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.protos.nearest.links import Links
from twinspire.protos.nearest.vectors import vectors_of
from twinspire.serving.filters.compiled import PassingRows

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

# Kind -> module and class, imported only for a bundle of that kind. The class takes the folder of a verified
# bundle and its manifest. (`train/fingerprint.py` follows names of modules in strings.)
KINDS = {
    "exact": ("twinspire.serving.index.vector_index", "VectorIndex"),
    "hnsw": ("twinspire.serving.index.hnsw_index", "HnswIndex"),
}
NOT_FINITE = "a tower gave a vector that is not finite"


class Neighbours(NamedTuple):
    """The items found for B queries, best first.

    Args:
        rows: int64 (B, K).
        scores: inner products, float32 (B, K).
    """

    rows: Rows
    scores: Vectors


class VectorIndex:
    """N item vectors of dimension D to search in, by comparing each; safe to call from several threads.

    A subclass may search approximately.

    Args:
        folder: of a bundle whose files have been verified.

    Raises:
        BundleDamaged: the vectors are not those that the manifest describes.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._coded = coded_vectors(folder, manifest)

    @property
    def count(self) -> int:
        """N, the number of items."""
        return len(self._coded.vectors)

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        """The `min(k, N)` items nearest to each query of the query tower, float32 (B, D)."""
        return self.exact(vectors, k)

    def search_filtered(self, vectors: Vectors, k: int, passing: PassingRows) -> Neighbours | None:
        """For each query the `min(k, R)` best of the R items that pass a filter, by an index that filters.

        A query that finds fewer has rows of -1 at its end.

        Args:
            vectors: as of `search`.
            k: items wanted.
            passing: the filter.

        Returns:
            None if the index cannot evaluate this filter; by default it can evaluate none.
        """
        return None

    def exact(self, vectors: Vectors, k: int, rows: Rows | None = None) -> Neighbours:
        """As `search`, of any vectors, items included, never approximate; equal scores: lower row first.

        Args:
            vectors: float32 (B, D).
            k: items wanted.
            rows: of the items to compare, ascending and different (R,); all if not given.
        """
        return Neighbours(*self._coded.exact(vectors, k, rows))

    def vectors(self, rows: Rows | Sequence[int] | slice) -> Vectors:
        """The vectors of items, float32 (R, D)."""
        found: Vectors = self._coded.vectors[rows]
        return found


def coded_vectors(folder: Path, manifest: Manifest, links: Links | None = None) -> CodedVectors:
    """The item vectors of a bundle with their codes, and a graph over them.

    Raises:
        BundleDamaged: the vectors are not those that the manifest describes, or are not finite.
    """
    try:
        return CodedVectors(vectors_of(folder, manifest), manifest.score.has_padding_dim, links)
    except ValueError as error:
        raise BundleDamaged(f"{folder / VECTORS}: {error}") from None


def open_index(folder: Path, manifest: Manifest) -> VectorIndex:
    """The index of a bundle.

    Args:
        folder: of a bundle whose files have been verified.

    Raises:
        BundleDamaged: vectors or index are not those that the manifest describes.
        BundleTooNew: this program has no such kind of index.
    """
    kind = manifest.index.kind
    if kind not in KINDS:
        raise BundleTooNew(f"{folder}: index of kind {kind!r}, expected one of {', '.join(sorted(KINDS))}")
    module, name = KINDS[kind]
    index: VectorIndex = getattr(import_module(module), name)(folder, manifest)
    return index


def shown_scores(products: Vectors, score: Score) -> Vectors:
    """Inner products of query and item vectors, of any shape, as the scores that a bundle shows."""
    if score.kind != "sigmoid":
        return products
    # 1 / (1 + e^-x), in a form that does not overflow; in float64, because the bias may be large.
    logits = products.astype(np.float64) + score.bias
    return np.exp(-np.logaddexp(0, -logits)).astype(np.float32)
