"""How long a search takes: one query after the other, on one thread, in short turns.

Processor time of the thread is what counts, so that a busy machine does not choose. Its caches and its clock
rate drift all the same, so contenders take turns, and what is not measured in the same turns is put in
relation to a search that always is.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import hnswlib
import numpy as np

from export.index.graph import Vectors

Search = Callable[[Vectors], object]

TURNS = 12
CALLS = 10  # counted calls of a contender in a turn
LEAST_TURNS = 3
PATIENCE = 2.0  # seconds for all turns together
SETTLING = 2  # calls at the start of a turn that are not counted: the caches hold the other's traces


def graph_search(graph: hnswlib.Index, k: int, ef: int) -> Search:
    """Searches in a graph, as the service asks it; `ef` is set each time, for others set it, too."""
    k = min(k, graph.get_current_count())

    def call(queries: Vectors) -> object:
        graph.set_ef(max(ef, k))
        return graph.knn_query(queries, k, num_threads=1)

    return call


def take_turns(contenders: Mapping[str, Search], batches: Sequence[Vectors]) -> dict[str, float]:
    """Median microseconds of each contender's calls, of different batches each time.

    Args:
        contenders: name -> search.
        batches: (B, D) each; all contenders are given the same, but not in the same turn, or the second would
            find in the processor's caches what the first has looked at.
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
    """Turns and counted calls, fewer where calls are long: those vary less, and patience ends."""
    affordable = int(PATIENCE * 1e9 / max(1, sum(once)))  # calls of each
    calls = max(1, min(CALLS, affordable // TURNS - SETTLING))
    return max(LEAST_TURNS, min(TURNS, affordable // (calls + SETTLING))), calls


class Clock:
    """Times searches one after the other as if all had been measured at the same moment.

    Args:
        yardstick: the search that each is timed beside.
        queries: (Q, D).
    """

    def __init__(self, yardstick: Search, queries: Vectors) -> None:
        self._yardstick = yardstick
        self._batches = [queries[n : n + 1] for n in range(min(len(queries), TURNS * CALLS))]
        for _ in range(2):  # the first time a graph is met in memory that nobody has read yet
            self._usual = take_turns({"yardstick": yardstick}, self._batches)["yardstick"]

    def microseconds(self, search: Search) -> float:
        """Of one query, median."""
        taken = take_turns({"search": search, "yardstick": self._yardstick}, self._batches)
        return taken["search"] * self._usual / taken["yardstick"]
