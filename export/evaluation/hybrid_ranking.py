"""Rankings by vectors and BM25 together, as the service makes them (`protos/hybrid/`)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from export import ann
from protos.hybrid.fusion import BM25_ALONE, Fusion, FusionQuery, with_words

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


class HybridRanking:
    """Ranks the items for queries with a text.

    Args:
        index: over the item vectors, as served.
        items: these vectors, float32 (N, D).
        fusion: of the same items.
    """

    def __init__(self, index: ann.SearchIndex, items: Vectors, fusion: Fusion) -> None:
        self.fusion = fusion
        self._index, self._items = index, items

    def over(self, index: ann.SearchIndex, items: Vectors) -> "HybridRanking":
        """The same by other vectors of the same items, and an index over these."""
        return HybridRanking(index, items, Fusion(self.fusion.index, items))

    def candidates(self, queries: Vectors, k: int) -> list[tuple[list[int], list[float]]]:
        """What the dense search of the service finds for each query (Q, D): rows and inner products."""
        width = max(k, self.fusion.hybrid.dense_candidates)
        found = self._index.search(queries, width, [np.empty(0, np.int64)] * len(queries))
        best = []
        for query, rows in zip(queries, found, strict=True):
            kept = rows[rows >= 0]
            best.append((kept.tolist(), (self._items[kept] @ query).tolist()))
        return best

    def rank(
        self,
        queries: Vectors,
        texts: Sequence[str],
        k: int,
        weight: float | None = None,
        candidates: Sequence[tuple[list[int], list[float]]] | None = None,
    ) -> Rows:
        """The `k` best items of each query: (Q, min(k, N)) rows, best first, -1 where there are no more.

        Args:
            queries: vectors (Q, D).
            texts: of the same queries, as far as the tower reads them.
            weight: of the lexical score; `BM25_ALONE` keeps only items with a word of the query; as the
                bundle ranks by default.
            candidates: as `candidates` gives them for this `k`, if known.
        """
        ranked = np.full((len(queries), min(k, len(self._items))), -1, np.int64)
        found = self.candidates(queries, k) if candidates is None else candidates
        for n, (query, text, (rows, scores)) in enumerate(zip(queries, texts, found, strict=True)):
            asked = FusionQuery(self.fusion.index.terms(text), query, rows, scores)
            best = self.fusion.rank(asked, k, weight)
            (found_rows, *_) = with_words(best) if weight == BM25_ALONE else best
            ranked[n, : len(found_rows)] = found_rows
        return ranked
