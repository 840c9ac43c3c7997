"""The frontier of recall, time and memory, as a picture."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from train.plots import BASELINE_COLOUR, MODEL_COLOUR, QUIET_COLOUR, quiet

SHOWN = 0.2  # of recall below the target; what is farther off is no choice
SHADES = ("#b9c6d6", "#8fb0d6", "#5b8c5a", "#9a6fb0", "#c77d1e", "#a8433f")


def frontier(report: Mapping[str, Any]) -> Figure:
    """recall@k against the time of a query: the graphs of the sweep, and beside them the one that was built.

    Args:
        report: as `export.index.account` makes it.
    """
    panels = 2 if report["grid"] else 1
    figure, axes = plt.subplots(1, panels, figsize=(5.4 * panels, 4.0), layout="constrained", squeeze=False)
    if report["grid"]:
        _swept(axes[0][0], report)
    _built(axes[0][-1], report)
    return figure


def _swept(axes: Axes, report: Mapping[str, Any]) -> None:
    chosen = report["chosen"]["m"], report["chosen"]["ef_construction"]
    most = max(each["bytes_per_item"] for each in report["grid"])
    for each, shade in zip(report["grid"], SHADES, strict=False):
        if not each["curve"]:
            continue
        own = (each["m"], each["ef_construction"]) == chosen
        axes.plot(
            [point["us_per_query"] for point in each["curve"]],
            [point["recall"] for point in each["curve"]],
            marker="o",
            markersize=2 + 6 * each["bytes_per_item"] / most,
            linewidth=2.4 if own else 1.1,
            color=MODEL_COLOUR if own else shade,
            zorder=3 if own else 2,
            label=f"M {each['m']}, {each['ef_construction']}: {each['bytes_per_item']:.0f} B an item"
            + (", chosen" if own else ""),
        )
    axes.legend(frameon=False, fontsize=7, title="M, ef_construction: memory of links", title_fontsize=7)
    _dress(axes, report, f"Graphs on {report['sample']:,} items")


def _built(axes: Axes, report: Mapping[str, Any]) -> None:
    curve = report["curve"]
    axes.plot(
        [point["us_per_query"] for point in curve],
        [point["recall"] for point in curve],
        marker="o",
        color=MODEL_COLOUR,
    )
    for point in curve:
        own = point["ef"] == report["ef_search"]
        axes.annotate(
            f"ef {point['ef']}",
            (point["us_per_query"], point["recall"]),
            (0, 7) if own else (4, -9),
            textcoords="offset points",
            ha="center" if own else "left",
            fontsize=8 if own else 6.5,
            fontweight="bold" if own else "normal",
            annotation_clip=True,
        )
    own = next(point for point in curve if point["ef"] == report["ef_search"])
    axes.plot(
        [own["us_per_query"]],
        [own["recall"]],
        marker="o",
        markersize=11,
        color=MODEL_COLOUR,
        fillstyle="none",
    )
    axes.plot([report["exact_us"]["1"]], [1], marker="*", markersize=11, color=BASELINE_COLOUR, linestyle="")
    axes.annotate(
        "exact", (report["exact_us"]["1"], 1), (0, -14), textcoords="offset points", ha="center", fontsize=8
    )
    chosen = report["chosen"]
    said = "exact search chosen" if chosen["exact"] else f"ef_search = {report['ef_search']} chosen"
    _dress(axes, report, f"M {chosen['m']} on all {report['items']:,} items, {said}")


def _dress(axes: Axes, report: Mapping[str, Any], title: str) -> None:
    axes.axhline(report["target"], color=QUIET_COLOUR, linestyle="--", linewidth=1)
    axes.annotate(
        f"target {report['target']}",
        (0.01, report["target"]),
        (0, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=8,
    )
    if report["budget_us"] is not None:
        axes.axvline(report["budget_us"], color=QUIET_COLOUR, linestyle=":", linewidth=1)
    axes.set(
        xscale="log",
        xlabel="microseconds a query, one thread",
        ylabel=f"recall@{report['k']} against exact search",
        title=title,
    )
    axes.set_ylim(report["target"] - SHOWN, 1 + 0.05 * SHOWN)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    quiet(axes)
