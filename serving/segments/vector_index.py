"""Vectors to rows: comparing all items, or searching a graph over them; and how a bundle's index is opened.

All scores are inner products. A search among the items that pass a filter counts them first. Where they are
few, all of them are compared with the query, which is exact. Where they are many, the graph is searched, and
only those that pass are kept. If it reaches too few of them, all that pass are compared. So an answer never
lacks an item that exists.

A bundle's manifest names its kind of index (`index.kind`). To add a kind, write a function that opens one,
and name it in `KINDS`; for one on another server see `remote.py`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import HNSWLIB, LINKS, VECTORS, Manifest, Score
from twinspire.protos.errors import BundleDamaged, BundleTooNew
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.protos.nearest.links import Links, read_hnswlib, read_links
from twinspire.protos.nearest.search import graph_width
from twinspire.protos.nearest.vectors import vectors_of
from twinspire.serving.filters.compiled import PassingRows
from twinspire.serving.filters.plan import Plan

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

SPACE = "ip"
# Where a share of the items passes a filter, a search follows the links of about ef / share items. One that
# follows PATIENCE times as many gives up: near the query fewer pass, and it would miss some of the best.
PATIENCE = 1.8
NOT_FINITE = "a tower gave a vector that is not finite"


class Neighbours(NamedTuple):
    """The items found for B queries, best first.

    Args:
        rows: int64 (B, K).
        scores: inner products, float32 (B, K).
    """

    rows: Rows
    scores: Vectors


FoundPassing = tuple[Neighbours, list[Plan]]  # and the plan that found those of each query


def none_of(queries: int) -> Neighbours:
    """No hit for each of some queries."""
    return Neighbours(np.empty((queries, 0), np.int64), np.empty((queries, 0), np.float32))


class VectorIndex:
    """N item vectors of dimension D to search in; safe to call from several threads.

    Args:
        coded: the vectors, with the links of an HNSW graph over them (Malkov and Yashunin 2018) if there is
            one. Where scores are not cosines, the graph is that of the items without their padding
            coordinate. A query of the tower has a zero there; an item as a query must be searched with
            `exact`.
        ef_search: width of a search in the graph; None if there is no graph, so all items are compared.
    """

    def __init__(self, coded: CodedVectors, ef_search: int | None = None) -> None:
        self._coded, self.ef_search = coded, ef_search

    @property
    def count(self) -> int:
        """N, the number of items."""
        return len(self._coded.vectors)

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        """The `min(k, N)` items nearest to each query of the query tower, float32 (B, D)."""
        width = None if self.ef_search is None else graph_width(k, self.ef_search, self.count)
        if width is None:
            return self.exact(vectors, k)
        rows, scores, least = self._coded.search(vectors, k, width)
        if least < k:
            short = np.flatnonzero(rows[:, -1] < 0)
            rows[short], scores[short] = self.exact(vectors[short], k)
        return Neighbours(rows, scores)

    def search_passing(
        self, vectors: Vectors, k: int, passing: PassingRows, approximate: bool = True
    ) -> FoundPassing:
        """The `min(k, R)` best of the R items that pass a filter, for each query.

        The result of a query does not depend on the other queries of the batch, except for rounding.

        Args:
            vectors: of the queries, float32 (B, D).
            k: items wanted, at least 1.
            passing: the filter.
            approximate: whether the graph may be searched; otherwise all items that pass are compared.
        """
        k = min(k, passing.count)
        if k == 0:
            return none_of(len(vectors)), [Plan.EMPTY] * len(vectors)
        found = None
        if approximate:
            all_pass = passing.count == self.count
            found = self.search(vectors, k) if all_pass else self.search_filtered(vectors, k, passing)
        if found is None:
            return self.exact(vectors, k, passing.rows), [Plan.EXACT] * len(vectors)
        plans = [Plan.GRAPH] * len(vectors)
        short = np.flatnonzero(found.rows[:, -1] < 0)
        if len(short):
            found.rows[short], found.scores[short] = self.exact(vectors[short], k, passing.rows)
            for n in short.tolist():
                plans[n] = Plan.GRAPH_THEN_EXACT
        return found, plans

    def search_filtered(self, vectors: Vectors, k: int, passing: PassingRows) -> Neighbours | None:
        """For each query the `min(k, R)` best of the R items that pass a filter, as the graph finds them.

        A query that finds fewer has rows of -1 at its end.

        Args:
            vectors: as of `search`.
            k: items wanted.
            passing: the filter.

        Returns:
            None where it takes no longer to compare all that pass.
        """
        count, passed = self.count, passing.count
        width = None if self.ef_search is None else graph_width(k, self.ef_search, count, passed)
        if width is None:
            return None
        most = int(PATIENCE * width * count / passed)
        return Neighbours(*self._coded.search(vectors, k, width, passing.mask, most)[:2])

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


def exact_index(folder: Path, manifest: Manifest) -> VectorIndex:
    """The vectors of a bundle without a graph; arguments and errors as of `open_index`."""
    return VectorIndex(_coded(folder, manifest))


def _graph_index(folder: Path, manifest: Manifest) -> VectorIndex:
    """The vectors of a bundle and its graph; arguments and errors as of `open_index`."""
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
        raise BundleDamaged(f"{folder / name}: {len(links)} items, but the manifest counts {manifest.count}")
    return VectorIndex(_coded(folder, manifest, links), manifest.index.ef_search)


def _coded(folder: Path, manifest: Manifest, links: Links | None = None) -> CodedVectors:
    """The item vectors of a bundle with their codes, and a graph over them."""
    try:
        return CodedVectors(vectors_of(folder, manifest), manifest.score.has_padding_dim, links)
    except ValueError as error:
        raise BundleDamaged(f"{folder / VECTORS}: {error}") from None


KINDS: dict[str, Callable[[Path, Manifest], VectorIndex]] = {"exact": exact_index, "hnsw": _graph_index}


def open_index(folder: Path, manifest: Manifest) -> VectorIndex:
    """The index of a bundle.

    Args:
        folder: of a bundle whose files have been verified.

    Raises:
        BundleDamaged: vectors or graph are not those that the manifest describes, or are not finite.
        BundleTooNew: this program has no such kind of index.
    """
    kind = manifest.index.kind
    if kind not in KINDS:
        raise BundleTooNew(f"{folder}: index of kind {kind!r}, expected one of {', '.join(sorted(KINDS))}")
    return KINDS[kind](folder, manifest)


def shown_scores(products: Vectors, score: Score) -> Vectors:
    """Inner products of query and item vectors, of any shape, as the scores that a bundle shows."""
    if score.kind != "sigmoid":
        return products
    # 1 / (1 + e^-x), in a form that does not overflow; in float64, because the bias may be large.
    logits = products.astype(np.float64) + score.bias
    return np.exp(-np.logaddexp(0, -logits)).astype(np.float32)
