"""The report of an index: measurements and choice as JSON, the choice in a sentence, and a plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from twinspire.export.ann.ef_search import EfChoice
from twinspire.export.ann.graph import links_size
from twinspire.export.ann.timer import ExactVsGraph
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.train.config.index import IndexConfig
from twinspire.train.plots import BASELINE_COLOUR, MODEL_COLOUR, QUIET_COLOUR, style_axes

SHOWN = 0.2  # recall below the target that the plot shows
LABEL_PIXELS = 34  # between two labels of search widths
MIN_SPAN = 4.0  # of the axis of times, its end over its start


@dataclass(frozen=True)
class IndexReport:
    """The facts that the report states.

    Args:
        items: N.
        config: what was configured.
        tuned: the search width on all items.
        times: exact search against the graph at that width.
        parameters: the result.
        build_s: seconds that building the graph over all items took.
        why_exact: the end of "every search is exact"; empty if the graph is searched.
    """

    items: int
    config: IndexConfig
    tuned: EfChoice
    times: ExactVsGraph
    parameters: IndexParameters
    build_s: float
    why_exact: str = ""


def report_of(facts: IndexReport, graph: CodedVectors) -> dict[str, Any]:
    """The report as JSON; times are microseconds per query on one thread, by batch size."""
    config, chosen, times = facts.config, facts.parameters, facts.times
    return {
        "items": facts.items,
        "k": config.k,
        "target": config.recall_target,
        "ef_search": chosen.ef_search,
        "reached": facts.tuned.reached or chosen.exact,
        "build_s": facts.build_s,
        "bytes_per_item": links_size(graph),
        "curve": list(facts.tuned.curve),
        "chosen": {"m": chosen.m, "ef_construction": chosen.ef_construction, "exact": chosen.exact},
        "exact_us": {str(size): us for size, us in times.exact_us.items()},
        "graph_us": {str(size): us for size, us in times.graph_us.items()},
        "why": why(facts),
    }


def why(facts: IndexReport) -> str:
    """The choice, in a sentence."""
    graph = f"M {facts.parameters.m} and ef_construction {facts.parameters.ef_construction}"
    return "; ".join(filter(None, (graph, _width(facts), _exact(facts)))) + "."


def _width(facts: IndexReport) -> str:
    point, config = facts.tuned.point, facts.config
    if config.search == "exact":
        return ""
    measured = f"recall@{config.k} {point['recall']:.4f} at {point['us_per_query']:,.0f} us a query"
    result = "reaches" if facts.tuned.reached else "is the widest tried and does not surely reach"
    return f"ef_search {point['ef']} {result} {config.recall_target}: {measured}"


def _exact(facts: IndexReport) -> str:
    exact, graph = facts.times.exact_us[1], facts.times.graph_us[1]
    beside = f"{exact:,.0f} us a query against {graph:,.0f} us through the graph"
    if not facts.parameters.exact:
        return f"exact search would take {beside}"
    return f"every search is exact{facts.why_exact}: {beside}"


def frontier(report: Mapping[str, Any]) -> Figure:
    """Plot recall@k against the time of a query, for each measured width of the search.

    Args:
        report: as `report_of` returns it.
    """
    figure, axes = plt.subplots(figsize=(5.4, 4.0), layout="constrained")
    curve = report["curve"]
    axes.plot(
        [point["us_per_query"] for point in curve],
        [point["recall"] for point in curve],
        marker="o",
        color=MODEL_COLOUR,
    )
    own = next(point for point in curve if point["ef"] == report["ef_search"])
    axes.plot(
        [own["us_per_query"]],
        [own["recall"]],
        marker="o",
        markersize=11,
        color=MODEL_COLOUR,
        fillstyle="none",
        linestyle="",
        label=f"ef_search {own['ef']}: {own['us_per_query']:,.0f} µs, recall {own['recall']:.4f}",
    )
    exact = report["exact_us"]["1"]
    label = f"exact search: {exact:,.0f} µs"
    axes.plot([exact], [1], "*", markersize=12, color=BASELINE_COLOUR, label=label)
    axes.legend(frameon=False, fontsize=8, loc="best")
    chosen = report["chosen"]
    said = "exact search chosen" if chosen["exact"] else f"ef_search = {report['ef_search']} chosen"
    _dress(axes, report, curve, f"M {chosen['m']} on all {report['items']:,} items, {said}")
    _label_widths(axes, sorted(curve, key=lambda point: point["ef"] != report["ef_search"]))
    return figure


def _label_widths(axes: Axes, curve: Sequence[Mapping[str, Any]]) -> None:
    """The search width beside each point that has room for it; points of a tiny catalogue lie together.

    Args:
        curve: the chosen point first, which is labelled in any case.
    """
    at = axes.transData.transform([(each["us_per_query"], each["recall"]) for each in curve])
    labelled: list[Any] = []
    for point, place in zip(curve, at, strict=True):
        if all(abs(place - other).max() > LABEL_PIXELS for other in labelled):
            labelled.append(place)
            axes.annotate(
                f"ef {point['ef']}",
                (point["us_per_query"], point["recall"]),
                (5, -9),
                textcoords="offset points",
                fontsize=7,
                fontweight="normal" if len(labelled) > 1 else "bold",
                annotation_clip=True,
            )


def _dress(axes: Axes, report: Mapping[str, Any], curve: Sequence[Mapping[str, Any]], title: str) -> None:
    axes.axhline(report["target"], color=QUIET_COLOUR, linestyle="--", linewidth=1)
    axes.annotate(
        f"target {report['target']}",
        (0.01, report["target"]),
        (0, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=8,
    )
    axes.set(
        xscale="log",
        xlabel="microseconds a query, one thread",
        ylabel=f"recall@{report['k']} against exact search",
        title=title,
    )
    lowest = min(report["target"], *(point["recall"] for point in curve))
    bottom = max(report["target"] - SHOWN, lowest - 0.25 * (1 - lowest))
    axes.set_ylim(bottom, 1 + 0.05 * (1 - bottom))
    low, high = axes.get_xlim()
    if high < MIN_SPAN * low:  # one or two points: at least two ticks on the axis, and room for labels
        middle = (low * high) ** 0.5
        low, high = middle / MIN_SPAN**0.5, middle * MIN_SPAN**0.5
        axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    style_axes(axes)
