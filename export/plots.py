"""Plots of an export: latency by batch, recall and cost of the index."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from protos.features import Side
from train.plots import BASELINE_COLOUR, MODEL_COLOUR, QUIET_COLOUR, quiet

Measured = Mapping[int, Mapping[str, Mapping[str, Any]]]
LABELS = {"fp32": ("ONNX Runtime", MODEL_COLOUR), "torch": ("torch eager", BASELINE_COLOUR)}


def latency_by_batch(sides: Mapping[Side, Measured], threads: int) -> Figure:
    """p50 of each backend by batch size, with a band up to p95, one panel a tower."""
    figure, panels = plt.subplots(1, len(sides), figsize=(9, 3.6), layout="constrained", squeeze=False)
    for axes, (side, measured) in zip(panels[0], sides.items(), strict=True):
        batches = sorted(measured)
        for backend, (label, colour) in LABELS.items():
            middle = [measured[b][backend]["p50_us"] for b in batches]
            high = [measured[b][backend]["p95_us"] for b in batches]
            axes.plot(batches, middle, marker="o", color=colour, label=f"{label}, p50")
            axes.fill_between(batches, middle, high, color=colour, alpha=0.15, label="to p95")
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="batch size",
            ylabel="microseconds a call",
            title=f"{side} tower, {threads} thread{'s' if threads != 1 else ''}",
        )
        axes.set_xticks(batches, [str(b) for b in batches])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)
        quiet(axes)
    return figure


def recall_and_cost(curve: Sequence[Mapping[str, Any]], chosen: int, target: float) -> Figure:
    """recall@k of the index against the time of a query, a point a search width."""
    figure, axes = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    cost = [point["us_per_query"] for point in curve]
    recall = [point["recall"] for point in curve]
    axes.plot(cost, recall, marker="o", color=MODEL_COLOUR)
    axes.axhline(target, color=QUIET_COLOUR, linestyle="--", linewidth=1)
    axes.annotate(f"target {target}", (cost[0], target), (0, 3), textcoords="offset points", fontsize=8)
    for point in curve:
        bold = "bold" if point["ef"] == chosen else "normal"
        axes.annotate(
            f"ef {point['ef']}",
            (point["us_per_query"], point["recall"]),
            (5, -10),
            textcoords="offset points",
            fontsize=8,
            fontweight=bold,
        )
    axes.set(
        xlabel="microseconds a query, one thread",
        ylabel="recall@k against exact search",
        title=f"HNSW: recall and cost of a query, ef_search = {chosen} chosen",
    )
    quiet(axes)
    return figure
