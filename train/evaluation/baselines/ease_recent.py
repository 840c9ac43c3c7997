"""EASE with recency weights, times what is popular lately: score x share^p, of scores below 0 as of 0.

The share is the item's of the training events in the last days before the query. Days, p and the decay of the
history are chosen on validation, one after the other, until none changes. The weight of an item for itself is
that of EASE with recency weights.
"""

from dataclasses import dataclass

import numpy as np

from twinspire.train.data.recency import WHOLE, WINDOWS, RecentShares
from twinspire.train.evaluation.baselines import ease, ease_recency
from twinspire.train.evaluation.ranking import (
    DECAYS,
    Baseline,
    BaselineFitter,
    FittedBaseline,
    Floats,
    Rows,
    Scorer,
    has_times,
    rank_by,
    summed,
)

POWERS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.3)
FLOOR = 1e-6  # added to a score, so that popular items are first where the history says nothing
PRIOR = 0.05  # weight of the share of all that went before in the share of the last days


@dataclass(frozen=True)
class RecentSettings:
    """What is chosen on validation.

    Args:
        decay: factor on an event for each later step of the history.
        days: length of the window.
        power: exponent of the shares; with 0 the scores are those of EASE.
    """

    decay: float
    days: float = 30.0
    power: float = 0.5


def scorer(score: Scorer, shares: RecentShares, settings: RecentSettings) -> Scorer:
    """Scores of EASE times recent shares to a power.

    Args:
        score: of EASE, with the decay of the settings.
    """
    if not settings.power:
        return score

    def product(rows: Rows) -> Floats:
        recent = (1 - PRIOR) * shares.of(rows, settings.days) + PRIOR * shares.of(rows, WHOLE)
        factor = np.power(recent, settings.power, dtype=np.float32)
        # A product with a score below 0 would place popular items last.
        return np.asarray((np.maximum(score(rows), 0) + FLOOR) * factor, np.float32)

    return product


def _fit(fitter: BaselineFitter) -> FittedBaseline:
    settings = fitter.choose("EASE x recent popularity", RecentSettings, _choose)
    weights, before = ease_recency.weights(fitter)
    shares = RecentShares(fitter.data)
    score = summed(fitter.data, weights, settings.decay)
    ranked = rank_by(fitter.data, scorer(score, shares, settings))
    named = ease.named(fitter) | {"decay": settings.decay, "own": before.own}
    return FittedBaseline(ranked, named | {"days": settings.days or "all", "power": settings.power})


def _choose(fitter: BaselineFitter) -> RecentSettings:
    tuning, (weights, before) = fitter.tuning(), ease_recency.weights(fitter)
    shares = RecentShares(tuning.data)

    def scored(settings: RecentSettings) -> Scorer:
        return scorer(summed(tuning.data, weights, settings.decay), shares, settings)

    ranges = [("days", WINDOWS), ("power", POWERS), ("decay", DECAYS)]
    return tuning.search(RecentSettings(before.decay), ranges, scored)


BASELINE = Baseline("ease_recent", "EASE x recent popularity", has_times, _fit, "histories with times")
