"""Vectors to rows: the protocol of an index, how a bundle's index is opened, and exact search.

All scores are inner products. A bundle's manifest names its kind of index (`index.kind`). To add a kind,
such as a remote vector database, write a class with the methods of `VectorIndex`, and name it in `KINDS`.
"""

import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import Manifest, Score
from twinspire.protos.errors import BundleTooNew, PackageMissing
from twinspire.protos.search import BLOCK, exact_search, top_k
from twinspire.protos.vectors import vectors_of
from twinspire.serving.index.int8_scan import Int8Scan

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

# Kind -> module and class, imported only for a bundle of that kind. The class takes the folder of a verified
# bundle and its manifest. (`train/fingerprint.py` follows names of modules in strings.)
KINDS = {
    "exact": ("twinspire.serving.index.vector_index", "ExactIndex"),
    "hnsw": ("twinspire.serving.index.hnsw_index", "HnswIndex"),
    "milvus": ("twinspire.serving.index.milvus_index", "MilvusIndex"),
}
REMOTE_KINDS = frozenset({"milvus"})  # kinds that are searched by another server (`remote_search.py`)
NOT_FINITE = "a tower gave a vector that is not finite"
SCAN_SHARE = 4  # all items are compared in int8 if more than 1/4 of them are allowed
# Items of a subset with float32 vectors; int8 copies of fewer cost more time than they save.
MAX_FLOAT32_SUBSET = 4096
GATHER = 1024  # vectors of allowed items that are copied at once, so that they stay in the processor's cache


class Neighbours(NamedTuple):
    """The items found for B queries, best first.

    Args:
        rows: int64 (B, K).
        scores: inner products, float32 (B, K).
    """

    rows: Rows
    scores: Vectors


class Subset(Protocol):
    """Some items of an index, prepared to be searched exactly again and again."""

    def exact(self, vectors: Vectors, k: int) -> Neighbours:
        """The `k` nearest of them, fewer if there are fewer, to any vectors, float32 (B, D)."""


class VectorIndex(Protocol):
    """N item vectors of dimension D to search in; safe to call from several threads."""

    @property
    def count(self) -> int:
        """N, the number of items."""

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        """The `k` items nearest to each query of the query tower, float32 (B, D); fewer if there are fewer.

        The search may be approximate.
        """

    def search_one(self, vector: Vectors, k: int) -> tuple[list[int], list[float]]:
        """As `search`, of one query (1, D), as lists of rows and scores."""
        rows, scores = self.search(vector, k)
        return rows[0].tolist(), scores[0].tolist()

    def search_filtered(self, vectors: Vectors, k: int, passing: Any) -> "list[Neighbours] | None":
        """For each query the `min(k, R)` best of the R items that pass a filter, by an index that filters.

        Args:
            vectors: as of `search`.
            k: items wanted.
            passing: the filter, a `serving.filters.passing_rows.PassingRows`.

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

    def vectors(self, rows: Rows | Sequence[int] | slice) -> Vectors:
        """The vectors of items, float32 (R, D)."""

    def after_fork(self) -> None:
        """Prepare an index that was opened before a fork; called once in each forked process."""
        return

    def subset_bytes(self, count: int) -> int:
        """The bytes of memory that a subset of `count` items takes."""
        return 0

    def subset(self, rows: Rows) -> Subset:
        """Some items, ascending rows (R,); by default each search of them is one of the index."""
        return _RowSubset(self, rows)


class _RowSubset(Subset):
    """Items that an index searches by their rows."""

    def __init__(self, index: VectorIndex, rows: Rows) -> None:
        self._index, self._rows = index, rows

    def exact(self, vectors: Vectors, k: int) -> Neighbours:
        return self._index.exact(vectors, k, self._rows)


class ExactIndex(VectorIndex):
    """Compares each query with every item.

    Args:
        folder: of a bundle whose files have been verified.

    Raises:
        BundleDamaged: the vectors are not those that the manifest describes.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._count = manifest.count
        # Vectors have unit length. Where scores are not cosines, the last coordinate only pads to it.
        self._has_padding_dim = manifest.score.has_padding_dim
        self._vectors = vectors_of(folder, manifest)
        self._local = threading.local()
        self._scan: Int8Scan | None = None  # without the padding coordinate
        if manifest.filters:
            self._scan = Int8Scan(self._vectors[:, :-1] if self._has_padding_dim else self._vectors)

    @property
    def count(self) -> int:
        """N, the number of items."""
        return self._count

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        """As `exact`."""
        return self.exact(vectors, k)

    def exact(self, vectors: Vectors, k: int, rows: Rows | None = None) -> Neighbours:
        """The `min(k, N)` items of the largest inner products; equal scores: the lower row first."""
        if rows is None:
            return Neighbours(*exact_search(vectors, self._vectors, k))
        if len(rows) == 0:
            none = np.empty((len(vectors), 0))
            return Neighbours(none.astype(np.int64), none.astype(np.float32))
        k = min(k, len(rows))
        if self._scan is not None and len(rows) * SCAN_SHARE > self._count:
            searched = self._without_padding(vectors)
            if searched is not None:
                return Neighbours(*self._scan.search(searched, k, rows))
        return self._exact_among(vectors, k, rows)

    def _without_padding(self, vectors: Vectors) -> Vectors | None:
        """Queries as `_scan` takes them; None if they are items, whose padding coordinate is not 0."""
        if not self._has_padding_dim:
            return vectors
        return None if vectors[:, -1].any() else vectors[:, :-1]

    def _exact_among(self, vectors: Vectors, k: int, rows: Rows) -> Neighbours:
        """As `exact`, among ascending rows; a copy of all their vectors at once takes five times as long."""
        best, values = np.empty((len(vectors), k), np.int64), np.empty((len(vectors), k), np.float32)
        buffer = self._gather_buffer()
        for start in range(0, len(vectors), BLOCK):
            queries = vectors[start : start + BLOCK]
            scores = np.empty((len(queries), len(rows)), np.float32)
            for first in range(0, len(rows), GATHER):
                some = rows[first : first + GATHER]
                np.take(self._vectors, some, axis=0, out=buffer[: len(some)], mode="clip")
                scores[:, first : first + GATHER] = queries @ buffer[: len(some)].T
            places = top_k(scores, k)
            best[start : start + BLOCK] = rows[places]
            values[start : start + BLOCK] = np.take_along_axis(scores, places, axis=1)
        return Neighbours(best, values)

    def _gather_buffer(self) -> Vectors:
        """This thread's buffer (GATHER, D), kept because to allocate it takes longer than to fill it."""
        buffer: Vectors | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = np.empty((GATHER, self._vectors.shape[1]), np.float32)
        return buffer

    def vectors(self, rows: Rows | Sequence[int] | slice) -> Vectors:
        """The vectors of items, float32 (R, D)."""
        found: Vectors = self._vectors[rows]
        return found

    def subset_bytes(self, count: int) -> int:
        """As `VectorIndex.subset_bytes`."""
        dimension = int(self._vectors.shape[1])
        return count * (4 * dimension if count <= MAX_FLOAT32_SUBSET or self._scan is None else dimension + 4)

    def subset(self, rows: Rows) -> Subset:
        """Some items, ascending rows (R,), with copies of their vectors side by side."""
        if len(rows) <= MAX_FLOAT32_SUBSET or self._scan is None:
            return _CopiedSubset(self._vectors[rows], rows)
        return _ScannedSubset(self, self._scan.subset(rows), rows)


class _CopiedSubset(Subset):
    """Items whose vectors are copied: float32 (R, D)."""

    def __init__(self, vectors: Vectors, rows: Rows) -> None:
        self._vectors, self._rows = vectors, rows

    def exact(self, vectors: Vectors, k: int) -> Neighbours:
        places, products = exact_search(vectors, self._vectors, k)
        return Neighbours(self._rows[places], products)


class _ScannedSubset(Subset):
    """Items whose vectors are copied in int8."""

    def __init__(self, index: ExactIndex, scan: Int8Scan, rows: Rows) -> None:
        self._index, self._scan, self._rows = index, scan, rows

    def exact(self, vectors: Vectors, k: int) -> Neighbours:
        searched = self._index._without_padding(vectors)
        if searched is None:
            return self._index.exact(vectors, k, self._rows)
        return Neighbours(*self._scan.search(searched, min(k, len(self._rows)), None))


def open_index(folder: Path, manifest: Manifest) -> VectorIndex:
    """The index of a bundle.

    Args:
        folder: of a bundle whose files have been verified.

    Raises:
        BundleDamaged: vectors or index are not those that the manifest describes.
        BundleTooNew: this program has no such kind of index.
        PackageMissing: the kind needs a package that is not installed.
    """
    kind = manifest.index.kind
    if kind not in KINDS:
        raise BundleTooNew(f"{folder}: index of kind {kind!r}, expected one of {', '.join(sorted(KINDS))}")
    module, name = KINDS[kind]
    try:
        made = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise PackageMissing(f"an index of kind {kind} needs {error.name}: pip install .[{kind}]") from None
    index: VectorIndex = made(folder, manifest)
    return index


def shows_products(score: Score) -> bool:
    """Whether inner products are shown to clients without a change."""
    return score.kind != "sigmoid"


def shown_scores(products: Vectors, score: Score) -> Vectors:
    """Inner products of query and item vectors, of any shape, as the scores that a bundle shows."""
    if shows_products(score):
        return products
    # 1 / (1 + e^-x), in a form that does not overflow; in float64, because the bias may be large.
    logits = products.astype(np.float64) + score.bias
    return np.exp(-np.logaddexp(0, -logits)).astype(np.float32)
