"""Baselines: rankings that a model is compared with, on the same split and by the same metrics.

Which of them apply follows from the data: BM25 reads texts; popularity, item-kNN and EASE read histories.
Their hyperparameters (neighbours, lambda) are chosen on validation, as the epoch of the model is.

To add one, add a `Baseline` to `BASELINES`; metrics, tables and plots of a run follow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer

from protos.features import TextFeature
from train.config import Experiment
from train.data.training_data import TrainingData, texts_of
from train.evaluation.exact_search import mask_seen
from train.evaluation.metrics import CUTOFFS, mean, per_query
from train.models.collaborative import ease, history_matrix, interaction_matrix, item_knn

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Ranker = Callable[[Rows], Rows]  # query rows (Q,) -> item rows (Q, K), best first

LARGEST_MATRIX = 20_000  # items; item-item matrices grow with the square, the time of EASE with the cube
NEIGHBOURS = (10, 20, 50, 100, 200)
STRENGTHS = (20.0, 50.0, 100.0, 200.0, 300.0, 400.0, 600.0, 800.0, 1200.0)
_BLOCK = 512  # queries at a time


@dataclass(frozen=True)
class Baseline:
    """A ranking that needs no training by gradient.

    Args:
        name: prefix of its metrics, as in `bm25_ndcg_at_10`.
        label: its name in tables and plots.
        applies: whether the data holds what it reads.
        fit: returns the ranking.
    """

    name: str
    label: str
    applies: Callable[[Experiment, TrainingData], bool]
    fit: Callable[[Experiment, TrainingData], Ranker]


def baselines(experiment: Experiment, data: TrainingData) -> dict[str, Ranker]:
    """Name -> ranking, of each baseline that applies."""
    return {each.name: each.fit(experiment, data) for each in BASELINES if each.applies(experiment, data)}


def bm25(items: Sequence[str], queries: Sequence[str], k: int) -> Rows:
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


def rank_by_scores(data: TrainingData, weights: Floats) -> Ranker:
    """Rank by item-item weights (N, N) summed over a history, or by one score per item (N,)."""

    def rank(queries: Rows) -> Rows:
        k = min(max(CUTOFFS), data.item_count)
        ranked = np.empty((len(queries), k), np.int64)
        for at in range(0, len(queries), _BLOCK):
            rows = queries[at : at + _BLOCK]
            if weights.ndim == 1:
                scores = np.tile(weights, (len(rows), 1))
            else:
                scores = np.asarray(history_matrix(data, rows) @ weights, np.float32)
            mask_seen(scores, data.seen(rows))
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            masked = np.isneginf(np.take_along_axis(scores, order, 1))
            ranked[at : at + _BLOCK] = np.where(masked, -1, order)
        return ranked

    return rank


def _has_texts(experiment: Experiment, data: TrainingData) -> bool:
    def has_text(features: Mapping[str, Any]) -> bool:
        return any(isinstance(spec, TextFeature) for spec in features.values())

    return data.histories is None and has_text(experiment.query) and has_text(experiment.item)


def _fit_bm25(experiment: Experiment, data: TrainingData) -> Ranker:
    items = texts_of(data.items, experiment.item)
    queries = texts_of(data.queries, experiment.query)
    return lambda rows: bm25(items, [queries[row] for row in rows], max(CUTOFFS))


def _has_histories(experiment: Experiment, data: TrainingData) -> bool:
    return data.histories is not None


def _fit_popularity(experiment: Experiment, data: TrainingData) -> Ranker:
    return rank_by_scores(data, data.counts().astype(np.float32))


def _has_small_matrix(experiment: Experiment, data: TrainingData) -> bool:
    return data.histories is not None and data.item_count <= LARGEST_MATRIX


def _fit_item_knn(experiment: Experiment, data: TrainingData) -> Ranker:
    matrix = interaction_matrix(data)
    return _best_on_validation(experiment, data, NEIGHBOURS, lambda k: item_knn(matrix, k))


def _fit_ease(experiment: Experiment, data: TrainingData) -> Ranker:
    matrix = interaction_matrix(data)
    return _best_on_validation(experiment, data, STRENGTHS, lambda strength: ease(matrix, strength))


def _best_on_validation(
    experiment: Experiment, data: TrainingData, values: Sequence[Any], fit: Callable[[Any], Floats]
) -> Ranker:
    """The ranking by the item-item weights of the value that is best on validation."""
    selection = experiment.training.selection
    metric = "ndcg_at_10" if selection == "auc" else selection  # weights rank, and do not predict labels
    queries, relevant = data.parts["validation"].by_query()

    def quality(value: Any) -> float:
        ranked = rank_by_scores(data, fit(value))(queries)
        return mean(per_query(ranked, relevant))[metric]

    return rank_by_scores(data, fit(max(values, key=quality)))


BASELINES = (
    Baseline("bm25", "BM25", _has_texts, _fit_bm25),
    Baseline("popularity", "popularity", _has_histories, _fit_popularity),
    Baseline("itemknn", "item-kNN", _has_small_matrix, _fit_item_knn),
    Baseline("ease", "EASE", _has_small_matrix, _fit_ease),
)
LABELS = {
    **{each.name: each.label for each in BASELINES},
    "itemmean": "item means",  # predicts labels and does not rank; `report.evaluate_labels` measures it
}
