"""A scale report: one document, a page with a plot, and the tables of the page for the terminal."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import psutil
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from export.benchmark import report_writer as writer
from export.benchmark.scale.extrapolation import (
    WIDE,
    Line,
    PowerLaw,
    at_target,
    capacity,
    laws_of,
    line,
    points,
    power_law,
    without_missed,
)
from export.benchmark.scale.measuring.documents import ITEMS_A_TOPIC
from export.benchmark.scale.measuring.settings import DIMENSION, TOWER
from export.markdown import plain
from protos.system.timing import p99_remark
from train.evaluation.plots import BASELINE_COLOUR, COLOURS, MODEL_COLOUR, QUIET_COLOUR, style_axes

PAGE = "SCALE.md"
HOUR = 3600
SINGLE_THREAD = ("graph", "exact", "graph_batch", "exact_batch")  # searches on one thread
PEAKED = ("encode", "build")  # steps with a peak
PEAKS = "this system cannot reset a peak, so peaks include what a process held before its step began"

Document = Mapping[str, Any]


def about(items: float) -> str:
    """A number of items with two significant digits."""
    for unit, name in ((1e9, " billion"), (1e6, " million")):
        if items >= unit:
            return f"{float(f'{items / unit:.2g}'):,g}{name}"
    return f"{float(f'{items:.2g}'):,.0f}"


def hours(seconds: float) -> str:
    """Seconds as hours."""
    return f"{seconds / HOUR:,.1f}"


def milliseconds(micro: float) -> str:
    """Microseconds as milliseconds, with two or three significant digits."""
    digits = 3 if micro < 100 else 2 if micro < 10_000 else 1 if micro < 100_000 else 0
    return f"{micro / 1000:,.{digits}f}"


BUILDING = (
    writer.Column("items", "items", writer.whole),
    writer.Column("encode, items/s", "encode.items_per_s", writer.whole),
    writer.Column("peak", "encode.peak_bytes", writer.size),
    writer.Column("build, s", "build.seconds", "{:,.1f}".format),
    writer.Column("peak", "build.peak_bytes", writer.size),
    writer.Column("graph, file", "build.file_bytes", writer.size),
    writer.Column("load, s", "load.seconds", "{:.2f}".format),
    writer.Column("serving, RSS", "load.rss_bytes", writer.size),
    writer.Column("PSS", "load.pss_bytes", writer.size),
)
QUERIES = (
    writer.Column("items", "items", writer.whole),
    writer.Column("ef", "search.ef_search"),
    writer.Column("recall@10", "search.recall", "{:.4f}".format),
    writer.Column("p50, ms", "search.graph.p50_us", milliseconds),
    writer.Column("p99, ms", "search.graph.p99_us", milliseconds),
    writer.Column("queries/s, 32 at a time", "search.graph_batch.queries_per_s", writer.whole),
    writer.Column("exact: p50, ms", "search.exact.p50_us", milliseconds),
    writer.Column("p99, ms", "search.exact.p99_us", milliseconds),
    writer.Column("queries/s, 32 at a time", "search.exact_batch.queries_per_s", writer.whole),
    writer.Column("queries timed", "search.exact.calls", writer.whole),
)
INT8 = (
    writer.Column("threads", "threads"),
    writer.Column("one query, p50, ms", "one", milliseconds),
    writer.Column("a query among 32, ms", "among", milliseconds),
)
MACHINES = (
    writer.Column("memory, GiB", "gib"),
    writer.Column(f"items, D = {DIMENSION}", "items", about),
    writer.Column("with a swap under load", "items_beside_another", about),
    writer.Column(f"items, D = {WIDE}", "items_wide", about),
    writer.Column("building the graph, h", "build_s", hours),
    writer.Column("encode, build, load, h", "rebuild_s", hours),
)


class Curve(NamedTuple):
    """A figure by number of items, in a panel of the plot; `factor` converts it to the panel's unit."""

    panel: int
    name: str
    path: str
    factor: float
    fit: Callable[[Sequence[float], Sequence[float]], PowerLaw | Line | None]
    colour: str


PANELS = {
    "To build and load": "seconds",
    "A query at the target of recall, one thread": "milliseconds",
    "Resident memory": "megabytes",
}
CURVES = (
    Curve(0, "graph", "build.seconds", 1, power_law, MODEL_COLOUR),
    Curve(0, "encoding", "encode.seconds", 1, power_law, BASELINE_COLOUR),
    Curve(0, "loading", "load.seconds", 1, line, QUIET_COLOUR),
    Curve(1, "exact, float32", "search.exact.p50_us", 1e-3, power_law, BASELINE_COLOUR),
    Curve(1, "graph, p50", "search.graph.p50_us", 1e-3, power_law, MODEL_COLOUR),
    Curve(1, "graph, p99", "search.graph.p99_us", 1e-3, power_law, COLOURS[3]),
    Curve(2, "graph's file", "build.file_bytes", 1e-6, power_law, QUIET_COLOUR),
    Curve(2, "serving", "load.rss_bytes", 1e-6, line, MODEL_COLOUR),
    Curve(2, "building, peak", "build.peak_bytes", 1e-6, line, BASELINE_COLOUR),
)
INT8_POINTS = {1: ("exact.one_thread_b1.p50_us", 1e-3), 2: ("exact.rss_bytes", 1e-6)}  # by panel


def document_of(
    sizes: Sequence[Document], vectors: Document | None, left_out: str, seed: int
) -> dict[str, Any]:
    """The whole report, ready for JSON.

    The smallest of the sizes comes first. Where there are no vectors, `left_out` says why.
    """
    laws, found = laws_of(sizes), writer.environment()
    return {
        **found,
        "machine": {**found["machine"], "memory_bytes": psutil.virtual_memory().total},
        "seed": seed,
        "sizes": list(sizes),
        "vectors": vectors,
        "left_out": left_out,
        "capacity": None if laws is None else capacity(laws),
    }


def write(document: Document, folder: Path) -> dict[str, str]:
    """Write page and plot; returns their paths by name."""
    page, plot = writer.write_page(folder / PAGE, parts_of(document))
    return {"page": str(page), "plot": str(plot)}


def show(document: Document, console: Console) -> None:
    """The tables of the page, and where the page is."""
    writer.show_parts([*parts_of(document), writer.Lines([f"report: {document['page']}"])], console)


def parts_of(document: Document) -> list[writer.Part]:
    """The content of page and terminal."""
    sizes = document["sizes"]
    searches = [each["search"] for each in sizes]
    shares = [float(each[way]["on_processor"]) for each in searches for way in SINGLE_THREAD]
    missed = [each["items"] for each in sizes if not at_target(each)]
    calls = {  # timed queries, each the median of its passes
        f"{each['items']:,} items, {way}": each["search"][way]["calls"]
        for each in sizes
        for way in ("graph", "exact")
    }
    parts: list[writer.Part] = [
        "# What one machine holds",
        writer.where(document, f"Seed {document['seed']}. Written by `make scale`."),
        writer.busy(min(shares)),
        _method(sizes[0]),
        writer.ReportTable(BUILDING, sizes),
        writer.Lines(["" if all(each[step]["peak_is_own"] for each in sizes for step in PEAKED) else PEAKS]),
        writer.ReportTable(QUERIES, without_missed(sizes)),
        writer.Lines([p99_remark(calls)]),
        writer.Lines([f"recall is not reached at {items:,} items, so no time is given" for items in missed]),
        writer.Picture("scale.png", "Time and memory by number of items", lambda: figure(document)),
        f"Dashed lines: fits by least squares of relative errors, over {len(sizes)} sizes; one is too few.",
        "## Exact search over int8 vectors",
        *_int8(document),
    ]
    if document["capacity"] is not None:  # by the fits of at least two sizes
        extrapolated = f"By these fits; more than {document['capacity']['largest']:,} items are extrapolated."
        machines = writer.ReportTable(MACHINES, document["capacity"]["machines"], "capacity, extrapolated")
        parts += ["## Capacity", extrapolated, machines]
    return parts


def _method(size: Document) -> str:
    encode, build, search = size["encode"], size["build"], size["search"]
    return (
        f"Items: texts of about {encode['characters']:.0f} characters, such as “{plain(encode['example'])}”, "
        f"{ITEMS_A_TOPIC} a topic. Queries: others of the same topics. Towers: `bag`, untrained, "
        f"D = {DIMENSION}, {TOWER.buckets:,} buckets. HNSW: M {build['m']}, ef_construction "
        f"{build['ef_construction']}, ef_search for recall@{search['k']} ≥ {search['target']} on half of the "
        f"queries. Times: medians of {search['graph']['passes']} calls for each of the other "
        f"{search['queries']:,}, on one thread, without the query tower; encoding and building on all "
        f"{build['threads']} cores. Memory: of a process for each step, libraries included; a service "
        f"reads mapped vectors beside it, {DIMENSION * 4} bytes an item."
    )


def _int8(document: Document) -> list[writer.Part]:
    vectors = document["vectors"]
    if vectors is None:
        return [writer.Lines([f"int8 vectors: not measured, {document['left_out']}"])]
    found = vectors["exact"]
    rows = [
        {
            "threads": threads,
            "one": found[f"{name}_b1"]["p50_us"],
            "among": found[f"{name}_b32"]["p50_us"] / found[f"{name}_b32"]["batch"],
        }
        for name, threads in (("one_thread", 1), ("all_threads", found["threads"]))
        if f"{name}_b1" in found
    ]
    about = (
        f"{vectors['items']:,} clustered vectors, D = {found['dimension']}, mapped from a file of "
        f"{writer.size(vectors['vectors']['file_bytes'])}; the process holds "
        f"{writer.size(found['rss_bytes'])} with it, {writer.size(found['before_bytes'])} before. "
        f"recall@{found['k']} against float32: {found['recall']:.4f} ({found['queries']} queries)."
    )
    return [about, writer.ReportTable(INT8, rows, f"{vectors['items']:,} int8 vectors, exact search")]


def figure(document: Document) -> Figure:
    """Building, query and memory by number of items; logarithmic axes, fits as dashed lines."""
    drawn, panels = plt.subplots(1, len(PANELS), figsize=(13, 4.2), layout="constrained")
    for curve in CURVES:
        _draw(panels[curve.panel], curve, document["sizes"])
    if vectors := document["vectors"]:
        for panel, (path, factor) in INT8_POINTS.items():
            point = factor * writer.value(vectors, path)
            panels[panel].plot(vectors["items"], point, "D", color=QUIET_COLOUR, label="exact search, int8")
    for axes, (title, unit) in zip(panels, PANELS.items(), strict=True):
        axes.set(xscale="log", yscale="log", xlabel="items", ylabel=unit, title=title)
        axes.legend(frameon=False, fontsize=8)
        axes.margins(y=0.15)
        style_axes(axes)
    return drawn


def _draw(axes: Axes, curve: Curve, sizes: Sequence[Document]) -> None:
    """Points of a figure, and its fit."""
    counts, found = points(sizes, curve.path)
    if not counts:
        return
    values = [curve.factor * each for each in found]
    fit, label = curve.fit(counts, values), curve.name
    if isinstance(fit, PowerLaw):
        label = f"{curve.name}: N$^{{{fit.exponent:.2f}}}$"
    elif isinstance(fit, Line):
        label = f"{curve.name}: {fit.base:,.3g} + {fit.each * 1e6:,.3g} a million items"
    axes.plot(counts, values, "o", color=curve.colour, label=label)
    if fit is not None:
        places = np.geomspace(min(counts), max(counts), 100)
        axes.plot(places, [fit.at(each) for each in places], "--", color=curve.colour, linewidth=1, alpha=0.7)
