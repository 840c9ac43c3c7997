"""`[loss]`: what is minimised."""

from dataclasses import dataclass
from typing import Literal

from train.config.checks import above_zero, at_least

Correction = Literal["none", "logq", "khrylchenko"]


@dataclass(frozen=True)
class FullSoftmax:
    """Softmax over all items of training pairs, those of the history masked; for what fits in a step.

    Args:
        temperature: divides the scores.
        label_smoothing: the part of the target that all items share.
    """

    kind: Literal["full_softmax"]
    temperature: float = 1.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        above_zero(self, "temperature")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected at least 0, below 1, got {self.label_smoothing}")


@dataclass(frozen=True)
class InBatchSoftmax:
    """Softmax over the items of the batch, repeated positives masked.

    Args:
        temperature: divides the scores.
        hard_negatives: mined negatives added for each query; 0 for none.
        mine_from: negatives are drawn from this many nearest items.
        correction: of popular items being in more batches: "logq" (Yi et al. 2019), or "khrylchenko"
            (Khrylchenko et al. 2025), which knows that the positive is always there.
        uniform_negatives: items drawn evenly from the catalogue and added to each batch (Yang et al. 2020).
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
        at_least(max(1, self.hard_negatives), self, "mine_from")
        if self.correction != "none" and self.hard_negatives:
            raise ValueError(
                f'correction: expected "none" with hard_negatives, which no known probability draws,'
                f' got "{self.correction}"'
            )


@dataclass(frozen=True)
class SampledSoftmax:
    """Huang et al. 2013, equation 3: one positive and a few random negatives, smoothed by gamma."""

    kind: Literal["sampled_softmax"]
    gamma: float = 10.0
    negatives: int = 4

    def __post_init__(self) -> None:
        above_zero(self, "gamma")
        at_least(1, self, "negatives")


@dataclass(frozen=True, kw_only=True)
class _Sampled:
    """Losses that set each pair against items sampled for it.

    Args:
        negatives: items sampled for each pair.
        sampling: evenly from the catalogue, by popularity, or from the items that the model ranks high.
        alpha: of popularity sampling, which draws items by share^alpha (Mikolov et al. 2013).
        mine_from: of hard sampling, which draws from this many nearest items.
    """

    negatives: int = 4
    sampling: Literal["uniform", "popularity", "hard"] = "uniform"
    alpha: float = 0.75
    mine_from: int = 40

    def __post_init__(self) -> None:
        at_least(self._fewest(), self, "negatives")
        at_least(0, self, "alpha")
        at_least(max(1, self.negatives) if self.sampling == "hard" else 1, self, "mine_from")

    def _fewest(self) -> int:
        return 1


@dataclass(frozen=True)
class Bce(_Sampled):
    """Binary cross-entropy of positive pairs and sampled ones, or of pairs labelled by the data.

    Args:
        negatives: 0 where the data's own negatives are all there is.
        positive_weight: multiplies the loss of positive pairs.
        focal_gamma: above 0, focal loss (Lin et al. 2017, equation 5).
    """

    kind: Literal["bce"]
    positive_weight: float = 1.0
    focal_gamma: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero(self, "positive_weight")
        at_least(0, self, "focal_gamma")

    def _fewest(self) -> int:
        return 0


@dataclass(frozen=True)
class Hinge(_Sampled):
    """The positive shall beat each sampled item by a margin (Ying et al. 2018, equation 1)."""

    kind: Literal["hinge"]
    margin: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero(self, "margin")


@dataclass(frozen=True)
class Bpr(_Sampled):
    """Bayesian personalised ranking (Rendle et al. 2009)."""

    kind: Literal["bpr"]


Loss = FullSoftmax | InBatchSoftmax | SampledSoftmax | Bce | Hinge | Bpr
