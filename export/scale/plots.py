"""How time and memory grow with the catalogue: one panel each for building, a query, and memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from export.scale.capacity import at_target
from export.scale.fits import Line, PowerLaw, power_law
from train.plots import BASELINE_COLOUR, COLOURS, MODEL_COLOUR, QUIET_COLOUR, quiet

MICRO = 1e-6

Document = Mapping[str, Any]


def figure(document: Document) -> Figure:
    """Three panels, both axes logarithmic, with what was fitted as lines."""
    drawn, (building, query, memory) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    sizes, laws = document["sizes"], document["laws"]
    _building(building, sizes, laws)
    _query(query, sizes, document["vectors"])
    _memory(memory, sizes, laws, document["vectors"])
    for axes in (building, query, memory):
        axes.set(xscale="log", yscale="log", xlabel="items")
        axes.legend(frameon=False, fontsize=8)
        axes.margins(y=0.15)
        quiet(axes)
    return drawn


def _building(axes: Axes, sizes: Sequence[Document], laws: Document | None) -> None:
    threads = sizes[0]["build"]["threads"]
    counts = [each["items"] for each in sizes]
    _points(axes, counts, [e["build"]["seconds"] for e in sizes], "graph", MODEL_COLOUR)
    encoding = [each["items"] / each["encode"]["items_per_s"] for each in sizes]
    _points(axes, counts, encoding, "encoding", BASELINE_COLOUR)
    loading = [each["load"]["seconds"] for each in sizes]
    if laws is None:
        axes.plot(counts, loading, "o", color=QUIET_COLOUR, label="loading")
    else:
        law = Line(**laws["load_s"])
        label = f"loading: {law.base:.2f} s + {law.each * 1e6:.1f} µs an item"
        axes.plot(counts, loading, "o", color=QUIET_COLOUR, label=label)
        _curve(axes, counts, law.at, QUIET_COLOUR)
    axes.set(ylabel="seconds", title=f"To make and load it, {threads} cores")


def _query(axes: Axes, sizes: Sequence[Document], vectors: Document | None) -> None:
    reached = [each for each in sizes if at_target(each)]
    exact = [each["search"]["exact"]["p50_us"] * MICRO * 1000 for each in sizes]
    _points(axes, [each["items"] for each in sizes], exact, "exact, float32", BASELINE_COLOUR)
    if reached:
        counts = [each["items"] for each in reached]
        for name, colour in (("p50", MODEL_COLOUR), ("p99", COLOURS[3])):
            taken = [each["search"]["graph"][f"{name}_us"] * MICRO * 1000 for each in reached]
            _points(axes, counts, taken, f"graph, {name}", colour)
    if vectors is not None:
        place = vectors["items"], vectors["exact"]["one_thread_b1"]["p50_us"] * MICRO * 1000
        axes.plot(*place, "D", color=QUIET_COLOUR, label="exact, int8")
    target = sizes[0]["search"]["target"]
    axes.set(ylabel="milliseconds", title=f"A query, graph at recall@10 ≥ {target}, one thread")


def _memory(axes: Axes, sizes: Sequence[Document], laws: Document | None, vectors: Document | None) -> None:
    counts = [each["items"] for each in sizes]
    files = [each["build"]["file_bytes"] / 1e6 for each in sizes]
    _points(axes, counts, files, "graph's file", QUIET_COLOUR)
    for step, key, name, colour in (
        ("load", "rss_bytes", "serving", MODEL_COLOUR),
        ("build", "peak_bytes", "building, peak", BASELINE_COLOUR),
    ):
        held = [each[step][key] / 1e6 for each in sizes]
        law = None if laws is None else Line(**laws["serving" if step == "load" else "building"])
        if law is None:
            axes.plot(counts, held, "o", color=colour, label=name)
            continue
        beyond = _beyond(counts, [each * 1e6 for each in held], law.base)
        label = f"{name}: {law.base / 1e6:,.0f} MB + {law.each:,.0f} B an item{beyond}"
        axes.plot(counts, held, "o", color=colour, label=label)
        _curve(axes, counts, Line(law.each / 1e6, law.base / 1e6).at, colour)
    if vectors is not None:
        held = vectors["exact"]["rss_bytes"] / 1e6
        axes.plot(vectors["items"], held, "D", color=QUIET_COLOUR, label="exact search, int8")
    axes.set(ylabel="megabytes", title="Resident memory")


def _beyond(counts: Sequence[int], held: Sequence[float], base: float) -> str:
    """The exponent of what lies beyond a process's base."""
    rest = [each - base for each in held]
    law = power_law(counts, rest) if min(rest) > 0 else None
    return "" if law is None else f" (N$^{{{law.exponent:.2f}}}$)"


def _points(axes: Axes, counts: Sequence[int], values: Sequence[float], name: str, colour: str) -> None:
    law: PowerLaw | None = power_law(counts, values)
    label = name if law is None else f"{name}: N$^{{{law.exponent:.2f}}}$"
    axes.plot(counts, values, "o", color=colour, label=label)
    if law is not None:
        _curve(axes, counts, law.at, colour)


def _curve(axes: Axes, counts: Sequence[int], at: Callable[[float], float], colour: str) -> None:
    places = np.geomspace(min(counts), max(counts), 100)
    axes.plot(places, [at(place) for place in places], "--", color=colour, linewidth=1, alpha=0.7)
