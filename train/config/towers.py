"""`[tower]`: what a query and an item become vectors by."""

from dataclasses import dataclass, fields
from typing import Literal

from train.config.checks import above_zero, at_least

LONGEST_NGRAM = 16  # symbols; of more a hash has too few multipliers to choose from


@dataclass(frozen=True)
class BagTower:
    """Hashed words and character n-grams with learned weights; the default for text.

    It starts as TF-IDF brought down to D dimensions, and its residual part at zero, so learning only adds
    to that.

    Args:
        dimension: D, of the vectors.
        latent: of these, how many start as latent semantic analysis of the items (Deerwester et al. 1990);
            the others start as a random projection of what that leaves over.
        orders: lengths of the character n-grams, `#` at word boundaries included.
        words: whole words are hashed too.
        buckets: rows of the hashed table.
        query_hidden: width of the query tower's residual multilayer part; 0 leaves it out.
        item_hidden: the same for the item tower, which runs once an item and can afford more.
    """

    kind: Literal["bag"]
    dimension: int = 512
    latent: int = 128
    orders: tuple[int, ...] = (3,)
    words: bool = True
    buckets: int = 65_536
    query_hidden: int = 0
    item_hidden: int = 1024

    def __post_init__(self) -> None:
        at_least(1, self, "dimension")
        at_least(2, self, "buckets")
        at_least(0, self, "query_hidden", "item_hidden")
        if not 0 <= self.latent <= self.dimension:
            raise ValueError(f"latent: expected 0 to dimension = {self.dimension}, got {self.latent}")
        _check_orders(self.orders, self.words)


@dataclass(frozen=True)
class DssmTower:
    """Huang et al. 2013, section 3: letter-trigram counts, two tanh layers and a tanh output layer.

    Args:
        dimension: D, of the vectors; the paper's is 128.
        orders: lengths of the letter n-grams; the paper's is 3.
        buckets: rows of the hashed table; the paper counts 30,621 distinct trigrams.
        hidden: widths of the layers before the last.
    """

    kind: Literal["dssm"]
    dimension: int = 128
    orders: tuple[int, ...] = (3,)
    buckets: int = 32_768
    hidden: tuple[int, ...] = (300, 300)

    def __post_init__(self) -> None:
        at_least(1, self, "dimension")
        at_least(2, self, "buckets")
        _check_orders(self.orders, words=False)
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(
                f"hidden: expected at least one number, each at least 1, got {list(self.hidden)}"
            )


@dataclass(frozen=True)
class SequenceTower:
    """A history as the query: what came in which order; the default for recommendation.

    A vector has `latent` coordinates of EASE (Steck 2019), if that is above 0, and `dimension` learned
    ones. EASE's item-item matrix, cut by a singular value decomposition, is itself a linear two-tower
    model: the query is the sum of the history's left factors, the item is its right factors. The tower
    starts there, and what it learns is added.

    Args:
        history: `attention` is causal self-attention (SASRec, Kang and McAuley 2018); `mean` the mean of
            the items, weighted by how long ago each was; `sum` such a sum over a table of the query's
            own, which starts at zero; `latent` leaves it to EASE's coordinates.
        dimension: learned coordinates, and the width of the shared item table.
        layers: of the attention.
        heads: of the attention; they divide the dimension.
        dropout: inside the attention.
        input_dropout: of the history's embedded items, before the attention.
        query_dropout: of the query's learned coordinates.
        history_dropout: of each history in a step, up to this share of its items is left out.
        latent: coordinates that start as EASE; 0 for none.
        regularisation: lambda of the EASE that it starts as.
        latent_scale: what EASE's scores are multiplied by at the start, to be logits.
        decay: how much the logarithm of an item's weight in a sum falls with each item that came after
            it, at the start.
        id_dropout: share of the items that a step takes for unknown ones, so that content places them.
        id_dropout_alpha: items are drawn for that by their interactions to this power. 0 draws all alike,
            and content says how popular an item is on average, which for most is hardly; 1 draws them as
            often as they are met, and a new item is taken for one that people care for.
        newcomers: where items go that training has not seen: `fitted` regresses the learned vectors on
            content once training is over; `learned` leaves it to `id_dropout`.
        newcomers_alpha: with `fitted`, an item counts by its interactions to this power; the higher, the
            more popular a newcomer is taken to be.
        newcomers_strength: with `fitted`, lambda of the ridge regression.
        item_hidden: width of the item tower's residual multilayer part; 0 leaves it out.
        buckets: rows of the hashed table of texts.
        orders: lengths of the character n-grams of texts.
        words: whole words of texts are hashed too.
        similarity: `inner_product` lets items differ in length, `cosine` does not.
    """

    kind: Literal["sequence"]
    history: Literal["attention", "mean", "sum", "latent"] = "attention"
    dimension: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.3
    input_dropout: float = 0.5
    query_dropout: float = 0.0
    history_dropout: float = 0.0
    latent: int = 0
    regularisation: float = 300.0
    latent_scale: float = 12.0
    decay: float = 0.0
    id_dropout: float = 0.0
    id_dropout_alpha: float = 0.0
    newcomers: Literal["fitted", "learned"] = "fitted"
    newcomers_alpha: float = 1.0
    newcomers_strength: float = 10.0
    item_hidden: int = 0
    buckets: int = 8192
    orders: tuple[int, ...] = (3,)
    words: bool = True
    similarity: Literal["inner_product", "cosine"] = "inner_product"

    def __post_init__(self) -> None:
        at_least(1, self, "dimension", "layers", "heads")
        at_least(0, self, "latent", "item_hidden", "decay", "id_dropout_alpha")
        at_least(2, self, "buckets")
        above_zero(self, "regularisation", "latent_scale", "newcomers_strength")
        at_least(0, self, "newcomers_alpha")
        if self.newcomers == "fitted" and self.id_dropout:
            raise ValueError('newcomers: "fitted" places new items without id_dropout; choose one of them')
        _refuse_idle(self)
        if self.history == "latent" and not self.latent:
            raise ValueError('latent: expected at least 1 with history = "latent", got 0')
        if self.history == "attention" and self.dimension % self.heads:
            raise ValueError(f"heads: expected a divisor of dimension = {self.dimension}, got {self.heads}")
        for name in ("dropout", "input_dropout", "query_dropout", "history_dropout", "id_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 0 to below 1, got {getattr(self, name)}")
        _check_orders(self.orders, self.words)


def _check_orders(orders: tuple[int, ...], words: bool) -> None:
    """Refuse lengths of n-grams that a text cannot be hashed by."""
    if not (orders or words) or not all(1 <= order <= LONGEST_NGRAM for order in orders):
        raise ValueError(f"orders: expected lengths of 1 to {LONGEST_NGRAM}, got {list(orders)}")


def _refuse_idle(tower: SequenceTower) -> None:
    """Refuse a key that was set but would change nothing, for want of what it belongs to."""
    attention, fitted = tower.history == "attention", tower.newcomers == "fitted"
    conditions = {
        'history = "attention"': (attention, ("layers", "heads", "dropout", "input_dropout")),
        "latent above 0": (tower.latent > 0, ("regularisation", "latent_scale")),
        "a sum over the history": (tower.latent > 0 or tower.history in ("mean", "sum"), ("decay",)),
        "id_dropout above 0": (tower.id_dropout > 0, ("id_dropout_alpha",)),
        'newcomers = "fitted"': (fitted, ("newcomers_alpha", "newcomers_strength")),
    }
    defaults = {each.name: each.default for each in fields(tower)}
    for condition, (holds, names) in conditions.items():
        for name in names:
            if not holds and getattr(tower, name) != defaults[name]:
                raise ValueError(f"{name}: goes with {condition}; leave it out, it would change nothing")


@dataclass(frozen=True)
class SharedTower:
    """One tower for both sides, and a linear layer over the elementwise product of its two vectors.

    The score is sigmoid(w . (q * d) + b). The weights are folded into the query's vector, so that it is
    an inner product that is searched, and the same score that is served.

    Args:
        dimension: D, of the vectors before the product.
        hidden: widths of the shared layers before the last.
        orders: lengths of the letter n-grams of texts.
        words: whole words of texts are hashed too.
        buckets: rows of the hashed table of texts.
    """

    kind: Literal["shared"]
    dimension: int = 64
    hidden: tuple[int, ...] = (128,)
    orders: tuple[int, ...] = (3,)
    words: bool = True
    buckets: int = 8192

    def __post_init__(self) -> None:
        at_least(1, self, "dimension")
        at_least(2, self, "buckets")
        if min(self.hidden, default=1) < 1:
            raise ValueError(f"hidden: expected numbers of at least 1, got {list(self.hidden)}")
        _check_orders(self.orders, self.words)


TowerConfig = BagTower | DssmTower | SequenceTower | SharedTower
