"""The HNSW index of a catalogue: the graph with the configured M and ef_construction, and its search width.

Small catalogues are searched exactly, and so are those where no width of the graph reaches the target.
"""

import time
from typing import Any

from rich.console import Console

from twinspire.export.ann.ef_search import EfChoice, Point, recall_curve, tune
from twinspire.export.ann.graph import SPACE, Vectors, build_graph
from twinspire.export.ann.report import IndexReport, report_of
from twinspire.export.ann.timer import compare
from twinspire.protos.bundle import IndexParameters, Score
from twinspire.protos.errors import GateRefused
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.protos.nearest.search import EXACT_SHARE, graph_width
from twinspire.train.config.index import IndexConfig

UNSEARCHED = (8, 100)  # M and ef_construction where every search is exact: a graph that is built quickly
# Coordinates, N x D, up to which every search is exact: 8 MiB, which fit in the cache of most processors.
# export/RESULTS.md has the measurement.
EXACT_SIZE = 1 << 21
SMALL = f", for there are at most {EXACT_SIZE:,} coordinates (items x dimensions)"


def tune_index(
    vectors: Vectors, queries: Vectors, config: IndexConfig, score: Score, console: Console
) -> tuple[CodedVectors, IndexParameters, dict[str, Any]]:
    """Build the index, and choose the smallest search width that reaches the configured recall.

    Args:
        vectors: (N, D), of the items.
        queries: (Q, D), at least one, to choose on; the index is evaluated on others.
        score: of the bundle.
        console: receives progress and warnings.

    Returns:
        the graph, its parameters, and the report of `export.ann.report`.

    A graph in which a search reaches fewer than k items is built once more, denser.

    Raises:
        GateRefused: a search reaches fewer than k items in the denser graph, too.
    """
    small = config.search == "auto" and _is_small(vectors, config)
    unsearched = small or config.search == "exact"
    configured = config.m, config.ef_construction
    denser = 2 * config.m, 2 * config.ef_construction
    sizes = [UNSEARCHED, configured] if unsearched else [configured, denser]
    begun = time.perf_counter()
    for m, ef_construction in sizes:
        with console.status(f"HNSW over {len(vectors):,} items, M {m}, ef_construction {ef_construction}"):
            wanted = IndexParameters(SPACE, m, ef_construction, config.k, config.seed)
            graph = build_graph(wanted, vectors, score, config.threads)
        seconds = time.perf_counter() - begun
        try:
            tuned = _search_width(graph, queries, config, console)
            break
        except GateRefused:
            if (m, ef_construction) == sizes[-1]:
                raise
    with console.status("index: exact search beside the graph"):
        times = compare(graph, queries, config.k, tuned.ef_search)
    exact = SMALL if small else _why_exact(tuned, len(vectors), config)
    parameters = IndexParameters(SPACE, m, ef_construction, tuned.ef_search, config.seed, bool(exact))
    facts = IndexReport(len(vectors), config, tuned, times, parameters, seconds, exact)
    return graph, parameters, report_of(facts, graph)


def _is_small(vectors: Vectors, config: IndexConfig) -> bool:
    """Whether exact search takes about as long as a graph, or a few tenths of a millisecond at most.

    The rule reads sizes alone, so the same catalogue is searched in the same way on every machine.
    """
    if graph_width(config.k, 2 * config.k, len(vectors)) is None:
        return True
    return vectors.size <= EXACT_SIZE


def _search_width(graph: CodedVectors, queries: Vectors, config: IndexConfig, console: Console) -> EfChoice:
    with console.status("index: recall and time by search width") as status:

        def show(point: Point) -> None:
            status.update(
                f"index: search width {point['ef']}: recall@{config.k} {point['recall']:.4f} at "
                f"{point['us_per_query']:,.0f} µs a query; target {config.recall_target}"
            )

        if config.search == "exact":  # the graph is not searched: one point, for comparison
            first = next(recall_curve(graph, queries, config))
            return EfChoice(first["ef"], False, [first])
        return tune(graph, queries, config, show)


def _why_exact(tuned: EfChoice, count: int, config: IndexConfig) -> str:
    """Why exact search is no slower, or the only search that meets the configuration; else empty."""
    if config.search != "auto":
        return ", as configured" if config.search == "exact" else ""
    if tuned.ef_search * EXACT_SHARE >= count:
        return f", for a search of width {tuned.ef_search} looks at as much of so few items"
    return "" if tuned.reached else ", for no search width reaches the target"
