"""Baselines: rankings that a model is compared with, on the same split and by the same metrics.

Which of them apply follows from the data: BM25 and TF-IDF read texts, the others histories.
Their hyperparameters (k1 and b, neighbours, lambda) are chosen on validation, as the epoch of the model is.

To add one, add a `Baseline` to `BASELINES`; metrics, tables and plots of a run follow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.features import TextFeature
from protos.lexical import ANALYZERS, Analyzer, choose_analyzer
from train.config import Experiment
from train.config.training import OF_LABELS
from train.data.training_data import TrainingData, texts_of
from train.evaluation.bm25 import Bm25
from train.evaluation.exact_search import mask_seen
from train.evaluation.label_baselines import LABEL_BASELINES
from train.evaluation.metrics import CUTOFFS, mean, per_query
from train.evaluation.tfidf import CharacterTfidf, has_words
from train.models.collaborative import ease, history_matrix, interaction_matrix, item_knn

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Ranker = Callable[[Rows], Rows]  # query rows (Q,) -> item rows (Q, K), best first

LARGEST_MATRIX = 20_000  # items; item-item matrices grow with the square, the time of EASE with the cube
NEIGHBOURS = (10, 20, 50, 100, 200)
STRENGTHS = (20.0, 50.0, 100.0, 200.0, 300.0, 400.0, 600.0, 800.0, 1200.0)
LARGEST_TFIDF = 5_000_000  # characters of the items; TF-IDF takes time for each of them and each query
SAMPLED_TEXTS = 2_000  # of the items, from which the analyser is chosen
TUNED_ON = 1_000  # validation queries on which k1 and b are chosen
_BLOCK = 512  # queries at a time


@dataclass(frozen=True)
class FittedBaseline:
    """The ranking of a baseline.

    Args:
        rank: the ranking.
        settings: what was chosen for it, by name; numbers and texts.
    """

    rank: Ranker
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, queries: Rows) -> Rows:
        """Rank the items for some queries."""
        return self.rank(queries)


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
    fit: Callable[[Experiment, TrainingData], FittedBaseline]


def baselines(experiment: Experiment, data: TrainingData) -> dict[str, FittedBaseline]:
    """Name -> ranking, of each baseline that applies."""
    return {each.name: each.fit(experiment, data) for each in BASELINES if each.applies(experiment, data)}


def selection_metric(experiment: Experiment) -> str:
    """The metric that chooses the epoch and the baselines' parameters; nDCG@10 instead of AUC.

    Baselines rank, and do not predict labels.
    """
    selection = experiment.training.selection
    return "ndcg_at_10" if selection in OF_LABELS else selection


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


def _has_cut_texts(experiment: Experiment, data: TrainingData) -> bool:
    if not _has_texts(experiment, data):
        return False
    sides = ((data.queries, experiment.query), (data.items, experiment.item))
    return any(texts_of(*side) != texts_of(*side, cut=True) for side in sides)


def _fit_bm25(experiment: Experiment, data: TrainingData) -> FittedBaseline:
    """BM25 over what the towers read."""
    return _tuned_bm25(experiment, data, cut=True)


def _fit_full_bm25(experiment: Experiment, data: TrainingData) -> FittedBaseline:
    """BM25 over the whole texts."""
    return _tuned_bm25(experiment, data, cut=False)


def analyzer_of(experiment: Experiment, data: TrainingData) -> Analyzer:
    """How BM25 splits texts: as the experiment says, or by a sample of the items' texts."""
    name = experiment.baselines.analyzer
    if name != "auto":
        return ANALYZERS[name]
    texts = texts_of(data.items, experiment.item)
    drawn = np.random.default_rng(0).permutation(len(texts))[:SAMPLED_TEXTS]
    return choose_analyzer(texts[row] for row in drawn)


def _tuned_bm25(experiment: Experiment, data: TrainingData, cut: bool) -> FittedBaseline:
    analyzer = analyzer_of(experiment, data)
    queries = texts_of(data.queries, experiment.query, cut)

    def over(items: Mapping[str, Sequence[Any]]) -> Bm25:
        return Bm25(analyzer.analyze(texts_of(items, experiment.item, cut)))

    def tokens(rows: Rows) -> list[list[str]]:
        return [*analyzer.analyze(queries[row] for row in rows)]

    model = over(data.items if data.chosen_with is None else data.chosen_with)
    rows, relevant = data.parts["validation"].by_query()
    if len(rows):
        drawn = np.sort(np.random.default_rng(0).permutation(len(rows))[:TUNED_ON])
        wanted, metric = [relevant[n] for n in drawn], selection_metric(experiment)
        model.tune(tokens(rows[drawn]), lambda ranked: mean(per_query(ranked, wanted))[metric])
    k1, b = model.k1, model.b
    if data.chosen_with is not None:
        model = over(data.items)
        model.set(k1, b)
    settings = {"k1": k1, "b": b, "analyzer": str(analyzer)}
    return FittedBaseline(lambda rows: model.rank(tokens(rows), max(CUTOFFS)), settings)


def _has_few_words(experiment: Experiment, data: TrainingData) -> bool:
    if not _has_texts(experiment, data):
        return False
    texts = texts_of(data.items, experiment.item, cut=True)
    return sum(map(len, texts)) <= LARGEST_TFIDF and has_words(texts)


def _fit_tfidf(experiment: Experiment, data: TrainingData) -> FittedBaseline:
    queries = texts_of(data.queries, experiment.query, cut=True)
    model = CharacterTfidf(texts_of(data.items, experiment.item, cut=True))
    return FittedBaseline(lambda rows: model.rank([queries[row] for row in rows], max(CUTOFFS)))


def _has_histories(experiment: Experiment, data: TrainingData) -> bool:
    return data.histories is not None


def _fit_popularity(experiment: Experiment, data: TrainingData) -> FittedBaseline:
    return FittedBaseline(rank_by_scores(data, data.counts().astype(np.float32)))


def _has_small_matrix(experiment: Experiment, data: TrainingData) -> bool:
    return data.histories is not None and data.item_count <= LARGEST_MATRIX


def _fit_item_knn(experiment: Experiment, data: TrainingData) -> FittedBaseline:
    matrix = interaction_matrix(data)
    return _best_on_validation(experiment, data, "neighbours", NEIGHBOURS, lambda k: item_knn(matrix, k))


def _fit_ease(experiment: Experiment, data: TrainingData) -> FittedBaseline:
    matrix = interaction_matrix(data)
    return _best_on_validation(experiment, data, "lambda", STRENGTHS, lambda strength: ease(matrix, strength))


def _best_on_validation(
    experiment: Experiment,
    data: TrainingData,
    name: str,
    values: Sequence[Any],
    fit: Callable[[Any], Floats],
) -> FittedBaseline:
    """The ranking by the item-item weights of the value that is best on validation."""
    queries, relevant = data.parts["validation"].by_query()
    metric = selection_metric(experiment)

    def quality(value: Any) -> float:
        ranked = rank_by_scores(data, fit(value))(queries)
        return mean(per_query(ranked, relevant))[metric]

    best = max(values, key=quality)
    return FittedBaseline(rank_by_scores(data, fit(best)), {name: best})


BASELINES = (
    Baseline("bm25", "BM25", _has_texts, _fit_bm25),
    Baseline("bm25_full", "BM25, full texts", _has_cut_texts, _fit_full_bm25),
    Baseline("tfidf", "character TF-IDF", _has_few_words, _fit_tfidf),
    Baseline("popularity", "popularity", _has_histories, _fit_popularity),
    Baseline("itemknn", "item-kNN", _has_small_matrix, _fit_item_knn),
    Baseline("ease", "EASE", _has_small_matrix, _fit_ease),
)
LABELS = {
    **{each.name: each.label for each in BASELINES},
    "start": "start",  # the towers before the first step; `train/training/run.py` measures them
    **{each.name: each.label for each in LABEL_BASELINES},  # predict labels and do not rank
}
