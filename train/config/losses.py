"""`[loss]`: the loss that training minimises, one class for each `kind`.

The losses are computed by `train/losses/`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from train.config.checks import above_zero, at_least, refuse_unused

Correction = Literal["none", "logq", "khrylchenko"]


@dataclass(frozen=True)
class FullSoftmax:
    """Softmax over all items of training pairs, for catalogues that fit into a training step.

    Items of the query's history are masked.

    Args:
        temperature: divides the scores.
        label_smoothing: share of the target that is spread evenly over all items.
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
    """Softmax over the items of the batch; other positives of the query are masked.

    Args:
        temperature: divides the scores.
        hard_negatives: number of hard negatives added for each pair; 0 for none.
        mine_from: hard negatives are drawn from this many nearest items.
        drop_above: from the second epoch on, items that score higher than this share of the pair's own item
            are no hard negatives; .95 is usual, 0 keeps all.
        correction: popular items are in more batches. "logq" (Yi et al. 2019) corrects for that;
            "khrylchenko" (Khrylchenko et al. 2025) also takes into account that the positive is in every
            batch.
        uniform_negatives: number of items drawn uniformly from the catalogue and added to each batch (Yang
            et al. 2020).
    """

    kind: Literal["in_batch_softmax"]
    temperature: float = 0.05
    hard_negatives: int = 0
    mine_from: int = 40
    drop_above: float = 0.0
    correction: Correction = "none"
    uniform_negatives: int = 0

    def __post_init__(self) -> None:
        above_zero(self, "temperature")
        at_least(0, self, "hard_negatives", "uniform_negatives")
        refuse_unused(
            self, {"hard_negatives above 0": (self.hard_negatives > 0, ("mine_from", "drop_above"))}
        )
        if not 0 <= self.drop_above <= 1:
            raise ValueError(f"drop_above: expected 0 to 1, got {self.drop_above}")
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
        within: name of a feature of the items, of kind `category`, with one value for each: the negatives of
            a pair have the value of its own item, as far as the batch has such items (Elkahky et al. 2015
            draw them so). Values are compared as they stand in the data. Empty draws from all items.
    """

    kind: Literal["sampled_softmax"]
    gamma: float = 10.0
    negatives: int = 4
    within: str = ""

    def __post_init__(self) -> None:
        above_zero(self, "gamma")
        at_least(1, self, "negatives")


@dataclass(frozen=True, kw_only=True)
class SampledNegatives:
    """Base of the losses that compare each pair with items sampled for it.

    Args:
        negatives: number of items sampled for each pair.
        sampling: `uniform` draws from the catalogue evenly, `popularity` by popularity, `hard` from the
            items that the model ranks high.
        alpha: with `popularity`, an item is drawn in proportion to share^alpha (Mikolov et al. 2013).
        mine_from: with `hard`, negatives are drawn from this many nearest items.
    """

    _min_negatives: ClassVar[int] = 1

    negatives: int = 4
    sampling: Literal["uniform", "popularity", "hard"] = "uniform"
    alpha: float = 0.75
    mine_from: int = 40

    def __post_init__(self) -> None:
        at_least(self._min_negatives, self, "negatives")
        conditions = {
            "negatives above 0": (self.negatives > 0, ("sampling",)),
            'sampling = "popularity"': (self.sampling == "popularity", ("alpha",)),
            'sampling = "hard"': (self.sampling == "hard", ("mine_from",)),
        }
        at_least(0, self, "alpha")
        at_least(max(1, self.negatives) if self.sampling == "hard" else 1, self, "mine_from")
        refuse_unused(self, conditions)


@dataclass(frozen=True)
class Bce(SampledNegatives):
    """Binary cross-entropy of positive pairs and sampled negatives, or of pairs that the data labels.

    Args:
        negatives: 0 trains on the pairs of the data alone, whose labels must include negatives.
        positive_weight: multiplies the loss of positive pairs.
        focal_gamma: above 0, focal loss (Lin et al. 2017, equation 5).
    """

    _min_negatives: ClassVar[int] = 0

    kind: Literal["bce"]
    positive_weight: float = 1.0
    focal_gamma: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero(self, "positive_weight")
        at_least(0, self, "focal_gamma")


@dataclass(frozen=True)
class Hinge(SampledNegatives):
    """A positive must score above each sampled item by a margin (Ying et al. 2018, equation 1).

    Args:
        margin: in units of the scores.
    """

    kind: Literal["hinge"]
    margin: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero(self, "margin")


@dataclass(frozen=True)
class Bpr(SampledNegatives):
    """Bayesian personalised ranking (Rendle et al. 2009)."""

    kind: Literal["bpr"]


LossConfig = FullSoftmax | InBatchSoftmax | SampledSoftmax | Bce | Hinge | Bpr


def learns_from_negatives(loss: LossConfig) -> bool:
    """Whether training reads all labelled pairs of the data, not the positive ones alone."""
    return isinstance(loss, Bce) and loss.negatives == 0
