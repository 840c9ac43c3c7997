"""Item-kNN: cosines to the most similar items, summed over the history (Sarwar et al. 2001).

An event weighs less with each later step of the history, by a factor, and by age (`ranking.py`).
"""

from dataclasses import dataclass

import numpy as np

from twinspire.train.evaluation.ranking import (
    DECAYS,
    BaselineFitter,
    Scorer,
    item_baseline,
    own_range,
    summed,
    usual_own,
)
from twinspire.train.models.collaborative import ItemWeights, interaction_matrix, item_knn, most_similar

NEIGHBOURS = (5, 10, 20, 50, 100, 200)


@dataclass(frozen=True)
class NeighbourSettings:
    """What is chosen on validation.

    Args:
        neighbours: similar items of each item.
        decay: factor on an event for each later step of the history.
        own: weight of an item for itself; 0 where users take no item again.
    """

    neighbours: int = 50
    decay: float = 0.9
    own: float = 0.0


def weights(fitter: BaselineFitter) -> tuple[ItemWeights, NeighbourSettings]:
    """The weights over all items, and what was chosen for them."""
    settings = fitter.choose("item-kNN", NeighbourSettings, _choose)

    def fit() -> ItemWeights:
        values = item_knn(interaction_matrix(fitter.data), settings.neighbours)
        return ItemWeights(values, np.arange(fitter.data.item_count), settings.own)

    return fitter.once("weights of item-kNN", fit), settings


def _choose(fitter: BaselineFitter) -> NeighbourSettings:
    tuning = fitter.tuning()
    most = item_knn(interaction_matrix(tuning.data), NEIGHBOURS[-1]).T.tocsr()

    def scorer(settings: NeighbourSettings) -> Scorer:
        values = most_similar(most, settings.neighbours).T.tocsr()
        found = ItemWeights(values, np.arange(tuning.data.item_count), settings.own)
        return summed(tuning.data, found, settings.decay)

    ranges = [*own_range(tuning.data), ("decay", DECAYS), ("neighbours", NEIGHBOURS)]
    return tuning.search(NeighbourSettings(own=usual_own(tuning.data)), ranges, scorer)


BASELINE = item_baseline("itemknn", "item-kNN", weights)
