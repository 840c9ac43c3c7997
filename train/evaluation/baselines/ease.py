"""EASE (Steck 2019): item-item weights of a ridge regression, summed over the history.

Lambda is chosen among values three times apart, then among their neighbours. One decomposition for all values
would need the eigenvectors, whose computation takes as long as a dozen of the inversions of `invert`.

Of a larger catalogue the items with most events are read, and all others have the score 0. Items with equal
scores are in the order of popularity.
"""

import numpy as np

from train.evaluation.ranking import (
    TUNED_ITEMS,
    Baseline,
    FittedBaseline,
    Fitting,
    Scorer,
    has_histories,
    rank_by,
    summed,
)
from train.models import collaborative
from train.models.collaborative import ItemWeights, ease_of_gram, gram_matrix, interaction_matrix

LARGEST = 20_000  # items; the matrix grows with the square, the time of its inverse with the cube
STRENGTHS = tuple(float(f"{each:.2g}") for each in 300 * 3.0 ** np.arange(-8, 6))
FINER = 3**0.5


def strength(fitting: Fitting) -> float:
    """The lambda that is best on validation."""
    return fitting.choose("lambda of EASE", float, _strength)


def _strength(fitting: Fitting) -> float:
    tuning = fitting.tuning(TUNED_ITEMS)
    gram = gram_matrix(interaction_matrix(tuning.data))

    def scorer(value: float) -> Scorer:
        return summed(tuning.data, ease_of_gram(gram.clone(), value).numpy())

    best = tuning.climb("lambda", STRENGTHS, 300.0, scorer)
    near = [best, float(f"{best * FINER:.2g}"), float(f"{best / FINER:.2g}")]
    return tuning.best("lambda", near, scorer)


def weights(fitting: Fitting) -> ItemWeights:
    """EASE's weights over the items with most events."""

    def fit() -> ItemWeights:
        chosen = strength(fitting)
        data, rows = fitting.popular(LARGEST)
        fitting.say(f"{len(rows):,} items, lambda {chosen}")
        return ItemWeights(collaborative.ease(interaction_matrix(data), chosen), rows)

    return fitting.once("weights of EASE", fit)


def named(fitting: Fitting) -> dict[str, float]:
    """What was chosen for the weights, by name, as a run logs it."""
    return {"lambda": strength(fitting), **fitting.reach(LARGEST)}


def _fit(fitting: Fitting) -> FittedBaseline:
    ranked = rank_by(fitting.data, summed(fitting.data, weights(fitting)))
    return FittedBaseline(ranked, named(fitting))


BASELINE = Baseline("ease", "EASE", has_histories, _fit, "histories")
