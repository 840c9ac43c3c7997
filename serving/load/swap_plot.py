"""A swap test as a picture: latency over time, the swaps' windows, and which bundle answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

FIRST, SECOND, WINDOW = "#1f5fa8", "#c77d1e", "#d9dce2"


def save(
    report: Mapping[str, Any],
    series: Mapping[str, Sequence[float]],
    windows: Sequence[tuple[float, float]],
    path: Path,
) -> Path:
    """Write it as PNG.

    Args:
        report: of the test.
        series: as of `swap_report.series`.
        windows: as of `swap_report.windows`.
        path: of the file.
    """
    matplotlib.use("Agg")
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(10.0, 5.2), layout="constrained", sharex=True, height_ratios=(3, 1)
    )
    for n, window in enumerate(windows):
        above.axvspan(
            *window, color=WINDOW, linewidth=0, label="" if n else "a swap, from alias to last worker"
        )
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.margins(x=0.01)
    _latency(above, series)
    _answers(below, series, report["versions"])
    figure.supxlabel(
        f"{report['machine']}; {report['workers']} workers; {report['clients']} clients in a "
        f"closed loop, {report['requests_per_s']:,.0f} requests/s; {report['requests']:,} answers, "
        f"{report['failed']} failed, {report['mixed']} mixed",
        x=0.01,
        ha="left",
        fontsize=7,
        color="#5d636e",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    plt.close(figure)
    return path


def _latency(axes: Axes, series: Mapping[str, Sequence[float]]) -> None:
    for name, line in (("p50", "-"), ("p99", "--")):
        axes.plot(series["at"], series[f"{name}_ms"], line, color=FIRST, linewidth=1.2, label=name)
    axes.set(yscale="log", ylabel="latency, ms")
    axes.set_title("Latency in each quarter of a second", loc="left", fontsize=10)
    axes.grid(axis="y", color="#e4e6ea", linewidth=0.8)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    _legend(axes)


def _answers(axes: Axes, series: Mapping[str, Sequence[float]], versions: Sequence[str]) -> None:
    shares = ([100 * each for each in series[name]] for name in ("first_share", "second_share"))
    axes.stackplot(
        series["at"], *shares, colors=(FIRST, SECOND), labels=[each[:12] for each in versions], alpha=0.85
    )
    axes.set(xlabel="seconds; those before 0 are not measured", ylabel="%", ylim=(0, 100))
    axes.set_title("Which bundle answers", loc="left", fontsize=10)
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Above, where there is nothing else."""
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderpad=0)
