"""What a model has to be compared with, on the same split and by the same metrics."""

from collections.abc import Sequence
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer

from train.config import Experiment
from train.metrics import CUTOFFS, mean, per_query
from train.problem import Problem, texts_of

Ranked = npt.NDArray[np.int64]


def bm25(items: Sequence[str], queries: Sequence[str], k: int) -> Ranked:
    """Okapi BM25 over English stems without stop words (the `bm25s` library's defaults for k1 and b).

    Returns:
        (Q, k) item rows, best first; -1 where fewer items share a word with the query.
    """
    k = min(k, len(items))
    stemmer = Stemmer.Stemmer("english")

    def tokens(texts: Sequence[str]) -> Any:
        return bm25s.tokenize(list(texts), stopwords="en", stemmer=stemmer, show_progress=False)

    words = tokens(items)
    if not any(words.ids):
        return np.full((len(queries), k), -1)
    model = bm25s.BM25()
    model.index(words, show_progress=False)
    rows, scores = model.retrieve(tokens(queries), k=k, show_progress=False)
    return np.where(scores > 0, rows, -1).astype(np.int64)


def bm25_metrics(experiment: Experiment, problem: Problem, part: str) -> dict[str, float]:
    """`bm25_<metric>` on one part of the split, over the texts that the item tower reads."""
    rows, relevant = problem.parts[part].by_query()
    queries = texts_of(problem.queries, experiment.query)
    ranked = bm25(texts_of(problem.items, experiment.item), [queries[row] for row in rows], max(CUTOFFS))
    return {f"bm25_{name}": value for name, value in mean(per_query(ranked, relevant)).items()}
