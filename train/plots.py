"""Plots of a run, where people would rather look than read."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.baselines import LABELS

matplotlib.use("Agg")

MODEL_COLOUR = "#1f5fa8"
BASELINE_COLOUR = "#c77d1e"
QUIET_COLOUR = "#8a8f98"
COLOURS = (MODEL_COLOUR, BASELINE_COLOUR, QUIET_COLOUR, "#5b8c5a")
METRIC_NAMES = {"ndcg": "nDCG", "mrr": "MRR", "hr": "HR", "auc": "AUC"}


def learning_curves(
    history: Sequence[Mapping[str, float]], losses: Sequence[float], selection: str
) -> Figure:
    """Loss of every step, and a metric on validation after each epoch; epoch 0 is the start."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(range(1, len(losses) + 1), losses, color=MODEL_COLOUR, linewidth=1)
    left.set(xlabel="step", ylabel="loss", title="Training loss")
    figures = [record[f"validation_{selection}"] for record in history]
    right.plot(range(len(figures)), figures, marker="o", markersize=4, color=MODEL_COLOUR)
    right.set(xlabel="epoch (0 is the start)", ylabel=spelt(selection), title="Validation")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        quiet(axes)
    return figure


def beside_baselines(metrics: Mapping[str, float], name: str) -> Figure:
    """The main metrics of the model beside those of each baseline, on the test part, with intervals."""
    shown = ("recall_at_10", "recall_at_100", "ndcg_at_10", "mrr_at_10")
    names = ["", *(baseline for baseline in LABELS if f"{baseline}_ndcg_at_10" in metrics)]
    figure, axes = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    width = 0.8 / len(names)
    for n, baseline in enumerate(names):
        prefix = f"{baseline}_" if baseline else ""
        heights = [metrics[prefix + metric] for metric in shown]
        errors = [_reach(metrics, prefix + metric) for metric in shown]
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
    axes.set_xticks(range(len(shown)), [spelt(metric) for metric in shown])
    axes.set(title=f"{name}: test queries, exact search over all items")
    axes.margins(y=0.12)
    axes.legend(frameon=False, fontsize=8)
    quiet(axes)
    return figure


def _reach(metrics: Mapping[str, float], metric: str) -> tuple[float, float]:
    """How far the interval of a metric reaches below and above it; nowhere where it has none."""
    value = metrics[metric]
    return (
        value - metrics.get(f"{metric}_low", value),
        metrics.get(f"{metric}_high", value) - value,
    )


def spelt(metric: str) -> str:
    """A metric's key as people write it: `ndcg_at_10` is nDCG@10."""
    name, _, k = metric.partition("_at_")
    return f"{METRIC_NAMES.get(name, name)}@{k}" if k else METRIC_NAMES.get(name, name)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG and let go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    plt.close(figure)
    return path


def quiet(axes: Axes) -> None:
    """No frame above and to the right, faint lines behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.title.set_fontsize(10)
