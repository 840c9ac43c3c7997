"""What goes into a bundle: `[export]`, `[precision]` and `[hybrid]`; `[index]` is in `index.py`."""

from dataclasses import dataclass
from typing import Literal

from twinspire.protos.bundle import TableVariant
from twinspire.train.config.checks import above_zero, at_least, below_one, refuse_unused


@dataclass(frozen=True)
class ExportConfig:
    """`[export]`: the export of the towers to ONNX.

    Args:
        parity_tolerance: largest difference between torch and ONNX Runtime in any coordinate of a vector.
        threads: intra-op threads of ONNX Runtime and torch where the latency is measured; 0 takes all cores.
        iterations: most timed calls of a tower, in ONNX Runtime and in torch, at each batch size; fewer once
            the intervals of the medians are narrow, or after 3 s for the tower, 10 s in a bench.
    """

    parity_tolerance: float = 1e-5
    threads: int = 1
    iterations: int = 300

    def __post_init__(self) -> None:
        above_zero(self, "parity_tolerance")
        at_least(0, self, "threads")
        at_least(1, self, "iterations")


@dataclass(frozen=True)
class PrecisionConfig:
    """`[precision]`: variants of the towers; what is tried is compared with float32 on the validation part.

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
        below_one(self, "max_loss")
        automatic = "auto" in (self.query, self.item)
        refuse_unused(self, {'"auto" for query or item': (automatic, ("max_loss",))})


@dataclass(frozen=True)
class HybridConfig:
    """`[hybrid]`: a lexical index in the bundle, for queries with a text.

    It needs a text on both sides, scores that are cosines, and no histories. Its lexical score, BM25 or
    TF-IDF, and the weight of that are chosen on validation queries. `[baselines] analyzer` says how texts
    are split.

    Args:
        enabled: `auto` takes it into the bundle if it is better than the towers alone on the validation
            queries, as `export/hybrid/choose.py` says; `true` always does, and fails where it cannot; without
            enough validation queries BM25 has the weight 1/2. `false` never does.
    """

    enabled: Literal["auto", True, False] = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, str | bool):
            raise ValueError(f'enabled: expected "auto", true or false, got {self.enabled!r}')
