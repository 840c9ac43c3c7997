"""Rankings by vectors, searched exactly, and terms together (`protos/hybrid/`)."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from twinspire.export import ann
from twinspire.protos.hybrid.fusion import BM25_ALONE, Fusion, FusionQuery, shares
from twinspire.protos.hybrid.lexical_index import LexicalIndex, Postings

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Candidates = tuple[list[int], list[float]]  # of the dense search: rows and inner products
Weight = TypeVar("Weight", bound=float | None)


class HybridRanking:
    """Ranks the items for queries with a text.

    Args:
        items: the item vectors, float32 (N, D).
        fusion: of the same items.
    """

    def __init__(self, items: Vectors, fusion: Fusion) -> None:
        self.fusion = fusion
        self._items = items

    def over(self, items: Vectors, postings: Postings) -> "HybridRanking":
        """The same by other vectors of the same items, and other postings."""
        return HybridRanking(items, Fusion(LexicalIndex(postings, self.fusion.hybrid), items))

    def candidates(self, queries: Vectors, k: int) -> list[Candidates]:
        """The nearest items of each query (Q, D), as many as the service's dense search looks for."""
        found = ann.exact(queries, self._items, max(k, self.fusion.hybrid.dense_candidates))
        return [
            (rows.tolist(), (self._items[rows] @ query).tolist())
            for query, rows in zip(queries, found, strict=True)
        ]

    def rank(
        self,
        queries: Vectors,
        texts: Sequence[str],
        k: int,
        weight: float | None = None,
        candidates: Sequence[Candidates] | None = None,
    ) -> Rows:
        """The `k` best items of each query: (Q, min(k, N)) rows, best first, -1 where there are no more.

        Queries without known terms are ranked by their vectors alone.

        Args:
            queries: vectors (Q, D).
            texts: of the same queries, as far as the tower reads them.
            weight: of the lexical score; `BM25_ALONE` keeps only items with a word of the query; as the
                bundle ranks by default.
            candidates: as `candidates` gives them for this `k` or a higher one, if known.
        """
        return self.rank_each(queries, texts, k, (weight,), candidates)[weight]

    def rank_each(
        self,
        queries: Vectors,
        texts: Sequence[str],
        k: int,
        weights: Sequence[Weight],
        candidates: Sequence[Candidates] | None = None,
    ) -> dict[Weight, Rows]:
        """As `rank`, by each of several weights; the scores of the candidates are computed once for all."""
        hybrid, count = self.fusion.hybrid, len(self._items)
        ranked = {weight: np.full((len(queries), min(k, count)), -1, np.int64) for weight in weights}
        found = self.candidates(queries, k) if candidates is None else candidates
        dense_most, most = max(k, hybrid.dense_candidates), max(k, hybrid.lexical_candidates)
        terms = [*map(self.fusion.index.terms, texts)]
        for n, (query, own, (rows, scores)) in enumerate(zip(queries, terms, found, strict=True)):
            if own:
                asked = FusionQuery(own, query, rows[:dense_most], scores[:dense_most])
                every, _, *parts = self.fusion.rank(asked, count, weights[0], most)
                items, (dense, lexical, prior) = np.array(every, np.int64), np.array(parts, np.float32)
                for weight, each in ranked.items():
                    own_weight, prior_weight = np.array(shares(hybrid, weight), np.float32)
                    fused = (1 - own_weight) * dense + own_weight * lexical + prior_weight * prior
                    best = np.lexsort((items, -fused))[:k]
                    best = best[lexical[best] > 0] if weight == BM25_ALONE else best
                    each[n, : len(best)] = items[best]
        plain = np.array([n for n, own in enumerate(terms) if not own], np.int64)
        nearest = ann.exact(queries[plain], self._items, k)
        for weight in {*weights} - {BM25_ALONE}:
            ranked[weight][plain] = nearest
        return ranked
