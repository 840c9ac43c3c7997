"""The plot of a bench: latency of the towers by batch size."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from twinspire.export.benchmark.figures import SERVED, TORCH
from twinspire.train.evaluation.plots import COLOURS, style_axes

ByBatch = Mapping[str, Mapping[str, Mapping[str, Any]]]  # batch -> backend -> summary
LINES = {SERVED: ("ONNX Runtime, as served", 2.2), TORCH: ("torch eager", 1.2)}  # backend -> label and width
RATIO_COLOUR = "#444a54"


def latency_by_batch(panels: Mapping[tuple[str, int], ByBatch]) -> Figure:
    """p50 of each backend by batch size, with a band up to p95.

    Args:
        panels: tower and thread budget (0 is all cores) -> summaries on real records.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.6 * columns, 3.5 * rows), layout="constrained", squeeze=False
    )
    for place, ((side, threads), measured) in zip(axes.flat, panels.items(), strict=False):
        budget = f"{threads} thread{'s' if threads != 1 else ''}" if threads else "all cores"
        _draw(place, f"{side} tower, {budget}", measured)
    for place in list(axes.flat)[len(panels) :]:
        place.set_axis_off()
    lines, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _draw(axes: Axes, title: str, measured: ByBatch) -> None:
    batches = sorted(measured, key=int)
    numbers = [int(batch) for batch in batches]
    for (backend, (label, width)), colour in zip(LINES.items(), COLOURS, strict=False):
        middle, high = (
            [measured[batch][backend][each] for batch in batches] for each in ("p50_us", "p95_us")
        )
        axes.plot(numbers, middle, "o-", markersize=4, color=colour, linewidth=width, label=label)
        axes.fill_between(numbers, middle, high, color=colour, alpha=0.13, linewidth=0)
    for batch in batches:  # between both, how many times as long torch takes as what is served
        served, torch = (measured[batch][backend]["p50_us"] for backend in (SERVED, TORCH))
        ends = sorted((served, torch))
        axes.vlines(int(batch), *ends, color=RATIO_COLOUR, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{torch / served:.1f} ×",
            (int(batch), float(np.sqrt(served * torch))),
            ha="center",
            va="center",
            fontsize=8,
            fontweight="bold",
            color=RATIO_COLOUR,
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        )
    axes.set(
        xscale="log", yscale="log", xlabel="batch size", ylabel="µs a call: p50, band to p95", title=title
    )
    axes.set_xticks(numbers, batches)
    axes.minorticks_off()
    axes.margins(x=0.12)
    style_axes(axes)
