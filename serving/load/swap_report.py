"""What a swap test found: latencies in the swaps' windows and between them, one flat document."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.load.figures import rounded
from serving.load.swapping import Done, Swap
from serving.load.targets import Target

SLOT = 0.25  # seconds of a point in the plot
TARGETS = (
    Target("failed", "requests that failed", "<=", 0),
    Target("mixed", "answers whose items are not those of their bundle", "<=", 0),
    Target("p99_ratio", "p99 during swaps, against p99 between them", "<=", 3.0),
    Target("memory_ratio", "memory after all swaps, against before", "<=", 1.1),
)

Floats = npt.NDArray[np.float64]


def latency_figures(done: Done) -> dict[str, Any]:
    """Of the requests that overlap a window, and of the others; those of the warm-up are left out."""
    latencies, during, counted = _columns(done)
    found: dict[str, Any] = {}
    for percent in (50, 99):
        inside = _percentile(latencies[counted & during], percent)
        outside = _percentile(latencies[counted & ~during], percent)
        found[f"p{percent}_during_ms"], found[f"p{percent}_between_ms"] = rounded(inside), rounded(outside)
        found[f"p{percent}_ratio"] = rounded(inside / outside)
    return {
        **found,
        "requests_during": int(np.count_nonzero(counted & during)),
        "requests_between": int(np.count_nonzero(counted & ~during)),
        "requests_per_s": rounded(np.count_nonzero(counted) / (done.stop - done.start)),
    }


def swap_figures(done: Done) -> dict[str, Any]:
    """How long swaps took: until the last answer of the old bundle, and until all was known to be done."""
    ends, versions = np.asarray(done.seen.ends), np.asarray(done.seen.versions)
    seconds = []
    for swap in done.swaps:
        old = ends[(versions != swap.to) & (ends >= swap.asked) & (ends <= swap.done)]
        seconds.append(float(old.max() - swap.asked) if len(old) else 0.0)
    windows = [swap.done - swap.asked for swap in done.swaps]
    return {
        "swap_seconds_median": rounded(statistics.median(seconds)),
        "swap_seconds_max": rounded(max(seconds)),
        "window_seconds_median": rounded(statistics.median(windows)),
        "window_seconds_max": rounded(max(windows)),
    }


def series(done: Done) -> dict[str, list[float]]:
    """For the plot, in each quarter of a second.

    Returns:
        `at`, its middle in seconds since the measurement began; `p50_ms` and `p99_ms`; `first_share` and
        `second_share`, the part of the answers that each version gave.
    """
    ends, latencies = np.asarray(done.seen.ends), np.asarray(done.seen.latencies) * 1000
    versions = np.asarray(done.seen.versions)
    slots = np.floor((ends - done.start) / SLOT).astype(int)
    found: dict[str, list[float]] = {
        name: [] for name in ("at", "p50_ms", "p99_ms", "first_share", "second_share")
    }
    for slot in range(slots.min(initial=0), slots.max(initial=-1) + 1):
        chosen = slots == slot
        if not chosen.any():
            continue
        second = float(np.mean(versions[chosen] == 1))
        middle, high = (_percentile(latencies[chosen], percent) for percent in (50, 99))
        for name, value in zip(found, ((slot + 0.5) * SLOT, middle, high, 1 - second, second), strict=True):
            found[name].append(value)
    return found


def windows(swaps: Sequence[Swap], start: float) -> list[tuple[float, float]]:
    """Begin and end of each, in seconds since the measurement began."""
    return [(swap.asked - start, swap.done - start) for swap in swaps]


def missed(report: dict[str, Any]) -> list[str]:
    """The keys of the figures that are not as they shall be."""
    return [each.key for each in TARGETS if each.is_met(report) is False]


def _columns(done: Done) -> tuple[Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Of each answer: milliseconds, whether it overlaps a window, whether it counts."""
    ends, latencies = np.asarray(done.seen.ends), np.asarray(done.seen.latencies)
    starts = ends - latencies
    during = np.zeros(len(ends), bool)
    for swap in done.swaps:
        during |= (ends >= swap.asked) & (starts <= swap.done)
    return latencies * 1000, during, starts >= done.start


def _percentile(values: Floats, percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else math.nan
