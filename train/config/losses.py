"""`[loss]`: what is minimised."""

from dataclasses import dataclass
from typing import Literal

from train.config.checks import above_zero, at_least


@dataclass(frozen=True)
class InBatchSoftmax:
    """Softmax over the items of the batch, repeated positives masked.

    Args:
        temperature: divides the cosines.
        hard_negatives: mined negatives added for each query; 0 for none.
        mine_from: negatives are drawn from this many nearest items.
    """

    kind: Literal["in_batch_softmax"]
    temperature: float = 0.05
    hard_negatives: int = 0
    mine_from: int = 40

    def __post_init__(self) -> None:
        above_zero(self, "temperature")
        at_least(0, self, "hard_negatives")
        at_least(max(1, self.hard_negatives), self, "mine_from")


@dataclass(frozen=True)
class SampledSoftmax:
    """Huang et al. 2013, equation 3: one positive and a few random negatives, smoothed by gamma."""

    kind: Literal["sampled_softmax"]
    gamma: float = 10.0
    negatives: int = 4

    def __post_init__(self) -> None:
        above_zero(self, "gamma")
        at_least(1, self, "negatives")
