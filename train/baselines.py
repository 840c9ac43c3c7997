"""What a model has to be compared with, on the same split and by the same metrics."""

from collections.abc import Sequence

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer

Ranked = npt.NDArray[np.int64]


def bm25(items: Sequence[str], queries: Sequence[str], k: int) -> Ranked:
    """Okapi BM25 over English stems without stop words (the `bm25s` library's defaults for k1 and b).

    Returns:
        (Q, k) item rows, best first; -1 where fewer items share a word with the query.
    """
    k = min(k, len(items))
    stemmer = Stemmer.Stemmer("english")

    def tokens(texts: Sequence[str]) -> object:
        return bm25s.tokenize(list(texts), stopwords="en", stemmer=stemmer, show_progress=False)

    model = bm25s.BM25()
    model.index(tokens(items), show_progress=False)
    rows, scores = model.retrieve(tokens(queries), k=k, show_progress=False)
    return np.where(scores > 0, rows, -1).astype(np.int64)
