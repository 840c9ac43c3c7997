"""`[precision]`: the numeric precision of the towers, and the loss of quality that it may cost."""

from dataclasses import dataclass
from typing import Literal

from twinspire.protos.bundle import TableVariant
from twinspire.train.config.checks import at_least, refuse_unused


@dataclass(frozen=True)
class PrecisionConfig:
    """Variants of the towers; what is tried is compared with float32 on the validation part.

    Args:
        query: the query tower's variant, all of which compute in float32. `auto` takes the smallest within
            `max_loss`.
        item: the item tower's variant.
        max_loss: the largest mean fall of recall@10 and nDCG@10 over queries; 0.005 is half a point.
        queries: largest number of validation queries for measuring the fall.
        items: largest number of catalogue items to search: the relevant items, and a sample of the others.
            Fewer are encoded twice, and find smaller falls.
        seed: of the samples and of the draws.
    """

    query: Literal["auto", TableVariant] = "auto"
    item: Literal["auto", TableVariant] = "auto"
    max_loss: float = 0.005
    queries: int = 3_000
    items: int = 5_000
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, self, "queries", "items")
        at_least(0, self, "seed")
        if not 0 <= self.max_loss < 1:
            raise ValueError(f"max_loss: expected at least 0 and below 1, got {self.max_loss}")
        automatic = "auto" in (self.query, self.item)
        refuse_unused(self, {'"auto" for query or item': (automatic, ("max_loss",))})
