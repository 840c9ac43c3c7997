"""EASE (Steck 2019): item-item weights of a ridge regression, summed over the history.

Lambda is chosen among values three times apart, then among those between. One decomposition for all values
would need the eigenvectors, whose computation takes as long as a dozen of the inversions of `invert`.

Of a larger catalogue the items with most events are read, and all others have the score 0. Items with equal
scores are in the order of popularity.

With recency weights a history weighs an event less with each later step, by a factor, and by age. EASE gives
an item no weight for itself; where users take items again, it then gets one, the same for all items. It and
the factor are chosen on validation.
"""

from dataclasses import dataclass, replace

import numpy as np

from twinspire.train.evaluation.ranking import (
    DECAYS,
    TUNED_ITEMS,
    Baseline,
    BaselineFitter,
    FittedBaseline,
    Scorer,
    has_histories,
    item_baseline,
    own_range,
    rank_by,
    summed,
    usual_own,
)
from twinspire.train.models import collaborative
from twinspire.train.models.collaborative import ItemWeights, ease_of_gram, gram_matrix, interaction_matrix

LARGEST = 20_000  # items; the matrix grows with the square, the time of its inverse with the cube
STRENGTHS = tuple(float(f"{each:.2g}") for each in 300 * 3.0 ** np.arange(-8, 5.5, 0.5))


@dataclass(frozen=True)
class EaseSettings:
    """What is chosen on validation: lambda."""

    strength: float = 300.0


def strength(fitter: BaselineFitter) -> float:
    """The lambda that is best on validation."""
    return fitter.choose("lambda of EASE", float, _strength)


def _strength(fitter: BaselineFitter) -> float:
    tuning = fitter.tuning(TUNED_ITEMS)
    gram = gram_matrix(interaction_matrix(tuning.data))

    def scorer(settings: EaseSettings) -> Scorer:
        return summed(tuning.data, ease_of_gram(gram.clone(), settings.strength).numpy())

    near = tuning.search(EaseSettings(), [("strength", STRENGTHS[::2])], scorer)
    return tuning.search(near, [("strength", STRENGTHS)], scorer).strength


def weights(fitter: BaselineFitter) -> ItemWeights:
    """EASE's weights over the items with most events."""

    def fit() -> ItemWeights:
        chosen = strength(fitter)
        data, rows = fitter.popular(LARGEST)
        fitter.say(f"{len(rows):,} items, lambda {chosen}")
        return ItemWeights(collaborative.ease(interaction_matrix(data), chosen), rows)

    return fitter.once("weights of EASE", fit)


def named(fitter: BaselineFitter) -> dict[str, float]:
    """What was chosen for the weights, by name, as a run logs it."""
    return {"lambda": strength(fitter), **fitter.reach(LARGEST)}


def _fit(fitter: BaselineFitter) -> FittedBaseline:
    ranked = rank_by(fitter.data, summed(fitter.data, weights(fitter)))
    return FittedBaseline(ranked, named(fitter))


BASELINE = Baseline("ease", "EASE", has_histories, _fit, "histories")


@dataclass(frozen=True)
class RecencySettings:
    """What is chosen on validation.

    Args:
        decay: factor on an event for each later step of the history.
        own: weight of an item for itself; 0 where users take no item again.
    """

    decay: float = 0.9
    own: float = 0.0


def recency_weights(fitter: BaselineFitter) -> tuple[ItemWeights, RecencySettings]:
    """The weights over the items with most events, and what was chosen for them."""
    settings = fitter.choose("EASE, recency weights", RecencySettings, _choose_recency)
    return replace(weights(fitter), own=settings.own), settings


def _choose_recency(fitter: BaselineFitter) -> RecencySettings:
    tuning, found = fitter.tuning(), weights(fitter)

    def scorer(settings: RecencySettings) -> Scorer:
        return summed(tuning.data, replace(found, own=settings.own), settings.decay)

    ranges = [*own_range(tuning.data), ("decay", DECAYS)]
    return tuning.search(RecencySettings(own=usual_own(tuning.data)), ranges, scorer)


RECENCY = item_baseline(
    "ease_recency", "EASE, recency weights", recency_weights, lambda each, chosen: named(each) | vars(chosen)
)
