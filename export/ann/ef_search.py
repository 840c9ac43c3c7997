"""The `ef_search` of a graph: the smallest that reaches a recall target.

An ef reaches the target if its recall@k against exact search, less two standard errors and a margin, does
so on validation queries. The reported recall is measured on test queries.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twinspire.export.ann.graph import Vectors
from twinspire.export.ann.search import approximate, kth_scores, shares_above
from twinspire.protos.errors import MissingStage
from twinspire.protos.nearest.coded_vectors import CodedVectors, is_compiled
from twinspire.train.config.index import IndexConfig

EF_LADDER = (
    *(10, 12, 16, 20, 24, 32, 40, 48, 56, 64, 72, 80, 96, 112, 128, 160, 192, 224, 256),
    *(320, 384, 448, 512, 640, 768, 896, 1024, 1536, 2048),
)
MOST = 2_000  # queries that are searched
TIMED = 120  # queries whose median time is reported
MARGIN = 0.005  # recall beyond the target, because test queries may be harder than validation queries

Point = dict[str, Any]


@dataclass(frozen=True)
class EfChoice:
    """An ef and the measurements it was chosen by.

    Args:
        ef_search: the chosen ef: the items that a search holds as its candidates.
        reached: whether it reaches the target.
        curve: for each measured `ef` its `recall`, `standard_error`, `queries`, `us_per_query`.
    """

    ef_search: int
    reached: bool
    curve: Sequence[Point]

    @property
    def point(self) -> Point:
        """The point of the curve at the chosen ef."""
        return next(point for point in self.curve if point["ef"] == self.ef_search)


def choose_ef(graph: CodedVectors, queries: Vectors, config: IndexConfig) -> EfChoice:
    """The smallest ef that reaches the target on these queries, or the largest if none does.

    The curve has one point beyond the choice, to show the alternative, and ends at the size of the graph.

    Raises:
        GateRefused: the graph is so disconnected that a query reaches fewer than k items.
        MissingStage: the search of graphs is not compiled here.
    """
    if not is_compiled():
        raise MissingStage(
            "index: the search of graphs is not compiled here, so its recall cannot be measured; see what "
            '`make setup` says, or compare all items, with [index] search = "exact"'
        )
    vectors = graph.vectors
    queries = queries[np.random.default_rng(config.seed).permutation(len(queries))[:MOST]]
    bounds = kth_scores(vectors, queries, config.k)
    curve: list[Point] = []
    chosen = 0
    for ef in ef_ladder(config.k, len(vectors)):
        each = shares_above(approximate(graph, queries, config.k, ef), vectors, queries, bounds)
        error = float(each.std() / len(each) ** 0.5)
        point = {"ef": ef, "recall": float(each.mean()), "standard_error": error, "queries": len(each)}
        curve.append(point | {"us_per_query": _search_us(graph, queries, config.k, ef)})
        if chosen:
            break
        if reaches_target(curve[-1], config.recall_target):
            chosen = ef
        if ef >= len(vectors):
            break
    return EfChoice(chosen or curve[-1]["ef"], bool(chosen), curve)


def reaches_target(point: Mapping[str, float], target: float) -> bool:
    """Whether an ef will reach the target on queries that it was not chosen on."""
    wanted = target + MARGIN if target + MARGIN <= 1 else target
    return point["recall"] - 2 * point["standard_error"] >= wanted


def ef_ladder(k: int, count: int) -> tuple[int, ...]:
    """The efs to measure: none below 2 k, because the service never searches with less (`graph_width`).

    Args:
        k: items wanted.
        count: N, items in the graph.
    """
    least = max(k, min(2 * k, count))
    return least, *(ef for ef in EF_LADDER if ef > least)


def _search_us(graph: CodedVectors, queries: Vectors, k: int, ef: int) -> float:
    """Median microseconds of processor time that one query takes on one thread."""
    taken = []
    for n in range(min(len(queries), TIMED)):
        begun = time.thread_time_ns()
        graph.search(queries[n : n + 1], k, ef)
        taken.append(time.thread_time_ns() - begun)
    return float(np.median(taken)) / 1000
