"""The plot of a run: calibration."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from twinspire.train.evaluation.labelled_metrics import Bin
from twinspire.train.plots import COLOURS, QUIET_COLOUR, style_axes


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
