"""The report on precision: tables for a terminal, and a plot."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table

from export.quantization.variants import VARIANTS
from protos.bundle import TableVariant
from protos.features import SIDES
from train.evaluation.plots import MODEL_COLOUR, QUIET_COLOUR, style_axes
from train.metrics import HEADLINE, metric_label

LABEL_BOX = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
BAR_COLOUR = "#c3c8d0"  # of variants that were not chosen
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
        latency = found["latency"]
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
        f"{metric_label(name)} {total[f'{name}_delta']:+.4f} {_between(total, name)}" for name in HEADLINE
    )
    drawn = f"95 % intervals, {report['judged_on']['drawn']} drawn"
    console.print(f"all three together against fp32: {deltas}; {drawn}", highlight=False, soft_wrap=True)


def _marked(name: str, chosen: str) -> str:
    return f"[bold]{name}, chosen[/bold]" if name == chosen else name


def _quality(name: str, found: Mapping[str, Any]) -> list[str]:
    """The metrics of float32; of others the differences from float32, with their intervals."""
    if name == "fp32":
        return [f"{found[metric]:.4f}" for metric in HEADLINE]
    return [f"{found[f'{metric}_delta']:+.4f} {_between(found, metric)}" for metric in HEADLINE]


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


def size_latency_and_quality(report: Mapping[str, Any]) -> Figure:
    """Plot each variant of both towers: bars of size and latency, and the change of recall@10.

    Args:
        report: `query` and `item`, as `choose_tower` returns them.
    """
    counts = [len(report[side]["variants"]) for side in SIDES]
    figure, panels = plt.subplots(
        len(SIDES),
        3,
        figsize=(10.5, 1.9 + 0.42 * sum(counts)),
        layout="constrained",
        squeeze=False,
        gridspec_kw={"height_ratios": [count + 1.2 for count in counts]},
    )
    for row, side in zip(panels, SIDES, strict=True):
        _draw_tower(row, side, report[side])
    return figure


def _draw_tower(panels: Sequence[Axes], side: str, report: Mapping[str, Any]) -> None:
    """One row: size, latency and change of recall, a line for each variant, the chosen one in colour."""
    size, latency, recall = panels
    measured: Mapping[TableVariant, Any] = report["variants"]
    variants = {name: measured[name] for name in VARIANTS if name in measured}
    batch, chosen = report["batch"], report["chosen"]
    places = range(len(variants))
    colours = [MODEL_COLOUR if name == chosen else BAR_COLOUR for name in variants]
    sizes = [found["size_bytes"] / 2**20 for found in variants.values()]
    times = [found["latency"]["p50_us"] for found in variants.values()]
    shares = [found["size_share"] for found in variants.values()]
    bars = size.barh(places, sizes, color=colours, height=0.62)
    labels = [f"{mib:,.1f} ({share:.0%})" for mib, share in zip(sizes, shares, strict=True)]
    size.bar_label(bars, labels, padding=3, fontsize=8)
    bars = latency.barh(places, times, color=colours, height=0.62)
    latency.bar_label(
        bars, [f"{each:,.0f}" if each >= 100 else f"{each:.1f}" for each in times], padding=3, fontsize=8
    )
    for place, (name, found) in enumerate(variants.items()):
        _draw_change(recall, place, found, name == chosen)
    bound = -100 * report["max_loss"]
    recall.axvline(0, color=QUIET_COLOUR, linewidth=1)
    recall.axvline(bound, color=QUIET_COLOUR, linestyle="--", linewidth=1, label="largest loss allowed")
    recall.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(0, 1.02), borderaxespad=0)
    size.set(title=f"{side} tower: size", xlabel="MiB (share of fp32)", xlim=(0, 1.4 * max(sizes)))
    latency.set(title="latency", xlabel=f"µs a call at batch {batch}, p50", xlim=(0, 1.25 * max(times)))
    recall.set(title="change of recall@10", xlabel="points, beside fp32; lines are 95 %")
    recall.margins(x=0.15)
    for axes in panels:
        axes.set_ylim(len(variants) - 0.5, -0.5)
        style_axes(axes)
        axes.grid(visible=False)
        axes.set_yticks(places, [""] * len(variants))
        axes.xaxis.set_major_locator(MaxNLocator(4))
    latency.xaxis.set_major_formatter("{x:,g}")
    names = [f"{name}, chosen" if name == chosen else name for name in variants]
    size.set_yticks(places, names)
    size.get_yticklabels()[names.index(f"{chosen}, chosen")].set_fontweight("bold")


def _draw_change(axes: Axes, place: int, found: Mapping[str, Any], own: bool) -> None:
    """The change of recall of one variant with its interval, in points."""
    low, change, high = (100 * found[f"{METRIC}_delta{end}"] for end in ("_low", "", "_high"))
    colour = MODEL_COLOUR if own else QUIET_COLOUR
    axes.plot([low, high], [place, place], color=colour, linewidth=1.6)
    axes.plot(change, place, "o", color=colour, markersize=6)
    text = f"{change:+.2f}".replace("-", "−")
    style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "ha": "center", "bbox": LABEL_BOX}
    axes.annotate(text, (change, place), (0, 6), **style)
