"""`[training]`: the training loop, and `[retrain]`: how `make retrain` trains a model on newer data."""

from dataclasses import dataclass
from typing import Literal

from twinspire.protos.toml_config import FROM_DATA
from twinspire.train.config.checks import above_zero, at_least
from twinspire.train.metrics import Selection

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class TrainingConfig:
    """The training loop.

    Where `batch_size` is not set, it is chosen from the number of training pairs, see
    `train/models/defaults.py`.

    Args:
        epochs: largest number of epochs.
        patience: stop after this many epochs in a row of which none was the best so far.
        batch_size: pairs in a step.
        learning_rate: peak learning rate of Adam; a linear warm-up leads to it, a cosine decay to 0 follows.
        seed: of everything random.
        threads: torch's threads; 0 takes OMP_NUM_THREADS, or all cores where it is not set.
        weight_decay: share of each weight that a step takes away, times the learning rate (AdamW, Loshchilov
            and Hutter 2019). All parameters with two or more dimensions decay: matrices and tables of
            embeddings, all rows of a table in each step, with the biases of features that are a column of
            them in the tower `clicks`. Those with one or none do not, such as the biases of layers.
            Embeddings need it where items have few events.
        average_epochs: the towers that are evaluated and kept have an exponential moving average of the
            weights (`train/models/optimiser.py`); its window, in epochs. The window is never more
            than a tenth of the steps done, so more than a tenth of `epochs` has no effect. 0 keeps the
            weights of the last step. With an average the best epoch is less a matter of chance where
            validation is small.
        selection: the validation metric that chooses the best epoch; `auc` and `log_loss` need labelled data,
            and `log_loss` a sigmoid: the tower `clicks`. An epoch whose recall or hit rate is within one
            query of the highest so far replaces the kept one if that is further below, or has a lower
            nDCG@10.
        device: where towers, mining and evaluation compute. `auto` takes `cuda` where there is a card, else
            `mps`, else `cpu`; several processes train on the CPU alone. It is not part of a run's key: a run
            that was begun on one device can be resumed on another.
        refit: after the best epoch is known, train new towers on training and validation pairs together for
            as many epochs, and keep these; if the best epoch is 0, they stay as they start. The weight of a
            linear model and the parameters of baselines stay as validation chose them; baselines are fitted
            to both parts, too. The weight of `[hybrid]` is chosen with the towers before. No test pair is
            learned. Not for towers that are calibrated on validation, nor with a split by "random".
    """

    epochs: int = 5
    patience: int = 2
    batch_size: int = FROM_DATA
    learning_rate: float = 1e-3
    seed: int = 0
    threads: int = 0
    selection: Selection = "recall_at_10"
    weight_decay: float = 0.0
    average_epochs: float = 0.0
    device: Device = "cpu"
    refit: bool = False

    def __post_init__(self) -> None:
        at_least(0, self, "epochs", "seed", "threads")
        at_least(0, self, "weight_decay", "average_epochs")
        at_least(1, self, "patience")
        at_least(2, self, "batch_size")
        above_zero(self, "learning_rate")


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
