"""The HNSW index of a catalogue with all its parameters: the graph, the search width, or exact search.

Small catalogues are searched exactly. For others M and ef_construction are chosen on a sample, the search
width on all items.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hnswlib
from rich.console import Console

from export.ann.ef_search import EfChoice, Point, recall_curve, tune
from export.ann.graph import SPACE, Vectors, build_graph
from export.ann.graph_sweep import SweptGraph, choose, draw_sample, grid, sweep
from export.ann.report import IndexReport, report_of
from export.ann.timer import compare
from protos.bundle import IndexParameters, Score
from protos.errors import GateRefused
from protos.search import EXACT_SHARE, graph_width
from train.config.index import IndexConfig

Shape = tuple[int, int]  # M and ef_construction
# Coordinates, N x D, up to which every search is exact: 8 MiB, which fit in the cache of most processors.
# export/RESULTS.md has the measurement.
EXACT_SIZE = 1 << 21
SMALL = f", for there are at most {EXACT_SIZE:,} coordinates (items x dimensions)"


@dataclass(frozen=True)
class BuiltGraph:
    """A graph over all items, and the search width that was found for it.

    Args:
        shape: M and ef_construction.
        tuned: the width.
        seconds: that building took.
    """

    graph: hnswlib.Index
    shape: Shape
    tuned: EfChoice
    seconds: float


def tune_index(
    vectors: Vectors, queries: Vectors, config: IndexConfig, score: Score, console: Console
) -> tuple[hnswlib.Index, IndexParameters, dict[str, Any]]:
    """Build the index that meets the configuration at the least time per query.

    Args:
        vectors: (N, D), of the items.
        queries: (Q, D), at least one, to choose on; the index is evaluated on others.
        score: of the bundle.
        console: receives progress and warnings.

    Returns:
        the graph, its parameters, and the report of `export.ann.report`.

    Raises:
        GateRefused: a search in the graph of all items reaches fewer than k of them.
    """
    shapes, swept = grid(config), list[SweptGraph]()
    small = config.search == "auto" and _is_small(vectors, config)
    chosen = shapes[0]
    if len(shapes) > 1 and config.search != "exact" and not small:
        swept = sweep(draw_sample(vectors, queries, config), config, score, console)
        best = choose(swept)
        chosen = best.m, best.ef_construction
    attempts = [chosen] if small or config.search == "exact" else shapes[shapes.index(chosen) :]
    built = first_that_reaches(attempts, vectors, queries, config, score, console)
    ef_search = built.tuned.ef_search
    with console.status("index: exact search beside the graph"):
        times = compare(built.graph, vectors, queries, config.k, ef_search)
    exact = SMALL if small else _why_exact(built.tuned, len(vectors), config)
    parameters = IndexParameters(SPACE, *built.shape, ef_search, config.seed, bool(exact))
    facts = IndexReport(
        len(vectors), config, swept, chosen, built.tuned, times, parameters, built.seconds, exact
    )
    report = report_of(facts, built.graph)
    return built.graph, parameters, report


def _is_small(vectors: Vectors, config: IndexConfig) -> bool:
    """Whether exact search takes about as long as a graph, or a few tenths of a millisecond at most.

    The rule reads sizes alone, so the same catalogue is searched in the same way on every machine.
    """
    if graph_width(config.k, 2 * config.k, len(vectors)) is None:
        return True
    return vectors.size <= EXACT_SIZE


def _parameters(shape: Shape, config: IndexConfig) -> IndexParameters:
    return IndexParameters(SPACE, *shape, config.k, config.seed)


def first_that_reaches(
    shapes: Sequence[Shape],
    vectors: Vectors,
    queries: Vectors,
    config: IndexConfig,
    score: Score,
    console: Console,
) -> BuiltGraph:
    """Build graphs over all items until one reaches the target; the last one is taken if none does.

    All items are harder to search than a sample, so the graph that was chosen on the sample may fail.

    Args:
        shapes: M and ef_construction of each, from sparse to dense.

    Raises:
        GateRefused: a search in the last one reaches fewer than k items.
    """
    for m, ef_construction in shapes[:-1]:
        try:
            built = _build((m, ef_construction), vectors, queries, config, score, console)
            if built.tuned.reached:
                return built
            del built  # frees the graph before the next one is built
        except GateRefused:  # the graph is disconnected
            pass
        console.print(
            f"index: M {m} and ef_construction {ef_construction} do not reach {config.recall_target} on all "
            "items; building a denser graph",
            highlight=False,
            soft_wrap=True,
        )
    return _build(shapes[-1], vectors, queries, config, score, console)


def _build(
    shape: Shape, vectors: Vectors, queries: Vectors, config: IndexConfig, score: Score, console: Console
) -> BuiltGraph:
    with console.status(f"HNSW over {len(vectors):,} items, M {shape[0]}, ef_construction {shape[1]}"):
        begun = time.perf_counter()
        graph = build_graph(_parameters(shape, config), vectors, score, config.threads)
        seconds = time.perf_counter() - begun
    with console.status("index: recall and time by search width") as status:

        def show(point: Point) -> None:
            status.update(
                f"index: search width {point['ef']}: recall@{config.k} {point['recall']:.4f} at "
                f"{point['us_per_query']:,.0f} µs a query; target {config.recall_target}"
            )

        if config.search == "exact":  # the graph is not searched: one point, for comparison
            first = next(recall_curve(graph, vectors, queries, config))
            tuned = EfChoice(first["ef"], False, [first])
        else:
            tuned = tune(graph, vectors, queries, config, show)
    return BuiltGraph(graph, shape, tuned, seconds)


def _why_exact(tuned: EfChoice, count: int, config: IndexConfig) -> str:
    """Why exact search is no slower, or the only search that meets the configuration; else empty."""
    if config.search != "auto":
        return ", as configured" if config.search == "exact" else ""
    if tuned.ef_search * EXACT_SHARE >= count:
        return f", for a search of width {tuned.ef_search} looks at as much of so few items"
    return "" if tuned.reached else ", for no graph reaches the target"
