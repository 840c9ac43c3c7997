"""Quality, latency and size of all variants of both towers."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from export.precision.rounded import VARIANTS
from train.plots import COLOURS, QUIET_COLOUR, quiet

SIDES = ("query", "item")
AREA = 600  # of float32's marker, in square points
METRIC = "recall_at_10"
PAINT = dict(zip(VARIANTS, ("#444a54", COLOURS[3], COLOURS[0], COLOURS[1], "#9a5c93"), strict=True))


def quality_and_latency(report: Mapping[str, Any]) -> Figure:
    """recall@10 lost against p50, a panel a tower; a marker's area is the file's size.

    Args:
        report: `query` and `item`, as `choose_tower` gives them.
    """
    figure, panels = plt.subplots(1, len(SIDES), figsize=(9.6, 4.8), layout="constrained")
    for axes, side in zip(panels, SIDES, strict=True):
        _draw(axes, side, report[side])
    return figure


def _draw(axes: Axes, side: str, told: Mapping[str, Any]) -> None:
    batch, bound = told["batch"], 100 * told["max_loss"]
    for name, found in told["variants"].items():
        own = name == told["chosen"]
        micros, loss = found["latency"][str(batch)]["p50_us"], -100 * found[f"{METRIC}_delta"]
        ends = sorted(-100 * found[f"{METRIC}_delta_{end}"] for end in ("low", "high"))
        axes.vlines(micros, *ends, color=PAINT[name], linewidth=1, zorder=1)
        area = AREA * found["size_share"]
        if own:
            axes.scatter(micros, loss, s=2 * area, facecolor="none", edgecolor="black", zorder=2)
        axes.scatter(micros, loss, s=area, color=PAINT[name], alpha=0.85, linewidth=0, zorder=3)
        label = f"{name}, {found['size_share']:.0%} of fp32's size{', chosen' if own else ''}"
        axes.plot([], [], "o", color=PAINT[name], label=label)
    axes.axhline(bound, color=QUIET_COLOUR, linestyle="--", linewidth=1)
    axes.annotate(
        "bound",
        (0, bound),
        (2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=8,
        color=QUIET_COLOUR,
    )
    axes.set(
        xlabel=f"µs a call at batch {batch}, p50",
        ylabel="recall@10 lost, points; lines are 95 %",
        title=f"{side} tower",
    )
    axes.margins(x=0.2, y=0.2)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.16))
    quiet(axes)
