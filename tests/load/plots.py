"""The plots of the load, swap and filter tests."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, StrMethodFormatter

from tests.load.plan import CAPACITY_CLIENTS, CLIENTS, OFFERED, SERVERS, SWEPT
from tests.load.report import Report

matplotlib.use("Agg")

FIRST, SECOND, THIRD, WINDOW = "#1f5fa8", "#c77d1e", "#8a8f98", "#d9dce2"
STYLE: dict[Any, Any] = {  # of all plots
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "grid.color": "#e4e6ea",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.dpi": 140,
}
FILTER_KINDS = {"random": "at random", "anti_correlated": "anti-correlated with the query"}
FILTER_PLANS = {  # label, colour, style
    "planner": ("the plan chosen", FIRST, "-"),
    "exact": ("all that pass compared", SECOND, "--"),
    "graph": ("graph searched until enough pass", THIRD, "--"),
    "unfiltered": ("no filter", "#5b8c5a", ":"),
}
STYLES = {"search": (FIRST, "o"), "naive": (SECOND, "s"), "noop": (THIRD, "^")}  # colour, marker


def save_load(report: Report, path: Path) -> Path:
    """Throughput by clients and latency by offered load, those that were measured, as PNG."""
    panels = [_throughput] if "search_c1_rps" in report else []
    panels += [_latency] if f"search_open{OFFERED[0]}_rps" in report else []
    rounds = "1 round" if report["rounds"] == 1 else f"{report['rounds']} rounds"
    place = "one core for the server, one for the load" if report["pinned"] else "server and load not pinned"
    source = (
        f"{report['machine']}; {place}; {report['distinct_queries']:,} different queries;"
        + ("\n" if len(panels) == 1 else " ")
        + f"medians of {rounds} of {report['seconds']:g} s, bars and bands from the lowest to the highest"
    )
    with _drawn(path, source, 1, len(panels), figsize=(5.6 * len(panels), 4.2)) as rows:
        for axes, draw in zip(rows[0], panels, strict=True):
            draw(axes, report)
    return path


def save_swaps(
    report: Report,
    series: Mapping[str, Sequence[float]],
    windows: Sequence[tuple[float, float]],
    path: Path,
) -> Path:
    """Latency over time, the windows of the swaps, and the share of answers of each bundle, as PNG.

    `series` is that of `swap_test`; `windows` are in seconds since the measurement began.
    """
    source = (
        f"{report['machine']}; {report['workers']} workers; {report['clients']} clients in a "
        f"closed loop, {report['requests_per_s']:,.0f} requests/s; {report['requests']:,} answers, "
        f"{report['failed']} failed, {report['mixed']} mixed"
    )
    size: dict[str, Any] = {"figsize": (10.0, 5.2), "sharex": True, "height_ratios": (3, 1)}
    with _drawn(path, source, 2, 1, **size) as ((above,), (below,)):
        for n, window in enumerate(windows):
            label = "" if n else "a swap, from alias to last worker"
            above.axvspan(*window, color=WINDOW, linewidth=0, label=label)
        for name, line in (("p50", "-"), ("p99", "--")):
            above.plot(series["at"], series[f"{name}_ms"], line, color=FIRST, linewidth=1.2, label=name)
        above.set(ylabel="latency, ms", title="Latency in each quarter of a second")
        _logarithmic(above)
        shares = ([100 * each for each in series[name]] for name in ("first_share", "second_share"))
        labels = [each[:12] for each in report["versions"]]
        below.stackplot(series["at"], *shares, colors=(FIRST, SECOND), labels=labels, alpha=0.85)
        below.set(xlabel="seconds; the warm-up is before 0", ylabel="%", ylim=(0, 100))
        below.set(title="Share of answers by bundle")
        for axes in (above, below):
            axes.margins(x=0.01)
            axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderpad=0)
    return path


def save_filters(report: Report, path: Path) -> Path:
    """Time and recall of filtered searches by the share of the items that pass, as PNG."""
    source = (
        f"{report['machine']}; {report['items']:,} items, D = {report['dimension']}; "
        f"at most {report['queries']} different queries for each point, one thread"
    )
    size: dict[str, Any] = {"figsize": (10.0, 6.4), "sharex": True, "sharey": "row"}
    with _drawn(path, source, 2, len(FILTER_KINDS), **size) as rows:
        for (kind, name), (above, below) in zip(FILTER_KINDS.items(), rows.T, strict=True):
            some = [each for each in report["buckets"] if each["kind"] == kind]
            shares = [100 * each["passing"] for each in some]
            for plan, (label, colour, style) in FILTER_PLANS.items():
                times = [each["search_p50_us"][plan] for each in some]
                above.plot(shares, times, style, color=colour, marker="o", markersize=3.5, label=label)
            above.set(title=f"Filters {name}: p50 of a search, us", xscale="log", yscale="log")
            below.plot(shares, [each["recall"] for each in some], color=FIRST, marker="o", markersize=4)
            below.axhline(report["recall_bound"], color=THIRD, linestyle="--", linewidth=1)
            below.set(title=f"Recall@{report['k']} against exact search", xlabel="items that pass, %")
            below.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        rows[0][0].legend()
    return path


@contextmanager
def _drawn(path: Path, source: str, *shape: int, **size: Any) -> Iterator[Any]:
    """The axes of a figure (rows, columns), which is written to a file when the block ends."""
    with plt.rc_context(STYLE):
        figure, rows = plt.subplots(*shape, squeeze=False, **size)
        yield rows
        figure.supxlabel(source, x=0.01, ha="left", fontsize=7, color="#5d636e")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        plt.close(figure)


def _over_rounds(report: Report, keys: Sequence[str]) -> npt.NDArray[np.float64]:
    """Median, lowest and highest round of some figures, (3, keys); NaN where there is none."""
    rows = [[report.get(f"{key}{end}", report[key]) for key in keys] for end in ("", "_min", "_max")]
    return np.array(rows, float)


def _throughput(axes: Axes, report: Report) -> None:
    for server, (colour, marker) in STYLES.items():
        keys = [f"{server}_c{clients}_rps" for clients in CLIENTS]
        middle, low, high = _over_rounds(report, keys)
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "capsize": 3}
        axes.errorbar(CLIENTS, middle, (middle - low, high - middle), label=SERVERS[server], **style)
    axes.set(
        xscale="log",
        xlabel="clients, each with one request in flight",
        ylabel="requests answered per second",
        title="Throughput by clients (closed loop)",
    )
    axes.set_xticks(CLIENTS, [str(clients) for clients in CLIENTS])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.legend()


def _latency(axes: Axes, report: Report) -> None:
    for server in SWEPT:
        colour, marker = STYLES[server]
        offered = [report[f"{server}_open{percent}_offered_rps"] for percent in OFFERED]
        for percentile, line, filled in (("p50", "-", colour), ("p99", "--", "white")):
            keys = [f"{server}_open{percent}_{percentile}_us" for percent in OFFERED]
            middle, low, high = _over_rounds(report, keys) / 1000  # milliseconds
            label = f"{SERVERS[server]}, {percentile}"
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4.5}
            axes.plot(offered, middle, line, label=label, markerfacecolor=filled, **style)
            axes.fill_between(offered, low, high, color=colour, alpha=0.13, linewidth=0)
        capacity = report.get(f"{server}_c{CAPACITY_CLIENTS}_rps")
        if capacity is not None:
            axes.axvline(capacity, color=colour, linestyle=":", linewidth=1)
    axes.set(
        xlabel=f"requests offered per second (dotted: {CAPACITY_CLIENTS} closed-loop clients)",
        ylabel="latency from the due time, of requests answered in time, ms",
        title="Latency by offered load (open loop, Poisson arrivals)",
    )
    _logarithmic(axes)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.legend(loc="lower right")


def _logarithmic(axes: Axes) -> None:
    axes.set(yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
