"""EASE whose histories weigh an event less with each later step, by a factor, and by age (`age_decay.py`).

EASE gives an item no weight for itself. Where users take items again, it gets one, the same for all items. It
and the factor are chosen on validation.
"""

from dataclasses import dataclass, replace

from twinspire.train.evaluation.age_decay import item_baseline
from twinspire.train.evaluation.baselines import ease
from twinspire.train.evaluation.ranking import (
    DECAYS,
    BaselineFitter,
    Scorer,
    own_range,
    summed,
    usual_own,
)
from twinspire.train.models.collaborative import ItemWeights


@dataclass(frozen=True)
class RecencySettings:
    """What is chosen on validation.

    Args:
        decay: factor on an event for each later step of the history.
        own: weight of an item for itself; 0 where users take no item again.
    """

    decay: float = 0.9
    own: float = 0.0


def weights(fitter: BaselineFitter) -> tuple[ItemWeights, RecencySettings]:
    """The weights over the items with most events, and what was chosen for them."""
    settings = fitter.choose("EASE, recency weights", RecencySettings, _choose)
    return replace(ease.weights(fitter), own=settings.own), settings


def _choose(fitter: BaselineFitter) -> RecencySettings:
    tuning, found = fitter.tuning(), ease.weights(fitter)

    def scorer(settings: RecencySettings) -> Scorer:
        return summed(tuning.data, replace(found, own=settings.own), settings.decay)

    ranges = [*own_range(tuning.data), ("decay", DECAYS)]
    return tuning.search(RecencySettings(own=usual_own(tuning.data)), ranges, scorer)


def _named(fitter: BaselineFitter, settings: RecencySettings) -> dict[str, float]:
    return ease.named(fitter) | vars(settings)


BASELINE = item_baseline("ease_recency", "EASE, recency weights", weights, _named)
