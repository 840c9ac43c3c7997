"""Dense and lexical scores of one query in one: a convex combination (Bruch et al. 2023, section 4).

    score = (1 - weight) * dense + weight * lexical        lexical = BM25 / its upper bound, 0 to 1

or, where no weight could be learned, of their ranks (Cormack et al. 2009):

    score = 1 / (60 + rank by dense) + 1 / (60 + rank by lexical)       ranks from 1; no lexical part at 0

The upper bound of a query is the sum of the idf of its terms, which no item can exceed. Candidates come from
both sides: the best of the dense search, and the best of the items that hold one of the query's rarer terms.
The postings of its other terms are only looked up for the candidates. So the work of a query is bounded, by
`Hybrid.most_terms` and `Hybrid.postings`, however many words it has.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from protos.bundle import Hybrid
from protos.hybrid.lexical_index import LexicalIndex, Postings

compiled: Any
try:
    from protos.hybrid import _fusion

    compiled = _fusion
except ImportError:  # no compiler was there when this package was installed
    compiled = None

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
RANKS = 60  # added to a rank, as Cormack et al. do
Ranked = tuple[list[int], list[float], list[float], list[float]]  # rows, scores, dense and lexical parts


class FusionQuery(NamedTuple):
    """A query, and what the dense search has found for it.

    Args:
        terms: numbers of the query's terms, repeated ones included.
        vector: of the query, float32 (D,).
        rows: of the items that the dense search has found, no row twice.
        scores: inner products of these.
        mask: which items the lexical side may find, bool (N,); all by default.
    """

    terms: list[int]
    vector: Floats
    rows: list[int]
    scores: list[float]
    mask: Mask | None = None


class Fusion:
    """Ranks the items of one bundle by both scores; safe to call from several threads.

    Args:
        index: of N items.
        hybrid: the weight and the bounds.
        vectors: float32 (N, D), of the same items.
    """

    def __init__(self, index: LexicalIndex, hybrid: Hybrid, vectors: Floats) -> None:
        self.index, self.hybrid = index, hybrid
        self._vectors = np.ascontiguousarray(vectors, np.float32)
        self._sums = np.zeros(index.postings.count, np.float32)  # of the query at work; 0 between two
        self._lock = threading.Lock()  # on the sums; the compiled search keeps the interpreter's own lock
        if compiled is None:
            log.info("the fused search is not compiled here, so it takes eight times as long: make setup")

    def rank(self, query: FusionQuery, k: int, weight: float | None = None) -> Ranked:
        """The `k` best of the candidates of both sides; fewer if there are fewer.

        Args:
            query: with the candidates of the dense side.
            k: items wanted.
            weight: of the lexical score in a convex combination; as the bundle ranks by default.

        Returns:
            Rows, fused scores, inner products and lexical scores, best first; of equal ones the lower row.
        """
        if weight is None and self.hybrid.method == "reciprocal_ranks":
            return by_reciprocal_ranks(self.candidates(query, k), k)
        share = self.hybrid.weight if weight is None else weight
        return self._fuse(query, share, max(self.hybrid.lexical, k), k)

    def candidates(self, query: FusionQuery, k: int) -> Ranked:
        """All candidates of both sides, in any order; arguments as of `rank`."""
        most = max(self.hybrid.lexical, k)
        return self._fuse(query, 0.0, most, len(query.rows) + most)

    def _fuse(self, query: FusionQuery, weight: float, most: int, k: int) -> Ranked:
        """The `k` best, with at most `most` candidates of the lexical side."""
        hybrid, found = self.hybrid, self.index.postings
        if compiled is None:
            with self._lock:
                return fuse_numpy(found, self._sums, self._vectors, hybrid, query, weight, most, k)
        best: Ranked = compiled.fuse(
            found.starts, found.documents, found.weights, found.idf, self._sums, self._vectors,
            query.vector, query.mask, query.terms, query.rows, query.scores,
            weight, hybrid.most_terms, hybrid.postings, most, k,
        )  # fmt: skip
        return best


def by_reciprocal_ranks(candidates: Ranked, k: int) -> Ranked:
    """The `k` best of candidates by their ranks on both sides; of items with equal scores the lower row."""
    rows, dense, lexical = (np.array(candidates[n]) for n in (0, 2, 3))
    scores = 1 / (RANKS + _ranks(dense, rows)) + np.where(lexical > 0, 1 / (RANKS + _ranks(lexical, rows)), 0)
    order = np.lexsort((rows, -scores))[:k]
    return rows[order].tolist(), scores[order].tolist(), dense[order].tolist(), lexical[order].tolist()


def _ranks(scores: npt.NDArray[Any], rows: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The rank of each item, from 1."""
    ranks = np.empty(len(scores), np.int64)
    ranks[np.lexsort((rows, -scores))] = np.arange(1, len(scores) + 1)
    return ranks


def fuse_numpy(
    postings: Postings,
    sums: Floats,
    vectors: Floats,
    hybrid: Hybrid,
    query: FusionQuery,
    weight: float,
    most: int,
    k: int,
) -> Ranked:
    """What the compiled `fuse` does, in NumPy.

    Args:
        postings: of the N items.
        sums: float32 (N,), zeros, and zeros again afterwards.
        vectors: of the items, float32 (N, D).
        hybrid: the bounds.
        query: with the candidates of the dense side.
        weight: of the lexical score.
        most: candidates of the lexical side.
        k: items wanted.

    Raises:
        IndexError: a row of the query is not one of the N.
    """
    terms, vector, rows, scores, mask = query
    dense_rows = np.array(rows, np.int64)
    if len(dense_rows) and not 0 <= dense_rows.min() <= dense_rows.max() < len(sums):
        raise IndexError("a row is not in the catalogue")
    bag = rarest(postings, terms, hybrid.most_terms)
    bound = np.float32(sum(times * float(postings.idf[term]) for term, times in bag))
    left, rare, touched = hybrid.postings, 0, [np.empty(0, np.int64)]
    for term, times in bag:
        documents, weights = _of(postings, term)
        left -= len(documents)
        if left < 0:
            break
        rare += 1
        if mask is not None:
            kept = mask[documents]
            documents, weights = documents[kept], weights[kept]
        sums[documents] += times * weights
        touched.append(documents)
    found = np.unique(np.concatenate(touched))
    best = found[np.lexsort((found, -sums[found]))[: min(most, hybrid.postings)]]
    extra = np.setdiff1d(best, dense_rows)
    candidates = np.concatenate([dense_rows, extra])
    dense = np.concatenate([np.array(scores, np.float32), vectors[extra] @ vector.reshape(-1)])
    lexical = sums[candidates]
    sums[found] = 0
    for term, times in bag[rare:]:
        lexical += times * _weights_of(postings, term, candidates)
    if bound > 0:
        lexical /= bound
    fused = (1 - np.float32(weight)) * dense + np.float32(weight) * lexical
    order = np.lexsort((candidates, -fused))[:k]
    return candidates[order].tolist(), fused[order].tolist(), dense[order].tolist(), lexical[order].tolist()


def rarest(postings: Postings, terms: Sequence[int], most: int) -> list[tuple[int, int]]:
    """The rarest distinct terms, and how often the query holds each."""
    distinct, times = np.unique(np.array(terms, np.int64), return_counts=True)
    counts = postings.starts[distinct + 1] - postings.starts[distinct]
    order = np.lexsort((distinct, counts))[:most]
    return list(zip(distinct[order].tolist(), times[order].tolist(), strict=True))


def _of(postings: Postings, term: int) -> tuple[Any, Floats]:
    part = slice(postings.starts[term], postings.starts[term + 1])
    return postings.documents[part], postings.weights[part]


def _weights_of(postings: Postings, term: int, rows: npt.NDArray[np.int64]) -> Floats:
    """The weight of a term in each of some items, 0 where they do not hold it."""
    documents, weights = _of(postings, term)
    if not len(documents):
        return np.zeros(len(rows), np.float32)
    places = np.minimum(documents.searchsorted(rows), len(documents) - 1)
    return np.where(documents[places] == rows, weights[places], np.float32(0))
