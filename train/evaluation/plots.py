"""The two plots of a run, and the style of all plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from twinspire.train.evaluation.baselines import LABELS
from twinspire.train.evaluation.labelled_metrics import Bin
from twinspire.train.metrics import MAIN_AND_RECALL, metric_label

matplotlib.use("Agg")

MODEL_COLOUR = "#1f5fa8"
BASELINE_COLOUR = "#c77d1e"
QUIET_COLOUR = "#8a8f98"
OTHER_COLOURS = ("#5b8c5a", "#a0522d", "#8f6bb3", "#3aa6a0", "#c2577e", "#b5a642", "#4a4a4a")
COLOURS = (MODEL_COLOUR, BASELINE_COLOUR, QUIET_COLOUR, *OTHER_COLOURS)
FEW_BARS = 5  # side by side, whose figures fit above them


def baseline_comparison(metrics: Mapping[str, float], name: str) -> Figure:
    """Bars of the main metrics of the model and of each baseline on the test part, with intervals."""
    shown = MAIN_AND_RECALL
    names = ["", *(baseline for baseline in LABELS if f"{baseline}_ndcg_at_10" in metrics)]
    figure, axes = plt.subplots(figsize=(6.4 + 0.4 * len(names), 3.8), layout="constrained")
    width = 0.8 / len(names)
    for n, baseline in enumerate(names):
        prefix = f"{baseline}_" if baseline else ""
        heights = [metrics[prefix + metric] for metric in shown]
        errors = [_error_bar(metrics, prefix + metric) for metric in shown]
        places = [place + (n - (len(names) - 1) / 2) * width for place in range(len(shown))]
        bars = axes.bar(
            places,
            heights,
            width * 0.92,
            yerr=list(zip(*errors, strict=True)),
            error_kw={"elinewidth": 0.8, "ecolor": "#444a54"},
            color=COLOURS[n % len(COLOURS)],
            label=LABELS[baseline] if baseline else "two-tower",
        )
        axes.bar_label(bars, fmt="%.3f", fontsize=7, padding=2, rotation=90 if len(names) > FEW_BARS else 0)
    axes.set_xticks(range(len(shown)), [metric_label(metric) for metric in shown])
    axes.set(
        title=f"{name}: test queries, exact search over all items",
        ylabel="mean over queries; lines are 95 % intervals",
    )
    axes.margins(y=0.12)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))  # beside the bars
    style_axes(axes)
    return figure


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


def _error_bar(metrics: Mapping[str, float], metric: str) -> tuple[float, float]:
    """The length of a metric's error bar below and above it; 0 without an interval."""
    value = metrics[metric]
    return (
        value - metrics.get(f"{metric}_low", value),
        metrics.get(f"{metric}_high", value) - value,
    )


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    plt.close(figure)
    return path


def style_axes(axes: Axes) -> None:
    """Remove the frame above and on the right, and draw faint horizontal lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.title.set_fontsize(10)
