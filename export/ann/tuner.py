"""The HNSW index of a catalogue: the graph with the configured M and ef_construction, and its search width.

Small catalogues are searched exactly, and so are those where no width of the graph reaches the target.
"""

import time
from typing import Any

from twinspire.export.ann.ef_search import EfChoice, Point, tune
from twinspire.export.ann.graph import SPACE, Vectors, build_graph
from twinspire.protos.bundle import IndexParameters, Score
from twinspire.protos.errors import GateRefused
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.protos.nearest.search import EXACT_SHARE, graph_width
from twinspire.train.config.index import IndexConfig
from twinspire.train.progress import PROGRESS

# Coordinates, N x D, up to which every search is exact: 8 MiB, which fit in the cache of most processors.
# export/RESULTS.md has the measurement.
EXACT_SIZE = 1 << 21


def tune_index(
    vectors: Vectors, queries: Vectors, config: IndexConfig, score: Score
) -> tuple[CodedVectors | None, IndexParameters, dict[str, Any]]:
    """Build the index, and choose the smallest search width that reaches the configured recall.

    Args:
        vectors: (N, D), of the items.
        queries: (Q, D), at least one, to choose on; the index is evaluated on others.
        score: of the bundle.

    Returns:
        the graph, None where every search is exact; its parameters, and the report as JSON. Times are
        microseconds of processor time that one query takes.

    A graph in which a search reaches fewer than k items is built once more, denser.

    Raises:
        GateRefused: a search reaches fewer than k items in the denser graph, too.
    """
    if config.search == "exact":
        return None, *_exact(len(vectors), config, "as configured")
    if config.search == "auto" and _is_small(vectors, config):
        few = f"for there are at most {EXACT_SIZE:,} coordinates (items x dimensions)"
        return None, *_exact(len(vectors), config, few)
    begun = time.perf_counter()
    m, ef_construction = config.m, config.ef_construction
    for is_denser in (False, True):
        with PROGRESS.status(f"HNSW over {len(vectors):,} items, M {m}, ef_construction {ef_construction}"):
            wanted = IndexParameters(SPACE, m, ef_construction, config.k, config.seed)
            graph = build_graph(wanted, vectors, score, config.threads)
        seconds = time.perf_counter() - begun
        try:
            with PROGRESS.status("index: recall and time by search width"):
                tuned = tune(graph, queries, config)
            break
        except GateRefused:
            if is_denser:
                raise
            m, ef_construction = 2 * m, 2 * ef_construction
    parameters = IndexParameters(SPACE, m, ef_construction, tuned.ef_search, config.seed)
    report = _report(parameters, len(vectors), config) | {
        "reached": tuned.reached,
        "build_s": seconds,
        "bytes_per_item": graph.links.nbytes / len(vectors),
        "curve": list(tuned.curve),
    }
    text = f"M {m} and ef_construction {ef_construction}; {_width(tuned, config)}"
    if why := _why_exact(tuned, len(vectors), config):
        parameters, exact = _exact(len(vectors), config, why)
        return (
            None,
            parameters,
            exact | {"build_s": seconds, "curve": list(tuned.curve), "why": f"{text}; {exact['why']}"},
        )
    return graph, parameters, report | {"why": f"{text}."}


def _exact(count: int, config: IndexConfig, why: str) -> tuple[IndexParameters, dict[str, Any]]:
    """The parameters of exact search, and the report."""
    shape = config.m, config.ef_construction, 2 * config.k
    parameters = IndexParameters(SPACE, *shape, config.seed, exact=True)
    found = {"reached": True, "build_s": 0.0, "bytes_per_item": 0.0, "curve": list[Point]()}
    return parameters, {
        **_report(parameters, count, config),
        **found,
        "why": f"every search is exact, {why}.",
    }


def _report(parameters: IndexParameters, count: int, config: IndexConfig) -> dict[str, Any]:
    chosen = {name: getattr(parameters, name) for name in ("m", "ef_construction", "exact")}
    found = {"items": count, "k": config.k, "target": config.recall_target}
    return found | {"ef_search": parameters.ef_search, "chosen": chosen}


def _is_small(vectors: Vectors, config: IndexConfig) -> bool:
    """Whether exact search takes about as long as a graph, or a few tenths of a millisecond at most.

    The rule reads sizes alone, so the same catalogue is searched in the same way on every machine.
    """
    if graph_width(config.k, 2 * config.k, len(vectors)) is None:
        return True
    return vectors.size <= EXACT_SIZE


def _width(tuned: EfChoice, config: IndexConfig) -> str:
    """The search width, in words."""
    point = tuned.point
    result = "reaches" if tuned.reached else "is the largest tried and does not surely reach"
    measured = f"recall@{config.k} {point['recall']:.4f} at {point['us_per_query']:,.0f} us a query"
    return f"ef_search {point['ef']} {result} {config.recall_target}: {measured}"


def _why_exact(tuned: EfChoice, count: int, config: IndexConfig) -> str:
    """Why exact search is no slower, or the only search that meets the configuration; else empty."""
    if config.search != "auto":
        return ""
    if tuned.ef_search * EXACT_SHARE >= count:
        return f"for a search of width {tuned.ef_search} looks at as much of so few items"
    return "" if tuned.reached else "for no search width reaches the target"
