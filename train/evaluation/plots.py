"""The two plots of a run, and the style of all plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.evaluation.baselines import LABELS

matplotlib.use("Agg")

MODEL_COLOUR = "#1f5fa8"
BASELINE_COLOUR = "#c77d1e"
QUIET_COLOUR = "#8a8f98"
COLOURS = (MODEL_COLOUR, BASELINE_COLOUR, QUIET_COLOUR, "#5b8c5a")
METRIC_NAMES = {"ndcg": "nDCG", "mrr": "MRR", "hr": "HR", "auc": "AUC"}


def learning_curves(
    history: Sequence[Mapping[str, float]], losses: Sequence[float], selection: str
) -> Figure:
    """Loss of every step, and the selection metric on validation after each epoch; epoch 0 is the start."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(range(1, len(losses) + 1), losses, color=MODEL_COLOUR, linewidth=1)
    left.set(xlabel="step", ylabel="loss", title="Training loss")
    values = [record[f"validation_{selection}"] for record in history]
    right.plot(range(len(values)), values, marker="o", markersize=4, color=MODEL_COLOUR)
    right.set(xlabel="epoch (0 is the start)", ylabel=metric_label(selection), title="Validation")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        style_axes(axes)
    return figure


def baseline_comparison(metrics: Mapping[str, float], name: str) -> Figure:
    """Bars of the main metrics of the model and of each baseline on the test part, with intervals."""
    shown = ("recall_at_10", "recall_at_100", "ndcg_at_10", "mrr_at_10")
    names = ["", *(baseline for baseline in LABELS if f"{baseline}_ndcg_at_10" in metrics)]
    figure, axes = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
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
        axes.bar_label(bars, fmt="%.3f", fontsize=7, padding=2)
    axes.set_xticks(range(len(shown)), [metric_label(metric) for metric in shown])
    axes.set(title=f"{name}: test queries, exact search over all items")
    axes.margins(y=0.12)
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


def metric_label(metric: str) -> str:
    """The name of a metric in tables and plots: nDCG@10 for `ndcg_at_10`."""
    name, _, k = metric.partition("_at_")
    return f"{METRIC_NAMES.get(name, name)}@{k}" if k else METRIC_NAMES.get(name, name)


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
