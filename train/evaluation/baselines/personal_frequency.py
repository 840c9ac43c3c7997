"""The items that a user has taken most, each event weighted by a factor for each later step.

All other items follow by popularity. The factor is chosen on validation. Where users take items again, this
is the baseline to beat.
"""

import numpy as np

from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.ranking import (
    DECAYS,
    Baseline,
    BaselineFitter,
    FittedBaseline,
    Floats,
    Rows,
    Scorer,
    rank_by,
    repeats,
)
from twinspire.train.models.collaborative import history_matrix

_LEAST = np.finfo(np.float32).tiny  # of an item of the history, however old: all others have the score 0


def _scorer(data: TrainingData, decay: float) -> Scorer:
    def score(rows: Rows) -> Floats:
        history = history_matrix(data, rows, decay, every=True)
        history.data = np.maximum(history.data, _LEAST)
        return np.asarray(history.toarray())

    return score


def _fit(fitter: BaselineFitter) -> FittedBaseline:
    decay = fitter.choose("decay of personal frequency", float, _choose)
    return FittedBaseline(rank_by(fitter.data, _scorer(fitter.data, decay)), {"decay": decay})


def _choose(fitter: BaselineFitter) -> float:
    tuning = fitter.tuning()
    return tuning.climb("decay", DECAYS, 0.9, lambda decay: _scorer(tuning.data, decay))


BASELINE = Baseline(
    "personal_frequency",
    "personal frequency",
    repeats,
    _fit,
    "histories whose items may be answers",
)
