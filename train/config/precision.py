"""`[precision]`: in how many bits a bundle keeps its towers and vectors, and what that may cost."""

from dataclasses import dataclass, fields
from typing import Literal

from protos.bundle import Precision, Variant
from train.config.checks import at_least


@dataclass(frozen=True)
class PrecisionConfig:
    """Variants of towers and vectors, measured on the test part against float32.

    Args:
        query: the query tower's variant; `auto` is the fastest whose loss is within `max_loss`, of those
            that compute in float32. `int8_dynamic`, with which a vector depends on what else is in its batch,
            and `int8_static`, which is off where calibration has seen nothing like it, have to be asked for.
        item: the item tower's.
        vectors: precision of the item vectors on the disk; `auto` is the smallest within `max_loss`. Those in
            `fp32` are mapped, and shared by all processes; others each process brings back for itself.
        max_loss: how much recall@10 and nDCG@10 may fall, on average over queries; .005 is half a point.
        queries: of the test part that losses are measured on, at most.
        items: of the catalogue that they are searched among, at most: what is relevant, and a sample.
        calibration: training records that `int8_static` takes the range of its layers' inputs from.
        seed: of what is sampled, and of the bootstraps.
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
        default = {each.name: each.default for each in fields(self)}
        if "auto" not in (self.query, self.item, self.vectors) and self.max_loss != default["max_loss"]:
            raise ValueError(
                'max_loss: goes with "auto" for query, item or vectors; leave it out, it would change nothing'
            )
        if (
            not {"auto", "int8_static"} & {self.query, self.item}
            and self.calibration != default["calibration"]
        ):
            raise ValueError('calibration: goes with "int8_static"; leave it out, it would change nothing')
