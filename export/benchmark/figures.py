"""The figures of `bench`, under the names that MLflow, manifest and reports share.

    query_tower_b1_p50_us             the served tower at batch 1, on one thread (in a manifest: on the
                                      threads of `[export]`), on real records
    torch_b1_p50_us                   the query tower in torch; item_tower_torch_b1_p50_us
    query_tower_b1_all_cores_p50_us   at another thread budget
    torch_over_onnx_b1                p50 of torch over that of the served tower

There are also p95, p99 and mean (`_us`), and `records_per_s`. All are of real records.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twinspire.export.benchmark.estimate import Estimate, percentile, ratio
from twinspire.protos.bundle import Manifest, Variant
from twinspire.protos.features import Side
from twinspire.protos.system.timing import Times
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import TrainingData

TORCH = "torch"
SERVED = "served"  # the ONNX file in the bundle
PERCENTILES = (50, 95, 99)
STATISTICS = ("p50_us", "p95_us", "p99_us", "mean_us", "records_per_s")
UNITS = {"_us": "µs", "_s": "s"}


@dataclass(frozen=True)
class LatencyCase:
    """One tower at one thread budget and batch size, in records; 0 threads are all cores."""

    side: Side
    threads: int
    batch: int


@dataclass(frozen=True)
class Figures:
    """Named figures: all values, and those that have an interval with it."""

    metrics: dict[str, float] = field(default_factory=dict)
    estimates: dict[str, Estimate] = field(default_factory=dict)

    def add(self, name: str, estimate: Estimate) -> None:
        """Add a figure with its interval."""
        self.metrics[name] = estimate.value
        self.estimates[name] = estimate

    def add_case(self, case: LatencyCase, taken: Mapping[str, Times], seed: int) -> dict[str, dict[str, Any]]:
        """Add all figures of one case of a tower, of which each backend took microseconds (turns, calls).

        Returns:
            backend -> `latency_summary`.
        """
        summaries = {name: latency_summary(times, case.batch, seed) for name, times in taken.items()}
        for name, summary in summaries.items():
            prefix = _prefix(case, name)
            self.metrics.update({f"{prefix}_{each}": summary[each] for each in STATISTICS})
            for each in ("p50", "p99"):
                ends = summary[f"{each}_interval_us"]
                self.add(f"{prefix}_{each}_us", Estimate(summary[f"{each}_us"], *ends))
        side = "" if case.side == "query" else "item_"
        self.add(f"{side}{TORCH}_over_onnx{_suffix(case)}", ratio(taken[TORCH], taken[SERVED], seed))
        return summaries


def latency_summary(times: Times, batch: int, seed: int) -> dict[str, Any]:
    """Statistics of a backend's calls, the 95 % intervals of p50 and p99, and the number of calls.

    Args:
        times: microseconds, (turns, calls).
        batch: records in each call.
        seed: of the bootstrap.
    """
    mean = float(times.mean())
    median, high = percentile(times, 50, seed), percentile(times, 99, seed)
    return {
        **{f"p{p}_us": float(np.percentile(times, p)) for p in PERCENTILES},
        "mean_us": mean,
        "records_per_s": 1e6 * batch / mean,
        "iterations": times.size,
        "p50_interval_us": [median.low, median.high],
        "p99_interval_us": [high.low, high.high],
    }


def shown(name: str, value: float) -> str:
    """A time or a ratio with its unit and about four digits."""
    symbol = next((symbol for end, symbol in UNITS.items() if name.endswith(end)), "")
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}" + (f" {symbol}" if symbol else "")


def _suffix(case: LatencyCase) -> str:
    """Batch size and thread budget; one thread is not named."""
    threads = f"_{case.threads}_threads" if case.threads else "_all_cores"
    return f"_b{case.batch}" + ("" if case.threads == 1 else threads)


def _prefix(case: LatencyCase, backend: str) -> str:
    tower = f"{case.side}_tower"
    if backend != SERVED:
        tower = TORCH if case.side == "query" else f"{tower}_{backend}"
    return tower + _suffix(case)


class MeasuredBundle(NamedTuple):
    """A verified bundle and its experiment, whose `[bench]` are the settings.

    `data` loads the data; it is called only where the towers are measured.
    """

    folder: Path
    manifest: Manifest
    experiment: Experiment
    data: Callable[[], TrainingData]

    def variant(self, side: Side) -> Variant:
        """The variant of a tower in the bundle."""
        own = self.manifest.precision
        return own.query if side == "query" else own.item
