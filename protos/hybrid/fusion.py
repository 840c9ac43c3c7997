"""Dense and lexical scores of one query in one: a convex combination (Bruch et al. 2023, section 4).

    score = (1 - weight) * dense + weight * lexical + prior_weight * prior

`lexical` is BM25 or TF-IDF / its upper bound, 0 to 1. `prior`, 0 to 1 too, is about the share of the clicks
after the same query that went to the item; a query that was not in training has none.

No item exceeds the upper bound of a query (`term_weights.py`). Candidates come from both sides: the best of
the dense search, and the best of the items that hold one of the query's rarer terms. The postings of its
other terms are only looked up for the candidates. So the work of a query is bounded, by `Hybrid.most_terms`
and `Hybrid.most_postings`, however many words it has. Items with a prior are candidates, too.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import Hybrid
from twinspire.protos.hybrid.lexical_index import LexicalIndex, Postings
from twinspire.protos.hybrid.term_weights import query_factors, upper_bound

compiled: Any
try:
    from twinspire.protos.hybrid import _fusion

    compiled = _fusion
except ImportError:  # it was not compiled when this package was installed
    compiled = None

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Held = tuple[float, Any, Floats]  # of a term: its factor in the query, the items that hold it, its weights
NOTHING: tuple[Any, Floats] = (np.empty(0, np.int32), np.empty(0, np.float32))  # no rows, no weights
BM25_ALONE = 1.0  # the weight of the lexical score with which BM25 ranks alone
# Rows, scores, dense and lexical parts, and priors.
Ranked = tuple[list[int], list[float], list[float], list[float], list[float]]

NO_HITS: Ranked = ([], [], [], [], [])


class FusionQuery(NamedTuple):
    """A query, and the result of its dense search.

    Args:
        terms: numbers of the query's terms, repeated ones included, and that of the whole query.
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
        index: of N items, with the weight and the bounds.
        vectors: float32 (N, D), of the same items.
    """

    def __init__(self, index: LexicalIndex, vectors: Floats) -> None:
        self.index, self.hybrid = index, index.hybrid
        self._vectors = np.ascontiguousarray(vectors, np.float32)
        self._sums = np.zeros(index.postings.count, np.float32)  # lexical sums of a query; 0 between queries
        self._lock = threading.Lock()  # on the sums; the compiled search holds the interpreter's lock instead
        if compiled is None:
            log.info("the fused search is not compiled, so it takes eight times as long; see `make setup`")

    def rank(
        self, query: FusionQuery, k: int, weight: float | None = None, most: int | None = None
    ) -> Ranked:
        """The `k` best of the candidates of both sides; fewer if there are fewer.

        Args:
            weight: of the lexical score, without priors; if not given, the bundle's own weights are taken.
            most: candidates of the lexical side; as many as for `k` items if not given.

        Returns:
            Rows, fused scores, inner products, lexical scores and priors, best first; of equal ones the
            lower row.
        """
        hybrid, found = self.hybrid, self.index.postings
        own, prior_weight = shares(hybrid, weight)
        most = max(hybrid.lexical_candidates, k) if most is None else most
        if compiled is None:
            with self._lock:
                return fuse_numpy(found, self._sums, self._vectors, hybrid, query, own, prior_weight, most, k)
        best: Ranked = compiled.fuse(
            found.starts, found.documents, found.weights, found.idf, self._sums, self._vectors,
            query.vector, query.mask, query.terms, query.rows, query.scores,
            own, prior_weight, hybrid.most_terms, hybrid.most_postings, most, k, hybrid.scoring == "tfidf",
        )  # fmt: skip
        return best


def fuse_numpy(
    postings: Postings,
    sums: Floats,
    vectors: Floats,
    hybrid: Hybrid,
    query: FusionQuery,
    weight: float,
    prior_weight: float,
    most: int,
    k: int,
) -> Ranked:
    """The compiled `fuse` in NumPy; the arguments that `fuse_held` has too, and the errors, are its own."""
    bag, bound = rarest(postings, query.terms, hybrid)
    held = [(factor, *_postings_of(postings, term)) for term, factor in bag]
    known = clicked(postings, query.terms) if prior_weight else NOTHING
    return fuse_held(held, known, bound, sums, vectors, hybrid, query, weight, prior_weight, most, k)


def fuse_held(
    held: Sequence[Held],
    known: tuple[Any, Floats],
    bound: np.float32,
    sums: Floats,
    vectors: Floats,
    hybrid: Hybrid,
    query: FusionQuery,
    weight: float,
    prior_weight: float,
    most: int,
    k: int,
) -> Ranked:
    """The fused search over the items of some terms.

    Args:
        held: of each term of the query, the rarest first: its factor, the rows of the items that hold it,
            ascending, and its weight in each.
        known: rows of the items that have a prior, ascending, and the prior of each.
        bound: on the lexical score.
        sums: float32 (N,), zeros, and zeros again afterwards.
        vectors: of the items, float32 (N, D).
        hybrid: the bounds.
        query: with the candidates of the dense side.
        weight, prior_weight: of the lexical score and of the prior.
        most: candidates of the lexical side.
        k: items wanted.

    Raises:
        IndexError: a row of the query is not one of the N.
    """
    mask, dense_rows = query.mask, np.array(query.rows, np.int64)
    if len(dense_rows) and not 0 <= dense_rows.min() <= dense_rows.max() < len(sums):
        raise IndexError(
            f"rows {dense_rows.min()} to {dense_rows.max()}: the catalogue has {len(sums)} items"
        )
    left, rare, touched = hybrid.most_postings, 0, [np.empty(0, np.int64)]
    for factor, rows, weights in held:
        left -= len(rows)
        if left < 0:
            break
        rare += 1
        if mask is not None:
            kept = mask[rows]
            rows, weights = rows[kept], weights[kept]
        sums[rows] += factor * weights
        touched.append(rows)
    found = np.unique(np.concatenate(touched))
    best = found[np.lexsort((found, -sums[found]))[: min(most, hybrid.most_postings)]]
    seen = known[0] if mask is None else known[0][mask[known[0]]]
    extra = np.setdiff1d(np.union1d(best, seen), dense_rows)
    candidates = np.concatenate([dense_rows, extra])
    dense = np.concatenate([np.array(query.scores, np.float32), vectors[extra] @ query.vector.reshape(-1)])
    lexical = sums[candidates]
    sums[found] = 0
    for factor, rows, weights in held[rare:]:
        lexical += factor * _weights_of(rows, weights, candidates)
    if bound > 0:
        lexical /= bound
    prior = _weights_of(*known, candidates)
    fused = (1 - np.float32(weight)) * dense + np.float32(weight) * lexical + np.float32(prior_weight) * prior
    return _listed(np.lexsort((candidates, -fused))[:k], candidates, fused, dense, lexical, prior)


def _listed(order: Any, *columns: npt.NDArray[Any]) -> Ranked:
    rows, scores, dense, lexical, prior = (column[order].tolist() for column in columns)
    return rows, scores, dense, lexical, prior


def shares(hybrid: Hybrid, weight: float | None) -> tuple[float, float]:
    """Those of the lexical score and of the prior; a given `weight` has no prior beside it."""
    return (hybrid.weight, hybrid.prior_weight) if weight is None else (weight, 0.0)


def with_words(ranked: Ranked) -> Ranked:
    """A ranking by BM25 alone without the items that hold no word of the query, which are at its end."""
    count = sum(score > 0 for score in ranked[3])
    rows, *parts = ranked
    return rows[:count], *(part[:count] for part in parts)  # type: ignore[return-value]


def rarest(
    postings: Postings, terms: Sequence[int], hybrid: Hybrid
) -> tuple[list[tuple[int, float]], np.float32]:
    """The rarest distinct words of a query with their factors, and the upper bound of its lexical score."""
    distinct, times = np.unique(np.array(terms, np.int64), return_counts=True)
    is_word = postings.idf[distinct] > 0
    distinct, times = distinct[is_word], times[is_word]
    counts = postings.starts[distinct + 1] - postings.starts[distinct]
    order = np.lexsort((distinct, counts))[: hybrid.most_terms]
    factors = np.asarray(query_factors(hybrid.scoring, times[order]), np.float32)
    bound = upper_bound(hybrid.scoring, factors, postings.idf[distinct[order]])
    return list(zip(distinct[order].tolist(), factors.tolist(), strict=True)), bound


def clicked(postings: Postings, terms: Sequence[int]) -> tuple[Any, Floats]:
    """Rows of the items that have a prior after the whole query, ascending, and the prior of each."""
    whole = [term for term in terms if not postings.idf[term]]
    return _postings_of(postings, whole[0]) if whole else NOTHING


def _postings_of(postings: Postings, term: int) -> tuple[Any, Floats]:
    """Rows of the items that hold a term, ascending, and its weight in each."""
    part = slice(postings.starts[term], postings.starts[term + 1])
    return postings.documents[part], postings.weights[part]


def _weights_of(rows: Any, weights: Floats, wanted: npt.NDArray[np.int64]) -> Floats:
    """What a term adds to the score of each of some items, 0 where they do not hold it."""
    if not len(rows):
        return np.zeros(len(wanted), np.float32)
    places = np.minimum(rows.searchsorted(wanted), len(rows) - 1)
    return np.where(rows[places] == wanted, weights[places], np.float32(0))
