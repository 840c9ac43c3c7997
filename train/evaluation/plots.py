"""The plots of a run: quality by how frequent an item is, and calibration."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from twinspire.train.evaluation.intervals import Interval
from twinspire.train.evaluation.labelled_metrics import Bin
from twinspire.train.plots import COLOURS, QUIET_COLOUR, style_axes


def by_item_frequency(
    groups: Mapping[str, int], found: Mapping[str, Sequence[Interval]], title: str
) -> Figure:
    """Bars of the share of answers among the first ten, for each group of items and each ranking.

    Args:
        groups: label of a group, such as a range of interactions -> number of its answers.
        found: label of a ranking -> the share in each group.
    """
    figure, axes = plt.subplots(figsize=(4.4 + len(groups), 3.8), layout="constrained")
    width = 0.8 / len(found)
    for n, (label, shares) in enumerate(found.items()):
        places = [place + (n - (len(found) - 1) / 2) * width for place in range(len(shares))]
        ends = [[each.mean - each.low for each in shares], [each.high - each.mean for each in shares]]
        axes.bar(
            places,
            [each.mean for each in shares],
            width * 0.92,
            yerr=ends,
            error_kw={"elinewidth": 0.8, "ecolor": "#444a54"},
            color=COLOURS[n],
            label=label,
        )
    axes.set_xticks(range(len(groups)), [f"{label}\n{count:,}" for label, count in groups.items()])
    axes.set(
        title=title,
        xlabel="interactions of the right item in training, and answers",
        ylabel="share in the first 10, 95 % intervals",
    )
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
