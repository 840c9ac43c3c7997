"""`[loss]`: the loss that training minimises, one class for each `kind`.

The losses are computed by `train/losses/`.
"""

from dataclasses import dataclass
from typing import Literal

from twinspire.train.config.checks import above_zero, at_least, refuse_unused

Correction = Literal["none", "logq"]


@dataclass(frozen=True)
class FullSoftmax:
    """Softmax over all items of training pairs, for catalogues that fit into a training step.

    Items of the query's history are masked.

    Args:
        temperature: divides the scores.
    """

    kind: Literal["full_softmax"]
    temperature: float = 1.0

    def __post_init__(self) -> None:
        above_zero(self, "temperature")


@dataclass(frozen=True)
class InBatchSoftmax:
    """Softmax over the items of the batch; other positives of the query are masked.

    Args:
        temperature: divides the scores.
        hard_negatives: number of hard negatives added for each pair; 0 for none.
        mine_from: hard negatives are drawn from about this many nearest items.
        correction: popular items are in more batches; "logq" (Yi et al. 2019) corrects for that.
        uniform_negatives: number of items drawn uniformly from the catalogue and added to each batch (Yang
            et al. 2020).
    """

    kind: Literal["in_batch_softmax"]
    temperature: float = 0.05
    hard_negatives: int = 0
    mine_from: int = 40
    correction: Correction = "none"
    uniform_negatives: int = 0

    def __post_init__(self) -> None:
        above_zero(self, "temperature")
        at_least(0, self, "hard_negatives", "uniform_negatives")
        refuse_unused(self, {"hard_negatives above 0": (self.hard_negatives > 0, ("mine_from",))})
        at_least(max(1, self.hard_negatives), self, "mine_from")
        if self.correction != "none" and self.hard_negatives:
            raise ValueError(
                f'correction: expected "none" with hard_negatives, which no known probability draws,'
                f' got "{self.correction}"'
            )


@dataclass(frozen=True)
class SampledSoftmax:
    """Softmax over one positive and a few random negatives (Huang et al. 2013, equation 5).

    Args:
        gamma: smoothing factor of the paper: multiplies the scores.
        negatives: number of negatives of each pair, drawn from the items of the batch.
    """

    kind: Literal["sampled_softmax"]
    gamma: float = 10.0
    negatives: int = 4

    def __post_init__(self) -> None:
        above_zero(self, "gamma")
        at_least(1, self, "negatives")


@dataclass(frozen=True)
class Bce:
    """Binary cross-entropy of pairs that the data label, which must include negatives."""

    kind: Literal["bce"]


LossConfig = FullSoftmax | InBatchSoftmax | SampledSoftmax | Bce


def learns_from_negatives(loss: LossConfig) -> bool:
    """Whether training reads all labelled pairs of the data, not the positive ones alone."""
    return isinstance(loss, Bce)
