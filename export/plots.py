"""The plot of an index: recall and cost of a query."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from train.plots import MODEL_COLOUR, QUIET_COLOUR, quiet


def recall_and_cost(curve: Sequence[Mapping[str, Any]], chosen: int, target: float) -> Figure:
    """recall@k of the index against the time of a query, a point a search width."""
    figure, axes = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    cost = [point["us_per_query"] for point in curve]
    recall = [point["recall"] for point in curve]
    axes.plot(cost, recall, marker="o", color=MODEL_COLOUR)
    axes.axhline(target, color=QUIET_COLOUR, linestyle="--", linewidth=1)
    axes.annotate(f"target {target}", (cost[0], target), (0, 3), textcoords="offset points", fontsize=8)
    for point in curve:
        bold = "bold" if point["ef"] == chosen else "normal"
        axes.annotate(
            f"ef {point['ef']}",
            (point["us_per_query"], point["recall"]),
            (5, -10),
            textcoords="offset points",
            fontsize=8,
            fontweight=bold,
        )
    axes.set(
        xlabel="microseconds a query, one thread",
        ylabel="recall@k against exact search",
        title=f"HNSW: recall and cost of a query, ef_search = {chosen} chosen",
    )
    quiet(axes)
    return figure
