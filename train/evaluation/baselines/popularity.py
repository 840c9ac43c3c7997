"""The items with most training pairs, the same for every query."""

import numpy as np

from twinspire.train.evaluation.ranking import (
    Baseline,
    BaselineFitter,
    FittedBaseline,
    has_histories,
    rank_by_scores,
)


def _fit(fitter: BaselineFitter) -> FittedBaseline:
    data = fitter.data
    return FittedBaseline(rank_by_scores(data, data.counts().astype(np.float32)))


BASELINE = Baseline("popularity", "popularity", has_histories, _fit, "histories")
