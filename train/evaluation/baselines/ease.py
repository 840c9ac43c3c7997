"""EASE (Steck 2019): item-item weights of a ridge regression, summed over the history.

Lambda is chosen among values three times apart, then among those between. One decomposition for all values
would need the eigenvectors, whose computation takes as long as a dozen of the inversions of `invert`.

Of a larger catalogue the items with most events are read, and all others have the score 0. Items with equal
scores are in the order of popularity.
"""

from dataclasses import dataclass

import numpy as np

from twinspire.train.evaluation.ranking import (
    TUNED_ITEMS,
    Baseline,
    BaselineFitter,
    FittedBaseline,
    Scorer,
    has_histories,
    rank_by,
    summed,
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
