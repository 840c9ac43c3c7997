"""The figures of a bundle's latency, under the names that MLflow, manifest and reports share.

    query_tower_b1_p50_us     the served tower at batch 1, on the threads of `[export]`, on real records
    torch_b1_p50_us           the query tower in torch; item_tower_torch_b1_p50_us
    torch_over_onnx_b1        p50 of torch over that of the served tower; item_torch_over_onnx_b1

There are also p95 and p99.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from twinspire.export.benchmark.estimate import Estimate, percentile, ratio
from twinspire.protos.features import Side
from twinspire.protos.system.timing import Times

TORCH = "torch"
SERVED = "served"  # the ONNX file in the bundle
PERCENTILES = (50, 95, 99)
SEED = 0  # of the bootstrap


@dataclass(frozen=True)
class Figures:
    """Named figures: all values, and those that have an interval with it."""

    metrics: dict[str, float] = field(default_factory=dict)
    estimates: dict[str, Estimate] = field(default_factory=dict)

    def add(self, name: str, estimate: Estimate) -> None:
        """Add a figure with its interval."""
        self.metrics[name] = estimate.value
        self.estimates[name] = estimate

    def add_tower(self, side: Side, batch: int, taken: Mapping[str, Times]) -> dict[str, dict[str, Any]]:
        """Add all figures of a tower at one batch size.

        Args:
            batch: records in each call.
            taken: backend -> microseconds, (turns, calls).

        Returns:
            backend -> `latency_summary`.
        """
        summaries = {name: latency_summary(times) for name, times in taken.items()}
        for name, summary in summaries.items():
            tower = f"{side}_tower" if name == SERVED else TORCH
            prefix = f"item_tower_{TORCH}" if (side, tower) == ("item", TORCH) else tower
            for percent in PERCENTILES:
                figure, value = f"{prefix}_b{batch}_p{percent}_us", summary[f"p{percent}_us"]
                self.metrics[figure] = value
                if ends := summary.get(f"p{percent}_interval_us"):
                    self.add(figure, Estimate(value, *ends))
        start = "" if side == "query" else "item_"
        self.add(f"{start}{TORCH}_over_onnx_b{batch}", ratio(taken[TORCH], taken[SERVED], SEED))
        return summaries


def latency_summary(times: Times) -> dict[str, Any]:
    """Statistics of a backend's calls, the 95 % intervals of p50 and p99, and the number of calls.

    Args:
        times: microseconds, (turns, calls).
    """
    median, high = percentile(times, 50, SEED), percentile(times, 99, SEED)
    return {
        **{f"p{p}_us": float(np.percentile(times, p)) for p in PERCENTILES},
        "iterations": times.size,
        "p50_interval_us": [median.low, median.high],
        "p99_interval_us": [high.low, high.high],
    }
