"""`[bench]`: the measurements of `make bench`."""

from dataclasses import dataclass

from twinspire.train.config.checks import above_zero, at_least


@dataclass(frozen=True)
class BenchConfig:
    """The benchmark of a bundle; no cached run or bundle depends on it.

    Args:
        threads: thread counts at which the towers are measured; 0 is all cores.
        batches: batch sizes, in records.
        iterations: most timed calls of each backend at one batch size and kind of input; fewer once the
            intervals of the medians are narrow.
        cell_seconds: seconds for these calls of both backends, after which two are enough.
        loads: fresh processes that load the bundle; the benchmark reports their median.
        seed: of the draws.
    """

    threads: tuple[int, ...] = (1, 0)
    batches: tuple[int, ...] = (1, 8, 32, 256)
    iterations: int = 300
    cell_seconds: float = 3.0
    loads: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("threads", 0), ("batches", 1)):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values) or min(values) < least:
                raise ValueError(f"{name}: expected different numbers from {least} on, got {list(values)}")
        if 1 not in self.threads or 1 not in self.batches:
            raise ValueError("threads, batches: expected 1 among both; the main figures are measured there")
        at_least(1, self, "iterations", "loads")
        at_least(0, self, "seed")
        above_zero(self, "cell_seconds")
