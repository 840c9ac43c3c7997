"""What a model has to be compared with, on the same split and by the same metrics.

Which baselines apply follows from what a query holds: BM25 reads texts; popularity, item-kNN and EASE read
histories. What they have to choose (neighbours, lambda) is chosen on validation, as the model's own is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer

from protos.features import TextFeature
from train.collaborative import ease, interactions, item_knn, of_histories
from train.config import Experiment
from train.evaluation import hide
from train.metrics import CUTOFFS, mean, per_query
from train.problem import Problem, texts_of

Ranked = npt.NDArray[np.int64]
Rank = Callable[[npt.NDArray[np.int64]], Ranked]  # query rows (Q,) -> item rows (Q, K), best first

LABELS = {
    "bm25": "BM25",
    "popularity": "popularity",
    "itemknn": "item-kNN",
    "ease": "EASE",
    "itemmean": "item means",
}
LARGEST_MATRIX = 20_000  # items; item-item matrices grow with the square, EASE's time with the cube
NEIGHBOURS = (10, 20, 50, 100, 200)
STRENGTHS = (20.0, 50.0, 100.0, 200.0, 300.0, 400.0, 600.0, 800.0, 1200.0)
_BLOCK = 512


def baselines(experiment: Experiment, problem: Problem) -> dict[str, Rank]:
    """Name -> what it ranks first for some queries of the problem."""
    found: dict[str, Rank] = {}
    if problem.histories is not None:
        found["popularity"] = by_scores(problem, _popular(problem))
        if problem.item_count <= LARGEST_MATRIX:
            matrix = interactions(problem)
            chosen_by = experiment.training.selection
            metric = "ndcg_at_10" if chosen_by == "auc" else chosen_by  # they rank, and know no labels
            found["itemknn"] = _chosen(problem, metric, NEIGHBOURS, lambda k: item_knn(matrix, k))
            found["ease"] = _chosen(problem, metric, STRENGTHS, lambda strength: ease(matrix, strength))
    elif _has_text(experiment.query) and _has_text(experiment.item):
        items = texts_of(problem.items, experiment.item)
        queries = texts_of(problem.queries, experiment.query)
        found["bm25"] = lambda rows: bm25(items, [queries[row] for row in rows], max(CUTOFFS))
    return found


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


def by_scores(problem: Problem, weights: npt.NDArray[np.float32]) -> Rank:
    """Rank by item-item weights (N, N) summed over a history, or by one score an item (N,)."""

    def rank(queries: npt.NDArray[np.int64]) -> Ranked:
        k = min(max(CUTOFFS), problem.item_count)
        ranked = np.empty((len(queries), k), np.int64)
        for at in range(0, len(queries), _BLOCK):
            rows = queries[at : at + _BLOCK]
            if weights.ndim == 1:
                scores = np.tile(weights, (len(rows), 1))
            else:
                scores = np.asarray(of_histories(problem, rows) @ weights, np.float32)
            hide(scores, problem.seen(rows))
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            lost = np.isneginf(np.take_along_axis(scores, order, 1))
            ranked[at : at + _BLOCK] = np.where(lost, -1, order)
        return ranked

    return rank


def _popular(problem: Problem) -> npt.NDArray[np.float32]:
    return problem.counts().astype(np.float32)


def _chosen(
    problem: Problem,
    metric: str,
    values: Sequence[Any],
    fit: Callable[[Any], npt.NDArray[np.float32]],
) -> Rank:
    """The baseline with the value that is best on validation."""
    queries, relevant = problem.parts["validation"].by_query()

    def figure(value: Any) -> float:
        ranked = by_scores(problem, fit(value))(queries)
        return mean(per_query(ranked, relevant))[metric]

    return by_scores(problem, fit(max(values, key=figure)))


def _has_text(features: Mapping[str, Any]) -> bool:
    return any(isinstance(spec, TextFeature) for spec in features.values())
