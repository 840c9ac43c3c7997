"""Rankings by vectors, searched exactly, and terms together (`protos/hybrid/`)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from twinspire.export import ann
from twinspire.protos.hybrid.fusion import BM25_ALONE, Fusion, FusionQuery, with_words
from twinspire.protos.hybrid.lexical_index import LexicalIndex, Postings

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Candidates = tuple[list[int], list[float]]  # of the dense search: rows and inner products


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
        ranked = np.full((len(queries), min(k, len(self._items))), -1, np.int64)
        found = self.candidates(queries, k) if candidates is None else candidates
        most = max(k, self.fusion.hybrid.dense_candidates)
        terms = [*map(self.fusion.index.terms, texts)]
        for n, (query, own, (rows, scores)) in enumerate(zip(queries, terms, found, strict=True)):
            if own:
                best = self.fusion.rank(FusionQuery(own, query, rows[:most], scores[:most]), k, weight)
                (found_rows, *_) = with_words(best) if weight == BM25_ALONE else best
                ranked[n, : len(found_rows)] = found_rows
        if weight != BM25_ALONE:
            plain = np.array([n for n, own in enumerate(terms) if not own], np.int64)
            ranked[plain] = ann.exact(queries[plain], self._items, k)
        return ranked
