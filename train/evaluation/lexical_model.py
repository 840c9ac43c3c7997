"""Rankings of texts by the terms that they share with a query: BM25 or TF-IDF, over words or n-grams.

    terms = CountedTerms(analyzer, items)
    model = LexicalModel(terms, Weighting("bm25", k1=0.9, b=0.4))
    rows = model.rank(queries, k=10)

The terms are counted once, and each weighting is a matter of arithmetic. A block of queries is a product of
sparse matrices.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain, count
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from twinspire.protos.hybrid.term_weights import inverse_frequency, query_factors, text_weights
from twinspire.protos.lexical import Analyzer, Weighting, runs_of

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
_BLOCK, _SCORES = 256, 10_000_000  # queries, and scores of all items, at a time


class CountedTerms:
    """How often each of N texts holds each of its V terms.

    Attributes:
        counts: CSR (V, N).
        mean_length: terms of a text in the mean, repeated ones included.
        relative_length: (N,), terms of each text over the mean.
    """

    def __init__(self, analyzer: Analyzer, texts: Iterable[str]) -> None:
        self.analyzer = analyzer
        self._row_of = _numbers()
        counts = self._counted(texts, is_learning=True)
        self.counts = counts.T.tocsr()
        self.counts.sort_indices()
        lengths = np.asarray(counts.sum(axis=1), np.float64).reshape(-1)
        self.mean_length = float(lengths.mean()) if len(lengths) else 0.0
        self.relative_length = lengths / (self.mean_length or 1)

    @property
    def tokens(self) -> list[str]:
        """The V terms, in the order of the rows of `counts`."""
        return [*self._row_of]

    def of(self, texts: Iterable[str]) -> Any:
        """How often other texts hold the known terms: CSR (Q, V)."""
        return self._counted(texts, is_learning=False)

    def _counted(self, texts: Iterable[str], is_learning: bool) -> Any:
        """(T, V); what occurs in several texts is analysed once."""
        number_of, row_of = _numbers(), self._row_of
        runs = [[*map(number_of.__getitem__, runs_of(text))] for text in texts]
        tokens = map(self.analyzer.of_run(), number_of)
        if is_learning:
            terms = [[*map(row_of.__getitem__, own)] for own in tokens]
        else:
            terms = [[row_of[token] for token in own if token in row_of] for own in tokens]
        return _counts(runs, len(number_of)) @ _counts(terms, len(row_of))


def _numbers() -> defaultdict[str, int]:
    """Gives each text that it is asked for the first time the next number, from 0."""
    return defaultdict(count().__next__)


def _counts(rows: Sequence[Sequence[int]], width: int) -> Any:
    """How often each list holds each number below `width`: CSR, float32."""
    starts = np.concatenate([[0], np.cumsum([*map(len, rows)])]).astype(np.int64)
    columns = np.fromiter(chain.from_iterable(rows), np.int64, starts[-1])
    found = scipy.sparse.csr_matrix((np.ones(len(columns), np.float32), columns, starts), (len(rows), width))
    found.sum_duplicates()
    return found


class LexicalModel:
    """Terms of N items, weighted."""

    def __init__(self, terms: CountedTerms, weighting: Weighting) -> None:
        self.terms, self.weighting = terms, weighting

    @cached_property
    def idf(self) -> npt.NDArray[np.float64]:
        """The inverse document frequency of each term, float64 (V,)."""
        counts = self.terms.counts
        return inverse_frequency(self.weighting.kind, np.diff(counts.indptr), counts.shape[1])

    @cached_property
    def weights(self) -> Any:
        """The weight of each term in each item: CSR (V, N)."""
        counts = self.terms.counts
        idf, lengths = np.repeat(self.idf, np.diff(counts.indptr)), self.terms.relative_length
        weights = text_weights(self.weighting, idf, counts.data, counts.indices, lengths)
        return scipy.sparse.csr_matrix((weights, counts.indices, counts.indptr), counts.shape)

    def rank(self, queries: Iterable[str], k: int) -> Rows:
        """The best items of each query.

        Returns:
            int64 (Q, min(k, N)) rows of items, best first, of equal ones the first; -1 where no other item
            shares a term with the query.
        """
        return self.best(queries, k)[0]

    def best(self, queries: Iterable[str], k: int) -> tuple[Rows, Floats]:
        """The best items of each query as of `rank`, and their scores, float32 of the same shape."""
        factors, items = self.terms.of(queries), self.weights.shape[1]
        factors.data = np.asarray(query_factors(self.weighting.kind, factors.data), np.float32)
        ranked = np.full((factors.shape[0], min(k, items)), -1, np.int64)
        scores = np.zeros(ranked.shape, np.float32)
        block = max(1, min(_BLOCK, _SCORES // max(1, items)))
        for at in range(0, len(ranked), block):
            rows = slice(at, at + block)
            ranked[rows], scores[rows] = best_of_rows(factors[rows] @ self.weights, ranked.shape[1])
        return ranked, scores


def best_of_rows(scores: Any, k: int) -> tuple[Rows, Floats]:
    """The columns of the highest stored values in each row of a sparse matrix, and these values.

    Args:
        scores: (Q, N), CSR.

    Returns:
        int64 (Q, k), best first, of equal ones the first; -1 where there is no other. The values float32
        (Q, k), there 0.
    """
    ranked = np.full((scores.shape[0], k), -1, np.int64)
    found = np.zeros(ranked.shape, np.float32)
    for n in range(len(ranked)):
        row = slice(scores.indptr[n], scores.indptr[n + 1])
        values, columns = scores.data[row], scores.indices[row]
        if len(values) > k:
            least = np.partition(values, -k)[-k]
            values, columns = values[values >= least], columns[values >= least]
        order = np.lexsort((columns, -values))[:k]
        ranked[n, : len(order)], found[n, : len(order)] = columns[order], values[order]
    return ranked, found
