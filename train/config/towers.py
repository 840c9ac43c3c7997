"""`[tower]`: what a query and an item become vectors by."""

from dataclasses import dataclass
from typing import Literal

from train.config.checks import at_least


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
        if min(self.orders, default=1) < 1 or not (self.orders or self.words):
            raise ValueError(f"orders: expected lengths of at least 1, got {list(self.orders)}")


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
        for name in ("orders", "hidden"):
            sizes = getattr(self, name)
            if not sizes or min(sizes) < 1:
                raise ValueError(f"{name}: expected at least one number, each at least 1, got {list(sizes)}")
