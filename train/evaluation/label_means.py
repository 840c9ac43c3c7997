"""Means of labels by item and by user: a baseline of labelled pairs, and a part of click towers.

    logit p = logit(s_i) + factor * sum_j (y_j - s_j) / (n + k)

s_i is the share of positives among the item's training pairs, shrunk towards that of all pairs. The sum is
over the n events j that are known of the user before the pair. The item's share s_j is subtracted from each
label y_j, which makes users comparable whichever items they met. k shrinks the user's mean towards zero.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special

from twinspire.protos.features import FeatureSpec, HistoryFeature
from twinspire.train.data.training_data import Histories, Pairs, TrainingData
from twinspire.train.evaluation.labelled_metrics import pair_losses

Floats = npt.NDArray[np.float64]
Predict = Callable[[Pairs], Floats]  # pairs (P,) -> probabilities (P,)

SMOOTHINGS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # events
USER_FACTORS = (3.0, 4.0, 5.0, 6.0)
KINDS = ("history", "negative_history")


@dataclass(frozen=True)
class FittedLabels:
    """What a baseline predicts, and what was chosen for it."""

    predict: Predict
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class UserItemMeans:
    """The fitted formula of this module.

    Args:
        shares: (N,), s_i of each item.
        positive_rate: the share of positives of all training pairs.
        user_residuals: pairs (P,) -> for each pair's user the sum of y_j - s_j, (P,), and the number n of
            events, (P,).
        item_smoothing: of the shares.
        smoothing: k, in events.
        factor: of the formula.
    """

    shares: Floats
    positive_rate: float
    user_residuals: Callable[[Pairs], tuple[Floats, Floats]]
    item_smoothing: float
    smoothing: float
    factor: float

    def logits(self, pairs: Pairs) -> Floats:
        """(P,)."""
        sums, counts = self.user_residuals(pairs)
        user = self.factor * sums / (counts + self.smoothing)
        return np.asarray(scipy.special.logit(self.shares[pairs.item]) + user)

    def predict(self, pairs: Pairs) -> Floats:
        """(P,): probabilities."""
        return np.asarray(scipy.special.expit(self.logits(pairs)))


def best_on_validation(
    data: TrainingData, grid: Mapping[str, Sequence[float]], fit: Callable[..., Predict]
) -> FittedLabels:
    """The predictions of the values with the lowest log loss on validation."""
    choices: list[dict[str, float]] = [{}]
    for name, values in grid.items():
        choices = [{**chosen, name: value} for chosen in choices for value in values]
    return lowest_loss(data, (FittedLabels(fit(**chosen), chosen) for chosen in choices))


def lowest_loss(data: TrainingData, fitted: Iterable[FittedLabels]) -> FittedLabels:
    """The predictions with the lowest log loss on validation; of equal ones the first."""
    return min(fitted, key=lambda each: _loss_on_validation(data, each.predict))


def _loss_on_validation(data: TrainingData, predict: Predict) -> float:
    validation = data.parts["validation"]
    return float(pair_losses(validation.is_positive, predict(validation)).mean())


def item_means(data: TrainingData) -> FittedLabels:
    """Each item's share of positives, shrunk towards that of all pairs; validation chooses by how much."""

    def fit(smoothing: float) -> Predict:
        shares = item_shares(data, smoothing)
        return lambda pairs: shares[pairs.item]

    return best_on_validation(data, {"smoothing": SMOOTHINGS}, fit)


def user_item_means(query: Mapping[str, FeatureSpec], data: TrainingData, as_read: bool) -> UserItemMeans:
    """The items' smoothing is that of `item_means`; the users' smoothing and factor are chosen after it.

    Where the towers read histories of both kinds, a pair's events are those of the histories; else the
    user's training pairs; without users there are none.

    Args:
        as_read: of histories, count only the newest events, `max_length` of them, as the towers do. Items
            that are in no vocabulary count here, and not for the towers.
    """
    train = data.parts["train"]
    smoothing = item_means(data).settings["smoothing"]
    shares = item_shares(data, smoothing)
    histories = both_histories(query, data)
    sums = _history_sums(histories, shares, as_read) if histories else _training_sums(data, shares)
    rate = float(train.is_positive.mean())
    tried = [
        UserItemMeans(shares, rate, sums, smoothing, *of_user)
        for of_user in itertools.product(SMOOTHINGS, USER_FACTORS)
    ]
    return min(tried, key=lambda each: _loss_on_validation(data, each.predict))


def user_item(query: Mapping[str, FeatureSpec], data: TrainingData) -> FittedLabels:
    """The formula with the events that the towers read, or with all that are known before a pair."""
    found, histories = [], both_histories(query, data)
    for as_read in (True, False) if histories else (False,):
        means = user_item_means(query, data, as_read)
        settings: dict[str, Any] = {
            "item_smoothing": means.item_smoothing,
            "smoothing": means.smoothing,
            "factor": means.factor,
        }
        if histories:
            settings["events"] = "as the towers" if as_read else "all"
        found.append(FittedLabels(means.predict, settings))
    return lowest_loss(data, found)


def both_histories(
    query: Mapping[str, FeatureSpec], data: TrainingData
) -> dict[str, tuple[HistoryFeature, Histories]]:
    """Kind -> feature and values, where queries have histories of both kinds; else empty."""
    found: dict[str, tuple[HistoryFeature, Histories]] = {}
    for name, spec in query.items():
        values = data.queries[name]
        if isinstance(spec, HistoryFeature) and isinstance(values, Histories):
            found[spec.kind] = (spec, values)
    return found if set(found) == set(KINDS) else {}


def item_shares(data: TrainingData, smoothing: float) -> Floats:
    """(N,): each item's share of positives in training, shrunk towards that of all pairs."""
    train = data.parts["train"]
    labels = train.is_positive
    positives = np.bincount(train.item, labels, data.item_count)
    total = np.bincount(train.item, minlength=data.item_count)
    return np.asarray((positives + smoothing * labels.mean()) / (total + smoothing))


def first_event(spec: HistoryFeature, values: Histories, as_read: bool) -> npt.NDArray[np.int64]:
    """(Q,): where in `run` each history begins, of all its events or of the newest, as a tower reads them."""
    return np.maximum(values.read_from, values.end - spec.longest) if as_read else values.begin


def _history_sums(
    histories: Mapping[str, tuple[HistoryFeature, Histories]], shares: Floats, as_read: bool
) -> Callable[[Pairs], tuple[Floats, Floats]]:
    sides: list[tuple[Floats, Floats]] = []
    for kind, residuals in zip(KINDS, (1 - shares, -shares), strict=True):
        spec, values = histories[kind]
        begin = first_event(spec, values, as_read)
        running = np.concatenate([[0.0], np.cumsum(residuals[values.run])])
        sides.append((running[values.end] - running[begin], (values.end - begin).astype(np.float64)))
    sums, counts = sides[0][0] + sides[1][0], sides[0][1] + sides[1][1]
    return lambda pairs: (sums[pairs.query], counts[pairs.query])


def _training_sums(data: TrainingData, shares: Floats) -> Callable[[Pairs], tuple[Floats, Floats]]:
    train = data.parts["train"]
    if train.user is None:
        return lambda pairs: (np.zeros(len(pairs)), np.zeros(len(pairs)))
    size = 1 + max(int(part.user.max(initial=0)) for part in data.parts.values() if part.user is not None)
    sums = np.bincount(train.user, train.is_positive - shares[train.item], size).astype(np.float64)
    counts = np.bincount(train.user, minlength=size).astype(np.float64)
    return lambda pairs: (sums[pairs.user], counts[pairs.user])
