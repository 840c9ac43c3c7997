"""The HNSW index of a catalogue: the graph with the configured M and ef_construction, and its ef_search.

Small catalogues are searched exactly, and so are those where no ef of the graph reaches the target.
"""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from twinspire.export.ann.ef_search import EfChoice, Point, choose_ef
from twinspire.export.ann.graph import SPACE, Vectors, build_graph
from twinspire.export.ann.index_kind import TunedIndex
from twinspire.export.ann.search import exact, search_as_served
from twinspire.protos.bundle import IndexParameters, Score
from twinspire.protos.errors import GateRefused
from twinspire.protos.nearest.search import EXACT_SHARE, graph_width
from twinspire.train.config.index import IndexConfig
from twinspire.train.progress import PROGRESS

# Coordinates, N x D, up to which every search is exact: 8 MiB, which fit in the cache of most processors.
# export/RESULTS.md has the measurement.
EXACT_SIZE = 1 << 21


def tune(vectors: Vectors, queries: Vectors, config: IndexConfig, score: Score) -> TunedIndex:
    """Build the index, and choose the smallest ef_search that reaches the configured recall.

    Arguments are those of `IndexKind.tune`. Times in the report are microseconds of processor time that one
    query takes. A graph in which a search reaches fewer than k items is built once more, denser.

    Raises:
        GateRefused: a search reaches fewer than k items in the denser graph, too.
    """
    if config.search == "exact":
        return _exact(vectors, config, "as configured")
    if config.search == "auto" and _is_small(vectors, config):
        few = f"for there are at most {EXACT_SIZE:,} coordinates (items x dimensions)"
        return _exact(vectors, config, few)
    begun = time.perf_counter()
    m, ef_construction = config.m, config.ef_construction
    for is_denser in (False, True):
        with PROGRESS.status(f"HNSW over {len(vectors):,} items, M {m}, ef_construction {ef_construction}"):
            wanted = IndexParameters(SPACE, m, ef_construction, config.k, config.seed)
            graph = build_graph(wanted, vectors, score, config.threads)
        seconds = time.perf_counter() - begun
        try:
            with PROGRESS.status("index: recall and time by search width"):
                tuned = choose_ef(graph, queries, config)
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
    text = f"M {m} and ef_construction {ef_construction}; {_ef_text(tuned, config)}"
    if why := _why_exact(tuned, len(vectors), config):
        measured = {"build_s": seconds, "curve": list(tuned.curve)}
        return _exact(vectors, config, why, measured, f"{text}; ")
    search = partial(search_as_served, graph, ef_search=tuned.ef_search)
    return TunedIndex(parameters, report | {"why": f"{text}."}, search, graph)


def _exact(
    vectors: Vectors, config: IndexConfig, why: str, measured: Mapping[str, Any] | None = None, text: str = ""
) -> TunedIndex:
    """Exact search.

    Args:
        measured: of a graph that is not taken, for the report.
        text: of the report, about that graph.
    """
    parameters = IndexParameters(
        SPACE, config.m, config.ef_construction, 2 * config.k, config.seed, exact=True
    )
    report = _report(parameters, len(vectors), config) | {
        "reached": True,
        "build_s": 0.0,
        "bytes_per_item": 0.0,
        "curve": list[Point](),
        **(measured or {}),
        "why": f"{text}every search is exact, {why}.",
    }
    return TunedIndex(parameters, report, lambda queries, k: exact(queries, vectors, k))


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


def _ef_text(tuned: EfChoice, config: IndexConfig) -> str:
    """The ef_search, in words."""
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
