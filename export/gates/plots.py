"""What a decision rests on, to look at: the paired difference of quality, and how long queries take."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from export.gates.decision import Decision
from train.plots import BASELINE_COLOUR, MODEL_COLOUR, QUIET_COLOUR, quiet, spelt

REFUSED_COLOUR = "#b3362d"
COLOURS = {"challenger": MODEL_COLOUR, "champion": BASELINE_COLOUR}
WIDE = 5.0  # times: from there on two distributions are only both seen on a logarithmic axis
TITLES = {"query_tower": "Query tower", "retriever": "Retriever: encode and search"}


def differences(decision: Decision) -> Figure | None:
    """Each metric's mean paired difference with its interval; the one that decides stands on top, with the
    margin. None without a champion.
    """
    measured = decision.measured.get("quality", {})
    found = measured.get("differences")
    if not found or measured["metric"] not in found:
        return None
    deciding, margin = measured["metric"], measured["margin"]
    names = [deciding, *(name for name in found if name != deciding)]
    figure, axes = plt.subplots(figsize=(7.2, 1.3 + 0.42 * len(names)), layout="constrained")
    axes.axvspan(-margin, 0, color="#eef1f5", zorder=0)
    axes.axvline(0, color=QUIET_COLOUR, linewidth=1)
    axes.axvline(-margin, color=REFUSED_COLOUR, linestyle="--", linewidth=1)
    for place, name in enumerate(names):
        each = found[name]
        worse = name == deciding and each["low"] < -margin
        colour = REFUSED_COLOUR if worse else MODEL_COLOUR if name == deciding else QUIET_COLOUR
        axes.plot(
            [each["low"], each["high"]], [place, place], color=colour, linewidth=2.4 - 0.8 * (place > 0)
        )
        axes.plot(each["mean"], place, "o", color=colour, markersize=7 - 2 * (place > 0))
        text = f"{each['mean']:+.4f}".replace("-", "−")
        axes.annotate(
            text, (each["mean"], place), (0, 6), textcoords="offset points", fontsize=8, ha="center"
        )
    top = axes.get_xaxis_transform()
    axes.annotate(
        f"margin −{margin:g} ",
        (-margin, 0.02),
        xycoords=top,
        fontsize=8,
        color=REFUSED_COLOUR,
        ha="right",
    )
    axes.set_yticks(range(len(names)), [spelt(name) for name in names])
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_ylim(len(names) - 0.4, -0.7)
    axes.margins(x=0.12)
    axes.set(
        xlabel="challenger − champion: mean over queries, 95 % interval of a paired bootstrap",
        title=f"Quality on {measured['queries']:,} test queries; {spelt(deciding)} decides",
    )
    quiet(axes)
    axes.grid(visible=False)
    return figure


def latencies(decision: Decision) -> Figure | None:
    """The distribution of each bundle's latencies, with their p50 and p99; None where none was measured."""
    measured = decision.measured.get("latency")
    if not measured:
        return None
    figure, panels = plt.subplots(1, len(measured), figsize=(9.6, 3.9), layout="constrained", squeeze=False)
    for axes, (what, found) in zip(panels[0], measured.items(), strict=True):
        _distribution(axes, found["sides"])
        ratio = found.get("p99_ratio")
        beside = (
            f"\np99 ratio {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else ""
        )
        axes.set_title(TITLES[what] + beside, fontsize=10)
    panels[0][0].set_ylabel("share of queries answered")
    return figure


def _distribution(axes: Axes, sides: dict[str, Any]) -> None:
    """Cumulative, up to the 99th of a hundred: what lies beyond is mostly the machine's doing."""
    for name, each in sides.items():
        quantiles = np.array(each["quantiles_us"])
        shares = np.linspace(0, 1, len(quantiles))
        axes.plot(quantiles[:-1], shares[:-1], color=COLOURS[name], linewidth=1.8)
        axes.axvline(each["p99_us"], color=COLOURS[name], linestyle="--", linewidth=1)
        label = f"{name}: p50 {each['p50_us']:,.0f} µs, p99 {each['p99_us']:,.0f} µs"
        axes.plot([], [], color=COLOURS[name], linewidth=1.8, label=label)
    axes.plot([], [], color=QUIET_COLOUR, linestyle="--", linewidth=1, label="p99")
    ends = [each["quantiles_us"][place] for each in sides.values() for place in (0, -2)]
    if max(ends) > WIDE * min(ends):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="microseconds a query", ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    quiet(axes)
    axes.grid(axis="x", color="#eef0f3", linewidth=0.6)
