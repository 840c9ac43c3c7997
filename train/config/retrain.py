"""`[retrain]`: how `make retrain` trains a model on newer data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RetrainConfig:
    """How often towers are also trained from scratch.

    Args:
        scratch_share: share of the retrainings in which towers are trained from scratch, too, beside those
            that begin with the champion's weights; with 0.2 it is every fifth. The better ones on validation
            go on.
    """

    scratch_share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.scratch_share <= 1:
            raise ValueError(f"scratch_share: expected a share of 0 to 1, got {self.scratch_share:g}")
