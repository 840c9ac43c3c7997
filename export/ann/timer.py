"""How long a search takes: one query after the other, on one thread, in short turns.

The timer counts the thread's processor time, so that other processes on the machine do not influence the
figures. Caches and clock rate still drift, so contenders take turns.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from twinspire.export.ann.graph import Vectors
from twinspire.protos.nearest.coded_vectors import CodedVectors

Search = Callable[[Vectors], object]

TURNS = 12
CALLS = 10  # counted calls of a contender in a turn
MIN_TURNS = 3
TIME_LIMIT = 2.0  # seconds for all turns together
SETTLING = 2  # uncounted calls at the start of a turn, while the caches hold another contender's data
BATCHES = (1, 32)


def median_search_us(contenders: Mapping[str, Search], batches: Sequence[Vectors]) -> dict[str, float]:
    """Median microseconds of each contender's calls, each on another batch.

    Args:
        contenders: name -> search.
        batches: (B, D) each. All contenders get the same batches, but not in the same turn, or the second
            would find the first one's data in the processor's caches.
    """
    taken: dict[str, list[int]] = {name: [] for name in contenders}
    places = {name: place for place, name in enumerate(contenders)}
    turns, calls = _plan([_timed(call, batches[0]) for call in contenders.values()])
    for turn in range(turns):
        for name in sorted(contenders, reverse=bool(turn % 2)):
            first = turn * calls + places[name] * len(batches) // len(contenders)
            for n in range(-SETTLING, calls):
                nanoseconds = _timed(contenders[name], batches[(first + n) % len(batches)])
                if n >= 0:
                    taken[name].append(nanoseconds)
    return {name: float(np.median(each)) / 1000 for name, each in taken.items()}


def _timed(call: Search, batch: Vectors) -> int:
    begun = time.thread_time_ns()
    call(batch)
    return time.thread_time_ns() - begun


def _plan(once: Sequence[int]) -> tuple[int, int]:
    """Number of turns, and counted calls in each; fewer of both if calls are long, which vary less."""
    affordable = int(TIME_LIMIT * 1e9 / max(1, sum(once)))  # calls of each
    calls = max(1, min(CALLS, affordable // TURNS - SETTLING))
    return max(MIN_TURNS, min(TURNS, affordable // (calls + SETTLING))), calls


def search_us(search: Search, queries: Vectors) -> float:
    """Median microseconds of a search with one of the queries (Q, D)."""
    batches = [queries[n : n + 1] for n in range(min(len(queries), TURNS * CALLS))]
    return median_search_us({"search": search}, batches)["search"]


@dataclass(frozen=True)
class ExactVsGraph:
    """Microseconds per query on one thread, by batch size.

    Args:
        exact_us: comparing with all items.
        graph_us: the graph at its search width.
    """

    exact_us: dict[int, float]
    graph_us: dict[int, float]


def compare(graph: CodedVectors, queries: Vectors, k: int, ef: int) -> ExactVsGraph:
    """Time exact search and the graph in turns, on the same queries."""
    exact_us, graph_us = {}, {}
    for size in BATCHES:
        batches = [queries[n : n + size] for n in range(0, max(1, len(queries) - size + 1), size)]
        contenders = {
            "exact": lambda batch: graph.exact(batch, k),
            "graph": lambda batch: graph.search(batch, k, ef),
        }
        with threadpool_limits(1):  # keeps matrix products on the calling thread
            taken = median_search_us(contenders, batches)
        exact_us[size], graph_us[size] = (taken[name] / len(batches[0]) for name in ("exact", "graph"))
    return ExactVsGraph(exact_us, graph_us)
