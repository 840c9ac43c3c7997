"""The index of a catalogue, with everything about it chosen: the graph, the width, or exact search.

    made = index.make(vectors, queries, config, score, console)
    index.save(made.graph, folder / bundle.INDEX)
    recall = index.recall_as_served(made, vectors, test_queries, config.k)

Which graph to build is chosen on a sample; its width, and whether exact search is no slower, on the whole.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hnswlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from export.index.account import Account, report_of
from export.index.graph import SPACE, Vectors, build_as
from export.index.plots import frontier
from export.index.rivals import Rivals, compare
from export.index.search import recalls, served
from export.index.sweep import Swept, choose, drawn, grid, sweep
from export.index.width import Tuned, afford, tune, walk
from protos.beam import graph_width
from protos.bundle import IndexParameters, Score
from protos.errors import GateRefused
from train.config.index import IndexConfig

Shape = tuple[int, int]  # M and ef_construction


@dataclass(frozen=True)
class Made:
    """An index, and how it was come by.

    Args:
        graph: over all items.
        parameters: for the manifest.
        report: what was tried, what was chosen and why, as JSON says it.
        figure: recall against time, of all that was tried.
    """

    graph: hnswlib.Index
    parameters: IndexParameters
    report: dict[str, Any]
    figure: Figure


@dataclass(frozen=True)
class Built:
    """A graph over all items, and the width that was found for it.

    Args:
        graph: as it was built.
        shape: M and ef_construction.
        tuned: the width.
        seconds: that building took.
    """

    graph: hnswlib.Index
    shape: Shape
    tuned: Tuned
    seconds: float


def make(vectors: Vectors, queries: Vectors, config: IndexConfig, score: Score, console: Console) -> Made:
    """The index that meets the configuration at the least time of a query.

    Args:
        vectors: (N, D), of the items.
        queries: (Q, D), at least one, to choose on; the index is to be judged on others.
        score: of the bundle.
        console: receives progress, and what could not be met.

    Raises:
        GateRefused: a search in the graph of all items reaches fewer than k of them.
    """
    shapes, swept = grid(config), list[Swept]()
    small = config.search == "auto" and _is_small(vectors, queries, config, score, shapes[0])
    chosen = shapes[0]
    if len(shapes) > 1 and config.search != "exact" and not small:
        swept = sweep(drawn(vectors, queries, config), config, score, console)  # the sample is let go of
        best = choose(swept, config)
        chosen = best.m, best.ef_construction
    attempts = [chosen] if small or config.search == "exact" else shapes[shapes.index(chosen) :]
    built = first_that_reaches(attempts, vectors, queries, config, score, console)
    ef_search = built.tuned.ef_search
    with console.status("index: exact search beside the graph"):
        rivals = compare(built.graph, vectors, queries, config.k, ef_search)
    exact = small or _exact_is_better(rivals, built.tuned, len(vectors), config)
    parameters = IndexParameters(SPACE, *built.shape, ef_search, config.seed, exact)
    account = Account(len(vectors), config, swept, chosen, built.tuned, rivals, parameters, built.seconds)
    report = report_of(account, built.graph)
    console.print(f"index: {report['why']}", highlight=False, soft_wrap=True)
    return Made(built.graph, parameters, report, frontier(report))


def recall_as_served(made: Made, vectors: Vectors, queries: Vectors, k: int) -> float:
    """Mean recall@k of what the service would answer, against exact search."""
    nothing = [np.empty(0, np.int64)] * len(queries)
    own = made.parameters
    found = served(made.graph, queries, vectors, k, own.ef_search, nothing, own.exact)
    return float(recalls(found, vectors, queries, k).mean())


def _is_small(vectors: Vectors, queries: Vectors, config: IndexConfig, score: Score, sparsest: Shape) -> bool:
    """Whether the narrowest search that is served, of the sparsest graph, is no faster than exact search."""
    if graph_width(config.k, 2 * config.k, len(vectors)) is None:
        return True
    if len(vectors) > config.sample:
        return False
    graph = build_as(_parameters(sparsest, config), vectors, score, config.threads)
    return compare(graph, vectors, queries, config.k, 2 * config.k, sizes=(1,)).exact_is_no_slower


def _parameters(shape: Shape, config: IndexConfig) -> IndexParameters:
    return IndexParameters(SPACE, *shape, config.k, config.seed)


def first_that_reaches(
    shapes: Sequence[Shape],
    vectors: Vectors,
    queries: Vectors,
    config: IndexConfig,
    score: Score,
    console: Console,
) -> Built:
    """The first graph over all items whose search reaches the target; the last one if none does.

    A sample is easier than the whole, so that the graph that was chosen on it may fall short.

    Args:
        shapes: M and ef_construction of each, from sparse to dense.

    Raises:
        GateRefused: a search in the last one reaches fewer than k items.
    """
    for m, ef_construction in shapes[:-1]:
        try:
            built = _built((m, ef_construction), vectors, queries, config, score, console)
            if built.tuned.reached or config.latency_budget_us is not None:
                return built
            del built  # before the next is built beside it
        except GateRefused:  # torn: it reaches too little for any width to be found
            pass
        console.print(
            f"index: M {m} and ef_construction {ef_construction} do not reach {config.recall_target} on all "
            "items; building a denser graph",
            highlight=False,
            soft_wrap=True,
        )
    return _built(shapes[-1], vectors, queries, config, score, console)


def _built(
    shape: Shape, vectors: Vectors, queries: Vectors, config: IndexConfig, score: Score, console: Console
) -> Built:
    with console.status(f"HNSW over {len(vectors):,} items, M {shape[0]}, ef_construction {shape[1]}"):
        begun = time.perf_counter()
        graph = build_as(_parameters(shape, config), vectors, score, config.threads)
        seconds = time.perf_counter() - begun
    with console.status("index: recall and time by search width"):
        if config.search == "exact":  # nobody searches it: one point, to compare with
            first = next(walk(graph, vectors, queries, config))
            tuned = Tuned(first["ef"], False, [first])
        elif config.latency_budget_us is not None:
            tuned = afford(graph, vectors, queries, config, config.latency_budget_us)
        else:
            tuned = tune(graph, vectors, queries, config)
    return Built(graph, shape, tuned, seconds)


def _exact_is_better(rivals: Rivals, tuned: Tuned, count: int, config: IndexConfig) -> bool:
    """Whether all searches are to be exact: no slower, or the only ones that reach what is asked for."""
    if config.search != "auto":
        return config.search == "exact"
    if rivals.exact_is_no_slower or graph_width(config.k, tuned.ef_search, count) is None:
        return True
    if config.latency_budget_us is not None:
        return rivals.exact_us[1] <= config.latency_budget_us
    return not tuned.reached
