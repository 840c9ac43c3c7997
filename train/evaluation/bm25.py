"""BM25 over tokens, whose k1 and b can be changed without a new index.

    model = Bm25(analyzer.analyze(items))
    model.tune(queries, quality)            # quality of a ranking, such as its recall
    rows = model.rank(queries, k=10)

The index is that of `bm25s`, with the weights of Lucene: idf * tf / (tf + k1 * (1 - b + b * length / mean))
(Robertson and Zaragoza 2009, equation 3.15, without a constant factor). `bm25s` searches one query at a time
and visits all documents; here a block of queries is a product of sparse matrices, which is several times as
fast.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import scipy.sparse

Rows = npt.NDArray[np.int64]

K1 = (0.6, 0.9, 1.2, 1.6, 2.4)
B = (0.0, 0.25, 0.5, 0.75, 0.9)
DEFAULT_K1, DEFAULT_B = 1.2, 0.75  # those of Lucene
_BLOCK = 256  # queries at a time


class Bm25:
    """An index over the tokens of documents.

    Args:
        documents: the tokens of each.
        k1: how much a repeated token counts, above 0.
        b: how much the length of a document counts, 0 to 1.

    Attributes:
        mean_length: tokens of a document in the mean.
    """

    def __init__(
        self, documents: Iterable[Sequence[str]], k1: float = DEFAULT_K1, b: float = DEFAULT_B
    ) -> None:
        rows: dict[str, int] = {}
        ids = [[rows.setdefault(token, len(rows)) for token in each] for each in documents]
        self._row_of = rows
        self._count = len(ids)
        lengths = np.fromiter(map(len, ids), np.float64, len(ids))
        self.mean_length = float(lengths.mean()) if ids else 0.0
        self._relative_length = lengths / (self.mean_length or 1)
        # With k1 = 1 and b = 0 a weight is idf * tf / (tf + 1), from which the term frequency follows.
        found: dict[str, Any] = {"data": np.empty(0), "indices": np.empty(0, int), "indptr": np.zeros(1, int)}
        if rows:
            index = bm25s.BM25(k1=1.0, b=0.0, dtype="float64")
            index.index((ids, rows), create_empty_token=False, show_progress=False)
            found = index.scores
        self._documents, self._starts = found["indices"], found["indptr"]
        counts = np.diff(self._starts)  # documents of each token
        self._token_idf = np.log1p((self._count - counts + 0.5) / (counts + 0.5))
        self._idf = np.repeat(self._token_idf, counts)
        saturated = found["data"] / self._idf
        self._frequency = np.rint(saturated / (1 - saturated))
        self.set(k1, b)

    @property
    def tokens(self) -> list[str]:
        """The V tokens of the documents, in the order of the rows of `weights`."""
        return [*self._row_of]

    @property
    def idf(self) -> npt.NDArray[np.float64]:
        """The inverse document frequency of each token, float64 (V,)."""
        return np.asarray(self._token_idf, np.float64)

    @property
    def weights(self) -> Any:
        """What each token adds to the score of each document, with the present k1 and b: CSR (V, N)."""
        return self._weights

    def set(self, k1: float, b: float) -> None:
        """Change k1 and b."""
        self.k1, self.b = k1, b
        saturation = k1 * (1 - b + b * self._relative_length)
        weights = self._idf * self._frequency / (self._frequency + saturation[self._documents])
        self._weights = scipy.sparse.csr_matrix(  # (V, N)
            (weights.astype(np.float32), self._documents, self._starts),
            shape=(len(self._row_of), self._count),
        )

    def tune(self, queries: Sequence[Sequence[str]], quality: Callable[[Rows], float]) -> None:
        """Set b, then k1, to the value whose ranking is best; the default where others are only as good.

        Args:
            queries: the tokens of each.
            quality: of the rankings (Q, 10) of these queries.
        """
        matrix = self._matrix(queries)

        def of(k1: float, b: float) -> float:
            self.set(k1, b)
            return quality(best_columns(matrix, self._weights, 10))

        k1, b = DEFAULT_K1, DEFAULT_B
        by_b = {each: of(k1, each) for each in sorted(B, key=lambda each: each != b)}  # the default first
        b = max(by_b, key=by_b.__getitem__)
        by_k1 = {k1: by_b[b]} | {each: of(each, b) for each in K1 if each != k1}
        self.set(max(by_k1, key=by_k1.__getitem__), b)

    def rank(self, queries: Sequence[Sequence[str]], k: int, first: Any = None) -> Rows:
        """The best documents of each query, which is given by its tokens.

        Args:
            first: as of `best_columns`.

        Returns:
            int64 (Q, min(k, N)) rows of documents, best first, of equal ones the first; -1 where no other
            document shares a token with the query.
        """
        return best_columns(self._matrix(queries), self._weights, min(k, self._count), first)

    def _matrix(self, queries: Sequence[Sequence[str]]) -> Any:
        """(Q, V): how often each query holds each known token."""
        known = [[self._row_of[token] for token in each if token in self._row_of] for each in queries]
        starts = np.concatenate([[0], np.cumsum([*map(len, known)])]).astype(np.int64)
        columns = np.fromiter((row for each in known for row in each), np.int64, starts[-1])
        shape = (len(known), len(self._row_of))
        return scipy.sparse.csr_matrix((np.ones(len(columns), np.float32), columns, starts), shape=shape)


def best_columns(queries: Any, weights: Any, k: int, first: Any = None) -> Rows:
    """The columns with the highest scores above 0 in each row of a product of sparse matrices.

    Args:
        queries: (Q, V), CSR.
        weights: (V, N), CSR; not negative.
        first: (Q, N), CSR of whole numbers. Columns that have one come before all others, those with the
            highest first, and equal ones by score.

    Returns:
        int64 (Q, k), best first, of equal ones the first; -1 where there is no other.
    """
    ranked = np.full((queries.shape[0], k), -1, np.int64)
    for at in range(0, len(ranked), _BLOCK):
        scores = queries[at : at + _BLOCK] @ weights
        if first is not None:
            scores = scores + first[at : at + _BLOCK] * (1.0 + scores.data.max(initial=0))
        for n in range(scores.shape[0]):
            row = slice(scores.indptr[n], scores.indptr[n + 1])
            values, columns = scores.data[row], scores.indices[row]
            if len(values) > k:
                least = np.partition(values, -k)[-k]
                values, columns = values[values >= least], columns[values >= least]
            order = np.lexsort((columns, -values))[:k]
            ranked[at + n, : len(order)] = columns[order]
    return ranked
