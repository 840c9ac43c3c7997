"""Plots of a run, where people would rather look than read."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.metrics import CUTOFFS

matplotlib.use("Agg")

MODEL_COLOUR = "#1f5fa8"
BASELINE_COLOUR = "#c77d1e"
QUIET_COLOUR = "#8a8f98"


def learning_curves(history: Sequence[Mapping[str, float]], losses: Sequence[float]) -> Figure:
    """Loss of every step, and recall@10 on validation after each epoch; epoch 0 is the start."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(range(1, len(losses) + 1), losses, color=MODEL_COLOUR, linewidth=1)
    left.set(xlabel="step", ylabel="loss", title="Training loss")
    recall = [record["validation_recall_at_10"] for record in history]
    right.plot(range(len(recall)), recall, marker="o", color=MODEL_COLOUR)
    right.set(xlabel="epoch (0 is the start)", ylabel="recall@10", title="Validation")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        quiet(axes)
    return figure


def recall_beside(metrics: Mapping[str, float], baseline: str, label: str, name: str) -> Figure:
    """recall@k of the model beside a baseline's, on the test part.

    Args:
        baseline: prefix of the baseline's metrics, such as `bm25_`.
        label: the baseline's name for people.
    """
    figure, axes = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    series = (("", "two-tower", MODEL_COLOUR), (baseline, label, BASELINE_COLOUR))
    for n, (prefix, title, colour) in enumerate(series):
        heights = [metrics[f"{prefix}recall_at_{k}"] for k in CUTOFFS]
        places = [place + (n - 0.5) * 0.38 for place in range(len(CUTOFFS))]
        bars = axes.bar(places, heights, 0.36, color=colour, label=title)
        axes.bar_label(bars, fmt="%.3f", fontsize=8, padding=2)
    axes.set_xticks(range(len(CUTOFFS)), [f"recall@{k}" for k in CUTOFFS])
    axes.set(ylim=(0, 1.08), title=f"{name}: test queries, exact search over all items")
    axes.legend(frameon=False, loc="upper left")
    quiet(axes)
    return figure


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
