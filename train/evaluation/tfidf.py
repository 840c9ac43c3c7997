"""Cosine of character TF-IDF: matches parts of words, and needs no knowledge of a language or a script.

    model = CharacterTfidf(items)
    rows = model.rank(queries, k=10)

The terms are character 1- to 3-grams within words, and within runs of scripts without spaces. The n-grams of
a word are counted once, however many texts hold it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.lexical import ANALYZERS
from train.evaluation.bm25 import best_columns

Rows = npt.NDArray[np.int64]
ORDERS = (1, 3)  # shortest and longest n-gram


class CharacterTfidf:
    """Documents as unit vectors of sublinear term frequency times IDF.

    Args:
        documents: texts; at least one holds a letter or a digit.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        # The import takes a second.
        from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

        self._ngrams = CountVectorizer(analyzer="char", ngram_range=ORDERS, lowercase=False, dtype=np.float32)
        self._scale = TfidfTransformer(sublinear_tf=True)
        words, counts = _counted(documents)
        matrix = self._scale.fit_transform(counts @ self._ngrams.fit_transform(words))
        self._transposed = matrix.T.tocsr()  # (V, N)

    def rank(self, queries: Sequence[str], k: int) -> Rows:
        """The best documents of each query.

        Returns:
            int64 (Q, min(k, N)) rows of documents, best first, of equal ones the first; -1 where no other
            document shares an n-gram with the query.
        """
        words, counts = _counted(queries)
        k = min(k, self._transposed.shape[1])
        if not words:
            return np.full((len(queries), k), -1, np.int64)
        matrix = self._scale.transform(counts @ self._ngrams.transform(words))
        return best_columns(matrix.tocsr(), self._transposed, k)


def has_words(texts: Sequence[str]) -> bool:
    """Whether any text holds a letter or a digit."""
    return any(tokens for tokens in ANALYZERS["words"].analyze(texts))


def _counted(texts: Sequence[str]) -> tuple[list[str], Any]:
    """The distinct words of some texts, and how often each text holds each: (T, W), CSR."""
    from sklearn.feature_extraction.text import CountVectorizer

    rows: dict[str, int] = {}
    tokens = [*ANALYZERS["words"].analyze(texts)]
    for each in tokens:
        for token in each:
            rows.setdefault(token, len(rows))
    counter = CountVectorizer(analyzer=list, vocabulary=rows, dtype=np.float32) if rows else None
    return [*rows], counter.transform(tokens) if counter is not None else None
