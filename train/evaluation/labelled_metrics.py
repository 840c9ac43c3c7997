"""Metrics of predicted probabilities of labelled pairs: AUC, log loss, calibration error, with intervals.

Intervals draw clusters, such as users, whose pairs depend on each other (`intervals.py`). All models are
drawn together, so that differences between two models have intervals, too.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from twinspire.train.evaluation.intervals import Clusters
from twinspire.train.metrics import Floats, as_higher_is_better

Labels = npt.NDArray[np.bool_]
BINS = 10  # of about equal size, of the calibration error
SMALLEST = float(np.finfo(np.float64).eps)  # probability, as in scikit-learn's log loss
HIGHEST = {"auc": 1.0, "log_loss": -math.log(SMALLEST)}
DRAWS = 1000


@dataclass(frozen=True)
class Bin:
    """Pairs of similar probability.

    Args:
        predicted: their mean probability.
        share: of positives among them.
        count: number of them.
    """

    predicted: float
    share: float
    count: int


def pair_losses(labels: Labels, probability: Floats) -> Floats:
    """(P,): minus the log probability of each pair's label."""
    clipped = probability.clip(SMALLEST, 1 - SMALLEST)
    return -np.log(np.where(labels, clipped, 1 - clipped))


def reliability(labels: Labels, probability: Floats) -> list[Bin]:
    """The pairs in order of their probability, in bins of about equal size.

    Pairs of the same probability are always in one bin, so that the order of the rows changes nothing: that
    of the middle one of them.
    """
    _, each, counts = np.unique(probability, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    of_pair = (middle * BINS / len(labels)).astype(np.int64).clip(max=BINS - 1)[each]
    parts = [np.flatnonzero(of_pair == n) for n in np.unique(of_pair)]
    return [Bin(float(probability[rows].mean()), float(labels[rows].mean()), len(rows)) for rows in parts]


def calibration_error(labels: Labels, probability: Floats) -> float:
    """Expected calibration error (Naeini et al. 2015): mean distance of predicted and true share in bins."""
    found = reliability(labels, probability)
    return sum(each.count * abs(each.predicted - each.share) for each in found) / len(labels)


class Auc:
    """Area under the ROC curve for any weights of the pairs.

    Args:
        scores: (P,), larger for pairs that are more likely positive.
    """

    def __init__(self, labels: Labels, scores: Floats) -> None:
        _, self._rank = np.unique(scores, return_inverse=True)
        self._labels = labels

    def __call__(self, weights: Floats | None = None) -> float:
        """The share of (positive, negative) pairs in the right order, weighted if asked; ties count half."""
        weights = np.ones(len(self._labels)) if weights is None else weights
        size = self._rank.max() + 1
        positive = np.bincount(self._rank, weights * self._labels, size)
        negative = np.bincount(self._rank, weights * ~self._labels, size)
        below = np.cumsum(negative) - negative
        return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))


def compare(
    labels: Labels,
    predicted: Mapping[str, Floats],
    clusters: Clusters,
    scores: Floats | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, float]:
    """AUC, log loss and calibration error of several models on the same pairs.

    Args:
        labels: true for positive pairs; both kinds occur.
        predicted: name -> (P,), probabilities; "" is the model that the others are compared with.
        scores: (P,), of the model, by which its AUC is computed: the logits, which tell apart what rounds to
            the same probability, or what it gives instead of probabilities; then `predicted` lacks it.
        draws: for the intervals; without any there are none.

    Returns:
        `<name>_auc`, `<name>_log_loss`, the ends of their intervals with `_low` and `_high`, and
        `<name>_ece`; without a prefix for the model. `<name>_auc_gain` and `<name>_log_loss_gain` say by how
        much the model is better than the other one: its AUC is larger, its log loss is smaller.
    """
    ordered = predicted if scores is None else {**predicted, "": scores}
    measures: dict[tuple[str, str], Callable[[Floats], float]] = {
        (name, "auc"): Auc(labels, each) for name, each in ordered.items()
    }
    for name, each in predicted.items():
        measures[name, "log_loss"] = partial(_weighted_mean, pair_losses(labels, each))
    figures = {key: measure(np.ones(len(labels))) for key, measure in measures.items()}
    # One draw at a time: all of them at once would be `draws` numbers for each pair.
    resampled = _resampled(labels, clusters, draws, seed)
    rows = [[measure(weights) for measure in measures.values()] for weights in resampled]
    drawn = dict(zip(figures, np.array(rows, np.float64).reshape(-1, len(figures)).T, strict=True))
    found = {f"{name}_ece".lstrip("_"): calibration_error(labels, each) for name, each in predicted.items()}
    for (name, metric), value in figures.items():
        key, highest = f"{name}_{metric}".lstrip("_"), HIGHEST[metric]
        found |= _named(key, value, drawn[name, metric], clusters, 0.0, highest)
        if name and ("", metric) in figures:
            sign = as_higher_is_better(metric, 1.0)
            gain, of_draws = figures["", metric] - value, drawn["", metric] - drawn[name, metric]
            found |= _named(f"{key}_gain", sign * gain, sign * of_draws, clusters, -highest, highest)
    return found


def _weighted_mean(values: Floats, weights: Floats) -> float:
    return float(weights @ values / weights.sum())


def _resampled(labels: Labels, clusters: Clusters, draws: int, seed: int) -> Iterator[Floats]:
    """How often each pair is drawn, in each of the draws that hold pairs of both kinds."""
    for (rows,) in clusters.draws(draws, seed, most=1):
        drawn = np.bincount(rows, minlength=len(clusters))[clusters.of].astype(np.float64)
        if 0 < (drawn * labels).sum() < drawn.sum():
            yield drawn


def _named(
    name: str, value: float, drawn: Floats, clusters: Clusters, lowest: float, highest: float
) -> dict[str, float]:
    return clusters.interval(value, drawn, lowest, highest).named(name) if len(drawn) else {name: value}
