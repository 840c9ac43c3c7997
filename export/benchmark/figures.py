"""The figures of a bundle's latency, under the names that MLflow, manifest and reports share.

    query_tower_b1_p50_us     the served tower at batch 1, on the threads of `[export]`, on real records
    torch_b1_p50_us           the query tower in torch; item_tower_torch_b1_p50_us
    torch_over_onnx_b1        p50 of torch over that of the served tower; item_torch_over_onnx_b1

There are also p95 and p99. The 95 % intervals are those of a bootstrap: calls of one turn ran under the same
load of the machine, so it draws whole turns, and the same turns for all contenders that ran side by side
(Efron 1979, percentile method; Künsch 1989, blocks).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from twinspire.protos.features import Side
from twinspire.protos.system.timing import Times
from twinspire.train.evaluation.intervals import Interval

TORCH = "torch"
SERVED = "served"  # the ONNX file in the bundle
PERCENTILES = (50, 95, 99)
DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True)
class Figures:
    """Named figures: all values, and those that have an interval with it."""

    metrics: dict[str, float] = field(default_factory=dict)
    estimates: dict[str, Interval] = field(default_factory=dict)

    def add(self, name: str, estimate: Interval) -> None:
        """Add a figure with its interval."""
        self.metrics[name] = estimate.mean
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
                    self.add(figure, Interval(value, *ends))
        start = "" if side == "query" else "item_"
        self.add(f"{start}{TORCH}_over_onnx_b{batch}", ratio(taken[TORCH], taken[SERVED]))
        return summaries


def latency_summary(times: Times) -> dict[str, Any]:
    """Statistics of a backend's calls, the 95 % intervals of p50 and p99, and the number of calls.

    Args:
        times: microseconds, (turns, calls).
    """
    median, high = percentile(times, 50), percentile(times, 99)
    return {
        **{f"p{p}_us": float(np.percentile(times, p)) for p in PERCENTILES},
        "iterations": times.size,
        "p50_interval_us": [median.low, median.high],
        "p99_interval_us": [high.low, high.high],
    }


def percentile(times: Times, percent: float) -> Interval:
    """A percentile of a contender's calls (turns, calls), in the unit of `times`."""
    return _within(float(np.percentile(times, percent)), _bootstrap(times, percent))


def ratio(over: Times, under: Times) -> Interval:
    """The median of one contender divided by that of another, both (turns, calls) of the same turns."""
    draws = _bootstrap(over, 50) / _bootstrap(under, 50)
    return _within(float(np.median(over) / np.median(under)), draws)


def _bootstrap(times: Times, percent: float) -> Times:
    """The percentile of all calls in each draw of turns, (draws,); the turns are always the same."""
    turns = np.random.default_rng(0).integers(0, len(times), (DRAWS, len(times)))
    return np.asarray(np.percentile(times[turns].reshape(DRAWS, -1), percent, axis=1))


def _within(value: float, draws: Times) -> Interval:
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(value, min(value, float(low)), max(value, float(high)))
