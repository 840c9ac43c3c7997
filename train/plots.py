"""The style of all plots, how they are written, and the plot of calibration."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from twinspire.train.evaluation.labelled_metrics import Bin

matplotlib.use("Agg")

MODEL_COLOUR = "#1f5fa8"
BASELINE_COLOUR = "#c77d1e"
QUIET_COLOUR = "#8a8f98"
OTHER_COLOURS = ("#5b8c5a", "#a0522d", "#8f6bb3", "#3aa6a0", "#c2577e", "#b5a642", "#4a4a4a")
COLOURS = (MODEL_COLOUR, BASELINE_COLOUR, QUIET_COLOUR, *OTHER_COLOURS)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_png(figure))
    return path


def as_png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file; closes it."""
    written = io.BytesIO()
    figure.savefig(written, dpi=140)
    plt.close(figure)
    return written.getvalue()


def style_axes(axes: Axes) -> None:
    """Remove the frame above and on the right, and draw faint horizontal lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.title.set_fontsize(10)


def reliability_diagram(bins: Mapping[str, Sequence[Bin]], name: str) -> Figure:
    """Share of positives by predicted probability on the test part, of each model in `bins`."""
    figure, axes = plt.subplots(figsize=(4.8, 4.4), layout="constrained")
    axes.plot([0, 1], [0, 1], color=QUIET_COLOUR, linewidth=0.8, linestyle="--", label="calibrated")
    for n, (label, each) in enumerate(bins.items()):
        points = [each_bin.predicted for each_bin in each], [each_bin.share for each_bin in each]
        axes.plot(*points, marker="o", markersize=4, color=COLOURS[n % len(COLOURS)], label=label)
    axes.set(
        xlabel="predicted probability",
        ylabel="share of positives",
        title=f"{name}: test pairs, bins of equal size",
    )
    axes.legend(frameon=False, fontsize=8)
    style_axes(axes)
    return figure
