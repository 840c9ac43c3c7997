"""The report as a picture: throughput against clients, and latency against offered load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, StrMethodFormatter

from serving.load.plan import CLIENTS, OFFERED

Report = Mapping[str, Any]
SERVERS = {  # name, colour, marker
    "search": ("Twinspire", "#1f5fa8", "o"),
    "naive": ("naive server", "#c77d1e", "s"),
    "noop": ("no-op server", "#8a8f98", "^"),
}


def draws(report: Report) -> bool:
    """Whether there is something to draw."""
    return "search_c1_rps" in report or f"search_open{OFFERED[0]}_rps" in report


def save(report: Report, path: Path) -> Path:
    """Write what there is as PNG.

    Args:
        report: with closed loops, or open ones, or both.
        path: of the file.
    """
    matplotlib.use("Agg")
    panels = []
    if "search_c1_rps" in report:
        panels.append(_throughput)
    if f"search_open{OFFERED[0]}_rps" in report:
        panels.append(_latency)
    figure, rows = plt.subplots(
        1, len(panels), figsize=(5.6 * len(panels), 4.2), layout="constrained", squeeze=False
    )
    for axes, draw in zip(rows[0], panels, strict=True):
        draw(axes, report)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e6ea", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.title.set_fontsize(10)
    figure.supxlabel(_source(report, len(panels)), x=0.01, ha="left", fontsize=7, color="#5d636e")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    plt.close(figure)
    return path


def _source(report: Report, panels: int) -> str:
    """What the figures are; on two lines where the picture is narrow."""
    rounds = "1 round" if report["rounds"] == 1 else f"{report['rounds']} rounds"
    place = "one core for the server, one for the load" if report["pinned"] else "server and load not pinned"
    return (
        f"{report['machine']}; {place}; {report['distinct_queries']:,} different queries;"
        + ("\n" if panels == 1 else " ")
        + f"medians of {rounds} of {report['seconds']:g} s, bars and bands from the lowest to the highest"
    )


def _throughput(axes: Axes, report: Report) -> None:
    for server, (name, colour, marker) in SERVERS.items():
        keys = [f"{server}_c{clients}_rps" for clients in CLIENTS]
        middle = [report[key] for key in keys]
        low = [report[key] - report.get(f"{key}_min", report[key]) for key in keys]
        high = [report.get(f"{key}_max", report[key]) - report[key] for key in keys]
        axes.errorbar(
            CLIENTS, middle, (low, high), color=colour, marker=marker, markersize=5, capsize=3, label=name
        )
    axes.set(
        xscale="log",
        xlabel="clients, each with one request on its way",
        ylabel="requests answered a second",
        title="Throughput against clients (closed loop)",
    )
    axes.set_xticks(CLIENTS, [str(clients) for clients in CLIENTS])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.legend(frameon=False, fontsize=8)


def _latency(axes: Axes, report: Report) -> None:
    for server, (name, colour, marker) in SERVERS.items():
        if f"{server}_open{OFFERED[0]}_rps" not in report:
            continue
        offered = [report[f"{server}_open{percent}_offered_rps"] for percent in OFFERED]
        for percentile, line, filled in (("p50", "-", colour), ("p99", "--", "white")):
            keys = [f"{server}_open{percent}_{percentile}_us" for percent in OFFERED]
            middle, low, high = (
                [_milliseconds(report.get(f"{key}{end}", report[key])) for key in keys]
                for end in ("", "_min", "_max")
            )
            axes.plot(
                offered,
                middle,
                line,
                color=colour,
                marker=marker,
                markersize=4.5,
                markerfacecolor=filled,
                label=f"{name}, {percentile}",
            )
            axes.fill_between(offered, low, high, color=colour, alpha=0.13, linewidth=0)
        bears = report.get(f"{server}_c{CLIENTS[-1]}_rps")
        if bears is not None:
            axes.axvline(bears, color=colour, linestyle=":", linewidth=1)
    axes.set(
        yscale="log",
        xlabel="requests offered a second (dotted: what 64 closed-loop clients reach)",
        ylabel="latency from the intended start, ms",
        title="Latency against offered load (open loop, Poisson arrivals)",
    )
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _milliseconds(microseconds: float | None) -> float:
    return float("nan") if microseconds is None else microseconds / 1000
