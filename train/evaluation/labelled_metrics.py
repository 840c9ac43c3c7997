"""Metrics of predicted probabilities of labelled pairs: AUC, log loss, calibration error, with intervals.

Intervals are 95 % bootstrap intervals over users, whose pairs depend on each other; over pairs where there
are no users. All models are drawn together, so that differences between two models have intervals, too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]
BINS = 10  # of about equal size, of the calibration error
SMALLEST = float(np.finfo(np.float64).eps)  # probability, as in scikit-learn's log loss
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


def reliability(labels: Labels, probability: Floats, bins: int = BINS) -> list[Bin]:
    """The pairs in order of their probability, in bins of about equal size.

    Pairs of the same probability are always in one bin, so that the order of the rows changes nothing: that
    of the middle one of them.
    """
    _, each, counts = np.unique(probability, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    of_pair = (middle * bins / len(labels)).astype(np.int64).clip(max=bins - 1)[each]
    parts = [np.flatnonzero(of_pair == n) for n in np.unique(of_pair)]
    return [Bin(float(probability[rows].mean()), float(labels[rows].mean()), len(rows)) for rows in parts]


def calibration_error(labels: Labels, probability: Floats, bins: int = BINS) -> float:
    """Expected calibration error (Naeini et al. 2015): mean distance of predicted and true share in bins."""
    found = reliability(labels, probability, bins)
    return sum(each.count * abs(each.predicted - each.share) for each in found) / len(labels)


class Auc:
    """Area under the ROC curve for any weights of the pairs.

    Args:
        labels: of the pairs.
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
    probabilities: Mapping[str, Floats],
    users: npt.NDArray[np.int64] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, float]:
    """AUC, log loss and calibration error of several models on the same pairs.

    Args:
        labels: true for positive pairs; both kinds occur.
        probabilities: name -> (P,); "" is the model that the others are compared with.
        users: number of each pair's user.

    Returns:
        `<name>_auc`, `<name>_log_loss`, the ends of their intervals with `_low` and `_high`, and
        `<name>_ece`; without a prefix for the model. `<name>_auc_gain` and `<name>_log_loss_gain` say by how
        much the model is better than the other one: its AUC is larger, its log loss is smaller.
    """
    found: dict[str, float] = {}
    areas = {name: Auc(labels, probability) for name, probability in probabilities.items()}
    losses = {name: pair_losses(labels, probability) for name, probability in probabilities.items()}
    ones = np.ones(len(labels))
    for name, probability in probabilities.items():
        prefix = f"{name}_" if name else ""
        found |= {f"{prefix}auc": areas[name](ones), f"{prefix}log_loss": float(losses[name].mean())}
        found[f"{prefix}ece"] = calibration_error(labels, probability)
    # One draw at a time: all of them at once would be `draws` numbers for each pair.
    rows = [
        [(areas[name](each), each @ losses[name] / each.sum()) for name in probabilities]
        for each in _resampled(labels, users, draws, seed)
    ]
    drawn = np.array(rows, np.float64).reshape(len(rows), len(probabilities), 2)
    of = {
        (name, metric): drawn[:, n, m]
        for n, name in enumerate(probabilities)
        for m, metric in enumerate(("auc", "log_loss"))
    }
    for (name, metric), values in of.items():
        found |= _ends(f"{name}_{metric}" if name else metric, values)
    for name in probabilities:
        if not name:
            continue
        for metric, sign in (("auc", 1), ("log_loss", -1)):
            key = f"{name}_{metric}_gain"
            found[key] = sign * (found[metric] - found[f"{name}_{metric}"])
            found |= _ends(key, sign * (of["", metric] - of[name, metric]))
    return found


def _resampled(
    labels: Labels, users: npt.NDArray[np.int64] | None, draws: int, seed: int
) -> Iterator[Floats]:
    """How often each pair is drawn, in each of the draws that hold pairs of both kinds."""
    generator = np.random.default_rng(seed)
    who = np.arange(len(labels)) if users is None else np.unique(users, return_inverse=True)[1]
    count = int(who.max()) + 1
    for _ in range(draws):
        drawn = np.bincount(generator.integers(0, count, count), minlength=count)[who].astype(np.float64)
        if 0 < (drawn * labels).sum() < drawn.sum():
            yield drawn


def _ends(name: str, values: Floats) -> dict[str, float]:
    low, high = np.quantile(values, (0.025, 0.975)) if len(values) else (np.nan, np.nan)
    return {f"{name}_low": float(low), f"{name}_high": float(high)}
