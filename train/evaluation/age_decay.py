"""Baselines of item-item weights, whose events weigh by step and by age; what is chosen on validation.

    BASELINE = item_baseline("itemknn", "item-kNN", weights)

The towers may read when events were and when a query is asked, so item-item baselines may, too: an event
weighs decay^steps * (1 + age / minute)^-ages. Beyond minutes, twice the age is the same factor whether it is
hours or years, so one power suits any data. On validation of `history.toml`, nDCG@10 of SLIST is .1407 with
it, .1401 with the best of exp(-age / tau) with a floor, and .1366 without ages. The power and the decay are
searched one after the other, from 7 and 13 values, with the item-item weights that were chosen
without ages.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.ranking import (
    DECAYS,
    Baseline,
    BaselineFitter,
    FittedBaseline,
    Scorer,
    has_histories,
    rank_by,
    summed,
)
from twinspire.train.models.collaborative import ItemWeights

AGES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2)  # powers


@dataclass(frozen=True)
class EventWeights:
    """What is chosen on validation.

    Args:
        decay: factor on an event for each later step of the history.
        ages: the power of an event's age.
    """

    decay: float
    ages: float = 0.0


def item_baseline(
    name: str,
    label: str,
    weights: Callable[[BaselineFitter], tuple[ItemWeights, Any]],
    named: Callable[[BaselineFitter, Any], Mapping[str, float]] = lambda _, settings: vars(settings),
) -> Baseline:
    """The baseline of some item-item weights, summed over the history.

    Args:
        weights: with what was chosen for them, a `decay` among it.
        named: what was chosen, by name, as a run logs it.
    """

    def fit(fitter: BaselineFitter) -> FittedBaseline:
        found, settings = weights(fitter)
        events = event_weights(fitter, label, lambda each: weights(each)[0], settings.decay)
        shown = {**named(fitter, settings), "decay": events.decay}
        if reads_ages(fitter.data):
            shown["ages"] = events.ages
        ranked = rank_by(fitter.data, summed(fitter.data, found, events.decay, events.ages))
        return FittedBaseline(ranked, shown)

    return Baseline(name, label, has_histories, fit, "histories")


def reads_ages(data: TrainingData) -> bool:
    """Whether the towers may read the times of events, and of the query."""
    return data.histories is not None and data.histories.times is not None and data.moments is not None


def event_weights(
    fitter: BaselineFitter, label: str, weights: Callable[[BaselineFitter], ItemWeights], decay: float
) -> EventWeights:
    """The weights of events for item-item weights; by step alone where no ages are read.

    Args:
        decay: chosen without ages, from which the search begins. What mixes a linear model into towers, which
            know steps alone, uses that one.
    """
    if not reads_ages(fitter.data):
        return EventWeights(decay)

    def choose(chooser: BaselineFitter) -> EventWeights:
        tuning, found = chooser.tuning(), weights(chooser)

        def scorer(settings: EventWeights) -> Scorer:
            return summed(tuning.data, found, settings.decay, settings.ages)

        return tuning.search(EventWeights(decay), [("ages", AGES), ("decay", DECAYS)], scorer)

    return fitter.choose(f"{label}, ages", EventWeights, choose)
