"""The items with most training pairs in the last days before a query; chosen on validation."""

from twinspire.train.data.recency import WHOLE, WINDOWS, Floats, RecentShares
from twinspire.train.data.training_data import Rows, TrainingData
from twinspire.train.evaluation.ranking import (
    Baseline,
    BaselineFitter,
    FittedBaseline,
    Scorer,
    has_times,
    rank_by,
)

USUAL = 30.0  # days
_REMAINDER = 1e-3  # weight of the share of all that went before


def _scorer(data: TrainingData, days: float) -> Scorer:
    """Recent shares; items without any go by their share of all that went before."""
    shares = RecentShares(data)

    def score(rows: Rows) -> Floats:
        return shares.of(rows, days) + _REMAINDER * shares.of(rows, WHOLE)

    return score


def _fit(fitter: BaselineFitter) -> FittedBaseline:
    days = fitter.choose("days of recent popularity", float, _choose)
    return FittedBaseline(rank_by(fitter.data, _scorer(fitter.data, days)), {"days": days or "all"})


def _choose(fitter: BaselineFitter) -> float:
    tuning = fitter.tuning()
    nearest = sorted(WINDOWS, key=lambda days: abs(WINDOWS.index(days) - WINDOWS.index(USUAL)))
    return tuning.best(nearest, lambda days: _scorer(tuning.data, days))


BASELINE = Baseline("recent_popularity", "recent popularity", has_times, _fit, "histories with times")
