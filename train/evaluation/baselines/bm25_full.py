"""BM25 over the whole texts, where the towers read a part of them."""

from twinspire.train.config import Experiment
from twinspire.train.data.training_data import TrainingData, texts_of
from twinspire.train.evaluation.lexical_choice import has_texts, lexical_baseline
from twinspire.train.evaluation.ranking import Baseline


def _has_cut_texts(experiment: Experiment, data: TrainingData) -> bool:
    if not has_texts(experiment, data):
        return False
    sides = ((data.queries, experiment.query), (data.items, experiment.item))
    folder = experiment.tower.features_folder
    return any(texts_of(*side) != texts_of(*side, cut=True, folder=folder) for side in sides)


BASELINE = Baseline(
    "bm25_full",
    "BM25, full texts",
    _has_cut_texts,
    lexical_baseline("bm25", cut=False),
    "texts on both sides, of which one is longer than its max_length",
)
