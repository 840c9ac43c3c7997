"""What a call takes, query by query, on a machine that others use, too.

A call in a hundred is interrupted, and the 99th percentile of single calls would be that of interruptions.
So each query is timed several times, at different moments, and its median counts, as in serving/turns.py.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Call = Callable[[int], object]

PASSES = 5  # calls of a query, of which the median counts
WARM_UP = 20  # calls at most
WARM_UP_SECONDS = 1.0
FEWEST = 10  # calls a pass, however long they take


@dataclass(frozen=True)
class Timed:
    """Calls that were timed.

    Args:
        micro: float64 (calls,), microseconds of each: the median of its passes.
        on_processor: share of the time that this thread had a processor for; above 1 if there were others.
    """

    micro: npt.NDArray[np.float64]
    on_processor: float

    def told(self, batch: int = 1) -> dict[str, Any]:
        """`p50_us`, `p99_us`, `queries_per_s`, and what they rest on; of calls of `batch` queries."""
        return {
            "batch": batch,
            "calls": len(self.micro),
            "passes": PASSES,
            "p50_us": float(np.percentile(self.micro, 50)),
            "p99_us": float(np.percentile(self.micro, 99)),
            "queries_per_s": 1e6 * batch / float(self.micro.mean()),
            "on_processor": self.on_processor,
        }


def timed(call: Call, calls: int, seconds: float) -> Timed:
    """Time `call(0)`, `call(1)` and so on, again and again.

    Args:
        calls: different ones that there are.
        seconds: that all passes may take, as far as warm-up can tell; fewer calls are made if need be.
    """
    count = min(calls, max(FEWEST, int(seconds / PASSES / _warmed_up(call, calls))))
    taken = np.empty((PASSES, count))
    began, on_processor = time.perf_counter(), time.process_time()
    for pass_ in range(PASSES):
        for n in range(count):
            begun = time.perf_counter_ns()
            call(n)
            taken[pass_, n] = time.perf_counter_ns() - begun
    share = (time.process_time() - on_processor) / (time.perf_counter() - began)
    return Timed(np.median(taken, axis=0) / 1000, share)


def _warmed_up(call: Call, calls: int) -> float:
    """Seconds that a call takes once it is warm: the shortest seen."""
    shortest, until = float("inf"), time.perf_counter() + WARM_UP_SECONDS
    for n in range(WARM_UP):
        begun = time.perf_counter()
        call(n % calls)
        now = time.perf_counter()
        shortest = min(shortest, now - begun)
        if n > 1 and now > until:
            break
    return shortest
