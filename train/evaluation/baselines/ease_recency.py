"""EASE whose histories weigh an event less with each later one, by a factor that is chosen on validation."""

from train.evaluation.baselines import ease
from train.evaluation.ranking import DECAYS, Baseline, FittedBaseline, Fitting, rank_by, summed, with_at_most


def decay(fitting: Fitting) -> float:
    """The factor that is best on validation."""
    return fitting.choose("decay of EASE", _decay)


def _decay(fitting: Fitting) -> float:
    tuning, weights = fitting.tuning(), ease.tuning_weights(fitting)
    return tuning.climb("decay", DECAYS, 0.9, lambda decay: summed(tuning.data, weights, decay))


def _fit(fitting: Fitting) -> FittedBaseline:
    chosen = decay(fitting)
    ranked = rank_by(fitting.data, summed(fitting.data, ease.weights(fitting), chosen))
    return FittedBaseline(ranked, {"lambda": ease.strength(fitting), "decay": chosen})


BASELINE = Baseline(
    "ease_recency",
    "EASE, recency weights",
    with_at_most(ease.LARGEST),
    _fit,
    f"histories, and up to {ease.LARGEST:,} items",
)
