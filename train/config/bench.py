"""`[bench]`: what `make bench` measures, how long it takes over it, and what must not be exceeded."""

import math
from dataclasses import dataclass, field

from train.config.checks import above_zero, at_least


@dataclass(frozen=True)
class BenchConfig:
    """The benchmark of a bundle; no run and no bundle follows from it.

    Args:
        threads: budgets that the towers are measured at, each in turn; 0 is all cores.
        batches: records in a call.
        iterations: timed calls of each backend. At batches of up to 8 on one thread all of them are made.
        fewest: timed calls that are made elsewhere, however long they take.
        cell_seconds: that the calls of all backends at one batch size and kind of input may take, before
            `fewest` are thought enough; ten times as long at batches of up to 8.
        compiled: measure `torch.compile`, too, where it works; compiling takes most of a minute.
        loads: fresh processes that load the bundle, of which the median counts.
        build_items: items that the index is built over, next to a bare one; all if there are fewer.
        build_rounds: builds of each.
        seed: of what is drawn, and of the bootstraps.
        budgets: figure -> bound, such as `query_tower_b1_p99_us = 200.0`; a time or a ratio by its name in
            the JSON document.
    """

    threads: tuple[int, ...] = (1, 0)
    batches: tuple[int, ...] = (1, 8, 32, 256)
    iterations: int = 300
    fewest: int = 20
    cell_seconds: float = 3.0
    compiled: bool = True
    loads: int = 5
    build_items: int = 5_000
    build_rounds: int = 5
    seed: int = 0
    budgets: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("threads", 0), ("batches", 1)):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values) or min(values) < least:
                raise ValueError(f"{name}: expected different numbers from {least} on, got {list(values)}")
        if 1 not in self.threads or 1 not in self.batches:
            raise ValueError("threads, batches: expected 1 among both; the main figures are measured there")
        at_least(1, self, "iterations", "fewest", "loads", "build_rounds")
        at_least(100, self, "build_items")
        at_least(0, self, "seed")
        above_zero(self, "cell_seconds")
        if self.fewest > self.iterations:
            raise ValueError(f"fewest: expected at most iterations, {self.iterations}, got {self.fewest}")
        for name, bound in self.budgets.items():
            if not 0 < bound < math.inf:
                raise ValueError(f"budgets.{name}: expected a number above 0, got {bound}")
