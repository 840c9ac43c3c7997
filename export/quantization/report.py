"""The report on precision: tables for a terminal, and a plot."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from export.quantization.variants import RECIPES
from protos.bundle import Variant
from protos.features import SIDES
from train.evaluation.plots import QUIET_COLOUR, metric_label, style_axes

AREA = 600  # of float32's marker, in square points
METRIC = "recall_at_10"


def show_precision(report: Mapping[str, Any], console: Console) -> None:
    """Print all variants of both towers and of the vectors, the chosen ones, and why.

    Args:
        report: `query`, `item` and `vectors`, as `choose_tower` and `choose_vectors` return them.
    """
    for side in SIDES:
        _show_tower(side, report[side], console)
    _show_vectors(report["vectors"], console)


def _show_tower(side: str, report: Mapping[str, Any], console: Console) -> None:
    batch = report["batch"]
    table = Table(
        f"{side} tower",
        f"batch {batch}, µs",
        "p95",
        "MiB",
        "of fp32",
        "recall@10",
        "nDCG@10",
        box=None,
    )
    for name, found in report["variants"].items():
        latency = found["latency"][str(batch)]
        table.add_row(
            _marked(name, report["chosen"]),
            f"{latency['p50_us']:,.1f}",
            f"{latency['p95_us']:,.1f}",
            f"{found['size_bytes'] / 2**20:.1f}",
            f"{found['size_share']:.1%}",
            *_quality(name, found),
        )
    console.print(table)
    _reasons(report, console)


def _show_vectors(report: Mapping[str, Any], console: Console) -> None:
    table = Table("vectors", "bytes an item", "of fp32", "recall@10", "nDCG@10", box=None)
    for name, found in report["variants"].items():
        table.add_row(
            _marked(name, report["chosen"]),
            f"{found['bytes_per_item']:,}",
            f"{found['size_share']:.1%}",
            *_quality(name, found),
        )
    console.print(table)
    _reasons(report, console)
    total = report["together"]
    deltas = ", ".join(
        f"{metric_label(name)} {total[f'{name}_delta']:+.4f} {_between(total, name)}"
        for name in ("recall_at_10", "ndcg_at_10")
    )
    console.print(f"all three together against fp32: {deltas}", highlight=False)


def _marked(name: str, chosen: str) -> str:
    return f"[bold]{name}, chosen[/bold]" if name == chosen else name


def _quality(name: str, found: Mapping[str, Any]) -> list[str]:
    """The metrics of float32; of others the differences from float32, with their intervals."""
    if name == "fp32":
        return [f"{found[metric]:.4f}" for metric in ("recall_at_10", "ndcg_at_10")]
    return [
        f"{found[f'{metric}_delta']:+.4f} {_between(found, metric)}"
        for metric in ("recall_at_10", "ndcg_at_10")
    ]


def _between(found: Mapping[str, Any], metric: str) -> str:
    return "({:+.3f} to {:+.3f})".format(*(found[f"{metric}_delta_{end}"] for end in ("low", "high")))


def _reasons(report: Mapping[str, Any], console: Console) -> None:
    console.print(report["why"], highlight=False, soft_wrap=True)
    for name, why in report["not_chosen"].items():
        console.print(f"  {name}: {why}", highlight=False, soft_wrap=True)
    for name, why in report.get("not_made", {}).items():
        console.print(f"  {name}: not made, {why}", highlight=False, soft_wrap=True)
    sample = report["judged_on"]
    if sample["items"] < sample["catalogue"]:
        console.print(
            f"  searched among {sample['items']:,} of {sample['catalogue']:,} items: "
            "those that are relevant, and a sample",
            highlight=False,
            soft_wrap=True,
        )


def quality_and_latency(report: Mapping[str, Any]) -> Figure:
    """Plot the loss of recall@10 against p50, one panel per tower; a marker's area is the file's size.

    Args:
        report: `query` and `item`, as `choose_tower` returns them.
    """
    figure, panels = plt.subplots(1, len(SIDES), figsize=(9.6, 4.8), layout="constrained")
    for axes, side in zip(panels, SIDES, strict=True):
        _draw(axes, side, report[side])
    return figure


def _draw(axes: Axes, side: str, report: Mapping[str, Any]) -> None:
    batch, bound = report["batch"], 100 * report["max_loss"]
    variants: Mapping[Variant, Any] = report["variants"]
    for name, found in variants.items():
        colour = RECIPES[name].colour
        own = name == report["chosen"]
        micros, loss = found["latency"][str(batch)]["p50_us"], -100 * found[f"{METRIC}_delta"]
        ends = sorted(-100 * found[f"{METRIC}_delta_{end}"] for end in ("low", "high"))
        axes.vlines(micros, *ends, color=colour, linewidth=1, zorder=1)
        area = AREA * found["size_share"]
        if own:
            axes.scatter(micros, loss, s=2 * area, facecolor="none", edgecolor="black", zorder=2)
        axes.scatter(micros, loss, s=area, color=colour, alpha=0.85, linewidth=0, zorder=3)
        label = f"{name}, {found['size_share']:.0%} of fp32's size{', chosen' if own else ''}"
        axes.plot([], [], "o", color=colour, label=label)
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
    style_axes(axes)
