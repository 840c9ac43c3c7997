"""The figures of a swap test, in the swaps' windows and between them, and their tables."""

import statistics
from typing import Any

import numpy as np
from rich.console import Console

from protos.system.timing import p99_remark
from serving.benchmark import report
from serving.benchmark.load import percentile
from serving.benchmark.plan import Target
from serving.benchmark.report import Report, Table, number, rounded
from serving.benchmark.swap_load import SwapRun

SLOT = 0.25  # seconds of a point in the plot
TARGETS = (
    Target("failed", "requests that failed", "<=", 0),
    Target("mixed", "answers whose items are not those of their bundle", "<=", 0),
    Target("p99_ratio", "p99 during swaps, against p99 between them", "<=", 3.0),
    Target("memory_ratio", "memory after all swaps, against before", "<=", 1.1),
)
TABLE = Table(
    "",
    ("requests", "answered", "p50 ms", "p99 ms"),
    {name: [f"{name} swaps"] for name in ("between", "during")},
    ("requests_{}", "p50_{}_ms", "p99_{}_ms"),
)


def latency_figures(run: SwapRun) -> dict[str, Any]:
    """Latencies of the requests that overlap a window and of the others, without those of the warm-up."""
    ends, latencies = np.asarray(run.ends), np.asarray(run.latencies)
    during = np.zeros(len(ends), bool)
    for swap in run.swaps:
        during |= (ends >= swap.started) & (ends - latencies <= swap.done)
    counted = ends - latencies >= run.start
    inside, outside = latencies[counted & during] * 1000, latencies[counted & ~during] * 1000
    found: dict[str, Any] = {}
    for percent in (50, 99):
        name, pair = f"p{percent}", (percentile(inside, percent), percentile(outside, percent))
        found[f"{name}_during_ms"], found[f"{name}_between_ms"] = map(rounded, pair)
        found[f"{name}_ratio"] = rounded(pair[0] / pair[1])
    found["requests_during"], found["requests_between"] = len(inside), len(outside)
    found["requests_per_s"] = rounded((len(inside) + len(outside)) / (run.stop - run.start))
    return found


def swap_figures(run: SwapRun) -> dict[str, Any]:
    """Duration of the swaps: until the last answer of the old bundle, and of the whole window."""
    ends, versions = np.asarray(run.ends), np.asarray(run.versions)
    found: dict[str, Any] = {}
    lasting = []
    for swap in run.swaps:
        old = ends[(versions != swap.to) & (ends >= swap.started) & (ends <= swap.done)]
        lasting.append(float(old.max() - swap.started) if len(old) else 0.0)
    for name, seconds in (("swap", lasting), ("window", [swap.done - swap.started for swap in run.swaps])):
        found[f"{name}_seconds_median"] = rounded(statistics.median(seconds))
        found[f"{name}_seconds_max"] = rounded(max(seconds))
    return found


def series(run: SwapRun) -> dict[str, list[float]]:
    """Columns of the plot, a row for each slot of `SLOT` seconds with answers.

    Returns:
        `at`, its middle in seconds since the measurement began; `p50_ms` and `p99_ms`; `first_share` and
        `second_share`, the share of the answers that each version gave.
    """
    latencies, versions = np.asarray(run.latencies) * 1000, np.asarray(run.versions)
    slots = np.floor((np.asarray(run.ends) - run.start) / SLOT).astype(int)
    rows = []
    for slot in np.unique(slots):
        chosen = slots == slot
        second = float(np.mean(versions[chosen] == 1))
        middle, high = (percentile(latencies[chosen], percent) for percent in (50, 99))
        rows.append((float(slot + 0.5) * SLOT, middle, high, 1 - second, second))
    names = ("at", "p50_ms", "p99_ms", "first_share", "second_share")
    return {name: [row[n] for row in rows] for n, name in enumerate(names)}


def show(console: Console, found: Report) -> None:
    """Latencies, targets and remarks."""
    first, second = (each[:12] for each in found["versions"])
    about = (
        f"{found['requests']:,} answers, all compared; {found['swaps']} swaps between {first} and "
        f"{second} under load, {found['memory_swaps']} in all",
        f"from the alias to the last answer of the old bundle: {number(found['swap_seconds_median'])} s, "
        f"at most {number(found['swap_seconds_max'])} s",
        f"memory: {found['memory_start_mib']:,.0f} MiB before, {found['memory_end_mib']:,.0f} MiB after",
        f"{found['machine']}; {found['workers']} workers, {found['clients']} clients, "
        f"{found['requests_per_s']:,.0f} requests/s, {found['seconds']:.0f} s",
    )
    uncertain = p99_remark({text: found[f"requests_{name}"] for name, (text,) in TABLE.rows.items()})
    remarks = [each for each in (found["mixed_first"], uncertain) if each]
    report.show(console, found, [TABLE], TARGETS, about, remarks)
