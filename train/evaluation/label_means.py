"""Means of labels by item and by user: a baseline of labelled pairs, and the start of click towers.

    logit p = logit(s_i) + factor * sum_j (y_j - s_j) / (n + k)

s_i is the share of positives among the item's training pairs, shrunk towards that of all pairs. The sum is
over the n events j that are known of the user before the pair. The item's share s_j is subtracted from each
label y_j, which makes users comparable whichever items they met. k shrinks the user's mean towards zero.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special

from twinspire.protos.features import FeatureSpec, HistoryFeature
from twinspire.train.data.training_data import Histories, Pairs, TrainingData
from twinspire.train.evaluation.labelled_metrics import pair_losses

Floats = npt.NDArray[np.float64]
Predict = Callable[[Pairs], Floats]  # pairs (P,) -> probabilities (P,)
Residuals = Callable[[Pairs], tuple[Floats, Floats]]

SMOOTHINGS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # events
USER_FACTORS = (3.0, 4.0, 5.0, 6.0)
KINDS = ("history", "negative_history")


@dataclass(frozen=True)
class FittedLabels:
    """What a baseline predicts, and what was chosen for it."""

    predict: Predict
    settings: Mapping[str, Any]


def lowest_loss(data: TrainingData, fitted: Iterable[FittedLabels]) -> FittedLabels:
    """The predictions with the lowest log loss on validation; of equal ones the first."""
    validation = data.parts["validation"]
    return min(fitted, key=lambda each: pair_losses(validation.is_positive, each.predict(validation)).mean())


def item_means(data: TrainingData) -> FittedLabels:
    """Each item's share of positives, shrunk towards that of all pairs; validation chooses by how much."""
    shares = {smoothing: item_shares(data, smoothing) for smoothing in SMOOTHINGS}
    tried = [FittedLabels(partial(_of_items, each), {"smoothing": k}) for k, each in shares.items()]
    return lowest_loss(data, tried)


def user_item(query: Mapping[str, FeatureSpec], data: TrainingData) -> FittedLabels:
    """The formula of this module; validation chooses k and the factor, after the smoothing of `item_means`.

    Where the towers read histories of both kinds, a pair's events are those of the histories: the newest
    ones, as many as the towers read, or all; validation chooses. Else they are the user's training pairs;
    without users there are none.
    """
    smoothing = item_means(data).settings["smoothing"]
    shares = item_shares(data, smoothing)
    histories, item = histories_of(query, data), scipy.special.logit(shares)
    residuals: list[tuple[dict[str, Any], Residuals]]
    if len(histories) == len(KINDS):
        residuals = [
            ({"events": name}, _history_sums(histories, shares, as_read))
            for name, as_read in (("as the towers", True), ("all", False))
        ]
    else:
        residuals = [({}, _training_sums(data, shares))]
    tried = [
        FittedLabels(
            partial(_of_users, item, of_users, k, factor),
            {"item_smoothing": smoothing, "smoothing": k, "factor": factor, **events},
        )
        for events, of_users in residuals
        for k, factor in itertools.product(SMOOTHINGS, USER_FACTORS)
    ]
    return lowest_loss(data, tried)


def _of_items(shares: Floats, pairs: Pairs) -> Floats:
    return np.asarray(shares[pairs.item])


def _of_users(item: Floats, residuals: Residuals, smoothing: float, factor: float, pairs: Pairs) -> Floats:
    """(P,): the probabilities by the formula of this module.

    Args:
        item: (N,), log-odds of each item.
        residuals: pairs (P,) -> for each pair's user the sum of y_j - s_j, (P,), and the number n of events,
            (P,).
        smoothing: k, in events.
    """
    sums, counts = residuals(pairs)
    return np.asarray(scipy.special.expit(item[pairs.item] + factor * sums / (counts + smoothing)))


def histories_of(
    query: Mapping[str, FeatureSpec], data: TrainingData
) -> dict[str, tuple[HistoryFeature, Histories]]:
    """Kind -> feature and values of the queries' histories; empty if there are none."""
    found: dict[str, tuple[HistoryFeature, Histories]] = {}
    for name, spec in query.items():
        values = data.queries.get(name)
        if isinstance(spec, HistoryFeature) and isinstance(values, Histories):
            found[spec.kind] = (spec, values)
    return found


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
) -> Residuals:
    sides: list[tuple[Floats, Floats]] = []
    for kind, residuals in zip(KINDS, (1 - shares, -shares), strict=True):
        spec, values = histories[kind]
        begin = first_event(spec, values, as_read)
        running = np.concatenate([[0.0], np.cumsum(residuals[values.run])])
        sides.append((running[values.end] - running[begin], (values.end - begin).astype(np.float64)))
    sums, counts = sides[0][0] + sides[1][0], sides[0][1] + sides[1][1]
    return lambda pairs: (sums[pairs.query], counts[pairs.query])


def _training_sums(data: TrainingData, shares: Floats) -> Residuals:
    train = data.parts["train"]
    if train.user is None:
        return lambda pairs: (np.zeros(len(pairs)), np.zeros(len(pairs)))
    size = 1 + max(int(part.user.max(initial=0)) for part in data.parts.values() if part.user is not None)
    sums = np.bincount(train.user, train.is_positive - shares[train.item], size).astype(np.float64)
    counts = np.bincount(train.user, minlength=size).astype(np.float64)
    return lambda pairs: (sums[pairs.user], counts[pairs.user])
