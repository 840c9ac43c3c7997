"""`[precision]`: the numeric precision of towers and vectors, and the loss of quality that it may cost."""

from dataclasses import dataclass
from typing import Literal

from protos.bundle import Precision, Variant
from train.config.checks import at_least, refuse_unused


@dataclass(frozen=True)
class PrecisionConfig:
    """Variants of the towers and vectors; each is compared with float32 on the validation part.

    Args:
        query: the query tower's variant. `auto` takes the fastest within `max_loss` of those that compute in
            float32. It never takes `int8_dynamic`, whose vectors depend on the other queries of the batch, or
            `int8_static`, whose vectors are inaccurate for inputs unlike the calibration records.
        item: the item tower's variant.
        vectors: precision of the item vectors on disk; `auto` takes the smallest within `max_loss`. All
            processes share mapped `fp32` vectors; each process converts other precisions to its own copy.
        max_loss: the largest mean fall of recall@10 and nDCG@10 over queries; 0.005 is half a point.
        queries: largest number of validation queries for measuring the fall.
        items: largest number of catalogue items to search: the relevant items, and a sample of the others.
        calibration: training records from which `int8_static` takes the value ranges of its layers' inputs.
        seed: of the samples and of the bootstraps.
    """

    query: Literal["auto", Variant] = "auto"
    item: Literal["auto", Variant] = "auto"
    vectors: Literal["auto", Precision] = "fp32"
    max_loss: float = 0.005
    queries: int = 3_000
    items: int = 20_000
    calibration: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, self, "queries", "items", "calibration")
        at_least(0, self, "seed")
        if not 0 <= self.max_loss < 1:
            raise ValueError(f"max_loss: expected at least 0 and below 1, got {self.max_loss}")
        settings = {self.query, self.item, self.vectors}
        towers = {self.query, self.item}
        conditions = {
            '"auto" for query, item or vectors': ("auto" in settings, ("max_loss",)),
            '"int8_static"': (bool({"auto", "int8_static"} & towers), ("calibration",)),
        }
        refuse_unused(self, conditions)
