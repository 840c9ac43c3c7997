"""Cosine of character TF-IDF, over what the towers read."""

from train.config import Experiment
from train.data.training_data import TrainingData, texts_of
from train.evaluation.baselines.bm25 import has_texts
from train.evaluation.metrics import CUTOFFS
from train.evaluation.ranking import Baseline, FittedBaseline, Fitting
from train.evaluation.tfidf import CharacterTfidf, has_words

LARGEST = 5_000_000  # characters of the items; TF-IDF takes time for each of them and each query


def _has_few_words(experiment: Experiment, data: TrainingData) -> bool:
    if not has_texts(experiment, data):
        return False
    texts = texts_of(data.items, experiment.item, cut=True, folder=experiment.tower.features_folder)
    return sum(map(len, texts)) <= LARGEST and has_words(texts)


def _fit(fitting: Fitting) -> FittedBaseline:
    experiment, data = fitting.experiment, fitting.data
    folder = experiment.tower.features_folder
    queries = texts_of(data.queries, experiment.query, cut=True, folder=folder)
    model = CharacterTfidf(texts_of(data.items, experiment.item, cut=True, folder=folder))
    return FittedBaseline(lambda rows: model.rank([queries[row] for row in rows], max(CUTOFFS)))


BASELINE = Baseline(
    "tfidf",
    "character TF-IDF",
    _has_few_words,
    _fit,
    f"texts on both sides, with words, and items of up to {LARGEST:,} characters",
)
