"""Exact search against the graph: whichever is faster for one query on one thread answers them all."""

from dataclasses import dataclass

import hnswlib
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from export.index.clock import graph_search, take_turns
from export.index.graph import Vectors
from protos.beam import exact_search

BATCHES = (1, 32)


@dataclass(frozen=True)
class Rivals:
    """Microseconds of a query, by batch size, on one thread.

    Args:
        exact_us: comparing with every item, as `serving/index.py` does.
        graph_us: the graph at its width.
    """

    exact_us: dict[int, float]
    graph_us: dict[int, float]

    @property
    def exact_is_no_slower(self) -> bool:
        """For one query at a time, which is what somebody waits for."""
        return self.exact_us[1] <= self.graph_us[1]


def compare(
    graph: hnswlib.Index,
    vectors: Vectors,
    queries: Vectors,
    k: int,
    ef: int,
    sizes: tuple[int, ...] = BATCHES,
) -> Rivals:
    """Time both in short turns, on the same queries."""
    exact_us, graph_us = {}, {}
    for size in sizes:
        batches = [queries[n : n + size] for n in range(0, max(1, len(queries) - size + 1), size)]
        contenders = {
            "exact": lambda asked: exact_search(asked, vectors, k),
            "graph": graph_search(graph, k, ef),
        }
        with threadpool_limits(1):  # matrix products keep to the thread that asks for them
            taken = take_turns(contenders, batches)
        exact_us[size], graph_us[size] = (taken[name] / len(batches[0]) for name in ("exact", "graph"))
    return Rivals(exact_us, graph_us)
