"""One tower timed in several backends that take turns."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from export.benchmark.estimate import percentile
from export.benchmark.latency_inputs import Values, distinct_batches, with_lengths
from export.onnx.runtimes import Encode
from protos.features import Side, TowerInputs
from protos.system.timing import Effort, Times, take_turns

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class LatencyCase:
    """One tower at one thread budget, batch size and kind of input.

    Args:
        threads: 0 is all cores.
        kind: `as_is` are records of the test split, unchanged; `short` and `long` have texts of 20
            characters and of the longest text that the tower reads; `history_5` has histories of 5 items.
    """

    side: Side
    threads: int
    batch: int
    kind: str


def time_tower(
    case: LatencyCase, encoders: Mapping[str, Encode], inputs: TowerInputs, values: Values, effort: Effort
) -> dict[str, Times]:
    """Time all encoders of a tower on the same batches.

    The thread budget of torch and of each encoder is the caller's to set.

    Returns:
        backend -> microseconds of each call, (turns, calls).
    """
    batches = distinct_batches(inputs, with_lengths(inputs, values, case.kind), case.batch)
    contenders = {name: [partial(encode, each) for each in batches] for name, encode in encoders.items()}
    return {name: taken.wall for name, taken in take_turns(contenders, effort).items()}


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
