"""`[tower]`: the architecture of the query tower and the item tower, one class for each `kind`.

The towers are built by `train/models/architectures/`. A new kind is a class here, or in a module of its own,
and a part of `TowerConfig`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from twinspire.protos.features import FeatureSpec
from twinspire.protos.toml_config import FROM_DATA
from twinspire.train.config.checks import at_least, below_one
from twinspire.train.config.history_towers import ComirecTower, HistoryTower, SequenceTower
from twinspire.train.config.losses import Bce, InBatchSoftmax, LossConfig, SampledSoftmax
from twinspire.train.config.pretrained_tower import TransformerTower
from twinspire.train.config.tower_section import (
    TextHashing,
    TowerSection,
    check_orders,
    refuse_tokens,
)


@dataclass(frozen=True)
class BagTower(TextHashing):
    """Hashed words and character n-grams with learned weights; the default for text.

    The towers start as TF-IDF projected to D dimensions, and their residual layers start at zero. Keys that
    have no default here are chosen from the data where they are not set, see `train/models/defaults.py`.

    Args:
        dimension: D, the size of a vector.
        latent: number of dimensions that start as latent semantic analysis of the items (Deerwester et
            al. 1990); the others start as a random projection of the remainder.
        query_hidden: width of the query tower's residual layer; 0 leaves it out.
        item_hidden: width of the item tower's residual layer; 0 leaves it out. The item tower runs once for
            each item, so it can be wider.
    """

    kind: Literal["bag"]
    dimension: int = FROM_DATA
    latent: int = FROM_DATA
    query_hidden: int = 0
    item_hidden: int = FROM_DATA
    buckets: int = field(default=FROM_DATA, kw_only=True)

    usual_loss: ClassVar[LossConfig] = InBatchSoftmax("in_batch_softmax")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "dimension")
        at_least(0, self, "latent", "query_hidden", "item_hidden")
        given = FROM_DATA not in (self.latent, self.dimension)
        if given and not 0 <= self.latent <= self.dimension:
            raise ValueError(f"latent: expected 0 to dimension = {self.dimension}, got {self.latent}")


@dataclass(frozen=True)
class DssmTower(TowerSection):
    """Huang et al. 2013, section 3: letter-trigram counts, two tanh layers and a tanh output layer.

    Args:
        dimension: D, the size of a vector; 128 in the paper.
        orders: lengths of the letter n-grams; 3 in the paper.
        buckets: rows of the hashed table; the paper counts 30,621 distinct trigrams.
        hidden: widths of the layers before the last.
        characters: lengths of the n-grams of scripts without spaces, as of `bag`.
    """

    kind: Literal["dssm"]
    dimension: int = 128
    orders: tuple[int, ...] = (3,)
    buckets: int = 32_768
    hidden: tuple[int, ...] = (300, 300)
    characters: tuple[int, ...] = FROM_DATA

    usual_loss: ClassVar[LossConfig] = SampledSoftmax("sampled_softmax")

    def __post_init__(self) -> None:
        at_least(1, self, "dimension")
        at_least(2, self, "buckets")
        check_orders(self)
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(
                f"hidden: expected at least one number, each at least 1, got {list(self.hidden)}"
            )


@dataclass(frozen=True)
class ClicksTower(TextHashing):
    """Predicts whether an item is clicked, bought or liked: sigmoid(<u, v> + b_u + b_v + b).

    Each feature has a vector and a bias; u and b_u are their sums over the query's features, v and b_v over
    the item's. So the model is a factorisation machine (Rendle 2010) of which each side is one vector: the
    biases are one more coordinate, [u, b_u, 1] and [v, 1, b_v]. Histories of positive and of negative items
    are pooled together: their sum is divided by the number of items plus a learned constant, so that a short
    history says less (`train/models/architectures/clicks.py`). With an item feature of kind `id` biases
    start as item means of the labels, and with histories of both kinds as user means, too.

    Args:
        dimension: coordinates of u and v.
        crosses: add the products of features of the same side to its bias, as a factorisation machine does.
        hidden: width of a residual layer on each side; 0 leaves it out.
        dropout: dropout on u.
    """

    kind: Literal["clicks"]
    dimension: int = 16
    crosses: bool = False
    hidden: int = 0
    dropout: float = 0.2

    usual_loss: ClassVar[LossConfig] = Bce("bce")
    predicts_probability: ClassVar[bool] = True

    def check_features(self, query: Mapping[str, FeatureSpec], item: Mapping[str, FeatureSpec]) -> None:
        """Any features will do, but token ids.

        Raises:
            ValueError: a text is to be read as token ids; the text names the key.
        """
        refuse_tokens(query, item)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "dimension")
        at_least(0, self, "hidden")
        below_one(self, "dropout")


TowerConfig = (
    BagTower | DssmTower | SequenceTower | HistoryTower | ComirecTower | ClicksTower | TransformerTower
)
