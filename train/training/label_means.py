"""The end of a run of click towers: user and item means of labels beside them, with a weight from validation.

    means = add_label_means(trainer)      towers with `[tower] means`, and labels in validation

The logits become (1 - w) * those of the towers + w * those of the means (`train/evaluation/label_means.py`).
Both are sums of a query's bias and an item's bias, so the vectors stay as long as they are. Where events are
few, the means have learned more from them than the towers; where there are many, both together are better
than either.

Of the weights within a standard error of the best, the one nearest to `DEFAULT_WEIGHT` is taken, as
`part_weights.py` says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special
import torch
from torch import Tensor

from protos.features import FIRST_KNOWN, FeatureSpec, HistoryFeature
from train.evaluation.calibration import FEWEST
from train.evaluation.label_means import Floats, UserItemMeans, user_item_means
from train.evaluation.labelled_metrics import pair_losses
from train.evaluation.metrics import within_standard_error
from train.models.clicks import MEANS, ItemMeans, UserMeans
from train.models.heads import LogisticHead
from train.models.placement import beside
from train.training.part_weights import LEAST_USERS
from train.training.trainer import Trainer

Rows = npt.NDArray[np.int64]

WEIGHTS = tuple(n / 20 for n in range(21))
DEFAULT_WEIGHT = 0.65  # the best weight of eleven logs, of 7,000 to 100,000 events, is .6 to 1


@dataclass(frozen=True)
class LabelMeans:
    """What was chosen.

    Args:
        weight: of the means, 0 to 1; with 0 the towers stay as they were.
        smoothing, item_smoothing, factor: of the means.
        before: log loss on validation of the towers alone.
        after: that with the means.
    """

    weight: float
    smoothing: float
    item_smoothing: float
    factor: float
    before: float
    after: float

    def line(self) -> str:
        """The choice in words."""
        chosen = f"weigh {self.weight:g} of the logits" if self.weight else "are left out"
        return (
            f"user and item means of labels {chosen}; log loss on validation {self.after:.4f}, without them "
            f"{self.before:.4f}"
        )

    def parameters(self) -> Mapping[str, Any]:
        """What a run logs as parameters."""
        names = ("weight", "smoothing", "item_smoothing", "factor")
        return {name: getattr(self, name) for name in names}

    def metrics(self) -> dict[str, float]:
        """What a run logs as metrics of validation."""
        return {"label_means_log_loss": self.after}


def add_label_means(trainer: Trainer, features: Mapping[str, FeatureSpec]) -> LabelMeans | None:
    """Mix the biases of the towers with means of labels, and choose the weight on validation.

    Args:
        trainer: with the towers of the best epoch, not yet calibrated.
        features: of queries.

    Returns:
        What was chosen; None if the towers have no place for means, or there are too few labels of one kind.
    """
    query = trainer.towers[0]
    if query.optional[-1] != MEANS or getattr(query, MEANS) is None:
        return None
    pairs = trainer.data.parts["validation"]
    labels = pairs.is_positive
    if min(labels.sum(), (~labels).sum()) < FEWEST or not trainer.data.parts["train"].has_both_labels:
        _remove(trainer)
        return None
    means = user_item_means(features, trainer.data, as_read=True)
    own = trainer.inner_products(pairs).astype(np.float64) + query.head.score().bias
    losses = {
        weight: pair_losses(labels, scipy.special.expit((1 - weight) * own + weight * means.logits(pairs)))
        for weight in WEIGHTS
    }
    weight = choose_weight(losses, pairs.user)
    before, after = float(losses[0.0].mean()), float(losses[weight].mean())
    if weight:
        _apply(trainer, features, means, weight)
    else:
        _remove(trainer)
    return LabelMeans(weight, means.smoothing, means.item_smoothing, means.factor, before, after)


def choose_weight(losses: Mapping[float, npt.NDArray[Any]], users: Rows | None) -> float:
    """Of the weights that are within a standard error of the best, the one nearest to the default.

    Args:
        losses: weight -> the log loss of each pair.
        users: number of each pair's user; None if they are not known, and each pair counts as one.
    """
    count = len(next(iter(losses.values())))
    distinct, user = np.unique(np.arange(count) if users is None else users, return_inverse=True)
    if len(distinct) < LEAST_USERS:
        return DEFAULT_WEIGHT
    share = len(distinct) / count  # so that the mean over users is that over pairs
    curve = {weight: np.asarray(-share * np.bincount(user, each), float) for weight, each in losses.items()}
    return min(within_standard_error(curve), key=lambda weight: abs(weight - DEFAULT_WEIGHT))


def _apply(
    trainer: Trainer, features: Mapping[str, FeatureSpec], means: UserItemMeans, weight: float
) -> None:
    """Set the means of both towers, and their weight."""
    query, item = (getattr(tower, MEANS) for tower in trainer.towers)
    head = trainer.towers[0].head
    assert isinstance(query, UserMeans)
    assert isinstance(item, ItemMeans)
    assert isinstance(head, LogisticHead)
    rows = trainer.items.arrays[item.name][:, 0].astype(np.int64)
    known = rows >= FIRST_KNOWN
    shares, own = means.shares[known], 1 - weight

    def fill(table: Tensor, values: Floats) -> None:
        index = beside(torch.from_numpy(rows[known]), table)
        table[index] = beside(torch.from_numpy(values.astype(np.float32)), table)

    total = float(scipy.special.logit(means.total))
    with torch.no_grad():
        fill(item.log_odds, scipy.special.logit(shares) - total)
        for name, spec in features.items():
            if isinstance(spec, HistoryFeature):
                label = float(spec.kind == "history")
                fill(query.residuals[name], means.factor * (label - shares))
        query.smoothing.fill_(means.smoothing)
        # The head multiplies b_u and b_v by learned numbers, which must not change the means.
        of_user, of_item = head.weight[-2:].tolist()
        query.weights.copy_(torch.tensor([own, own * of_user, weight]))
        item.weights.copy_(torch.tensor([own * of_item, weight]))
        head.weight[-2:] = 1.0
        head.bias.mul_(own).add_(weight * total)
    trainer.clear_cached_vectors()


def _remove(trainer: Trainer) -> None:
    for tower in trainer.towers:
        tower.remove(MEANS)
