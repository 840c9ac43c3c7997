"""EASE whose histories weigh an event less with each later one, by a factor that is chosen on validation."""

from train.evaluation.baselines import ease
from train.evaluation.ranking import DECAYS, Baseline, FittedBaseline, Fitting, has_histories, rank_by, summed


def decay(fitting: Fitting) -> float:
    """The factor that is best on validation."""
    return fitting.choose("decay of EASE", float, _decay)


def _decay(fitting: Fitting) -> float:
    tuning, weights = fitting.tuning(), ease.tuning_weights(fitting)
    return tuning.climb("decay", DECAYS, 0.9, lambda decay: summed(tuning.data, weights, decay))


def _fit(fitting: Fitting) -> FittedBaseline:
    chosen = decay(fitting)
    ranked = rank_by(fitting.data, summed(fitting.data, ease.weights(fitting), chosen))
    return FittedBaseline(ranked, {"lambda": ease.strength(fitting), "decay": chosen})


BASELINE = Baseline("ease_recency", "EASE, recency weights", has_histories, _fit, "histories", ease.LARGEST)
