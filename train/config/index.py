"""`[index]`: how items are found, and what the tuner may choose."""

from dataclasses import dataclass, fields
from typing import Literal

from train.config.checks import above_zero, at_least


@dataclass(frozen=True)
class IndexConfig:
    """HNSW (Malkov and Yashunin 2018), or exact search where that is no slower.

    What is set is kept; what is left out the tuner chooses by measurement, at the least time of a query.

    Args:
        m: links of a node; 0 leaves it to the tuner.
        ef_construction: width of the search while building; 0 leaves it to the tuner.
        recall_target: ef_search is the smallest that reaches this recall@k against exact search.
        latency_budget_us: microseconds that a search may take, of one query on one thread. If set, the best
            recall within them is taken, and `recall_target` is a floor that is reported, not a reason to
            break the budget.
        sample: items that graphs of different m and ef_construction are compared on.
        search: `auto` compares with every item where that is no slower than the graph; `graph` and `exact`
            settle it.
        k: at which recall is measured.
        seed: of the level draw, and of the samples.
        threads: of the build; 0 takes all cores. 1 makes a graph reproducible byte for byte once m and
            ef_construction are set; the tuner's choice of those follows from times, which never repeat.
    """

    m: int = 0
    ef_construction: int = 0
    recall_target: float = 0.98
    latency_budget_us: float | None = None
    sample: int = 20_000
    search: Literal["auto", "graph", "exact"] = "auto"
    k: int = 10
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        if self.m:
            at_least(2, self, "m")
        if self.ef_construction:
            at_least(1, self, "ef_construction")
        if not 0 < self.recall_target <= 1:
            raise ValueError(f"recall_target: expected above 0 and at most 1, got {self.recall_target}")
        if self.latency_budget_us is not None:
            above_zero(self, "latency_budget_us")
        at_least(1000, self, "sample")
        at_least(1, self, "k")
        at_least(0, self, "seed", "threads")
        _refuse_idle(self)


def _refuse_idle(config: IndexConfig) -> None:
    """Refuse a key that was set but would change nothing, for want of what it belongs to."""
    asked = config.search != "exact"
    swept = not (config.m and config.ef_construction)
    conditions = {
        'search = "auto" or "graph"': (asked, ("m", "ef_construction", "latency_budget_us", "sample")),
        "m or ef_construction left to the tuner": (swept, ("sample",)),
    }
    defaults = {each.name: each.default for each in fields(config)}
    for condition, (holds, names) in conditions.items():
        for name in names:
            if not holds and getattr(config, name) != defaults[name]:
                raise ValueError(f"{name}: goes with {condition}; leave it out, it would change nothing")
