"""How wide to search a graph: the width that its recall needs, or that a budget of time allows.

A target is reached where recall@k against exact search holds it with two standard errors and a little more
to spare on validation queries; what is reported is measured on test queries.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hnswlib
import numpy as np

from export.index.clock import Clock, graph_search
from export.index.graph import Rows, Vectors
from export.index.search import Shares, approximate, least_scores, shares_above
from train.config.index import IndexConfig

EF_LADDER = (10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)
FIRST = 400  # queries that tell whether the others need asking, too
SPARE = 0.005  # of recall beyond the target: test queries are harder than validation queries at times

Point = dict[str, Any]


@dataclass(frozen=True)
class Tuned:
    """A search width, and how it was come by.

    Args:
        ef_search: the width.
        reached: whether it reaches the target.
        curve: for each width tried `ef`, `recall`, `standard_error`, `queries`, `us_per_query`.
    """

    ef_search: int
    reached: bool
    curve: Sequence[Point]

    @property
    def point(self) -> Point:
        """Of the curve, where the width is."""
        return next(point for point in self.curve if point["ef"] == self.ef_search)


def tune(index: hnswlib.Index, vectors: Vectors, queries: Vectors, config: IndexConfig) -> Tuned:
    """The smallest search width that reaches the target on these queries.

    The ladder is walked one rung past the choice, so that the curve shows what it is a choice between.
    """
    curve: list[Point] = []
    chosen = 0
    for point in walk(index, vectors, queries, config):
        curve.append(point)
        if chosen:
            break
        if enough(point, config.recall_target):
            chosen = point["ef"]
    return Tuned(chosen or curve[-1]["ef"], bool(chosen), curve)


def afford(
    index: hnswlib.Index, vectors: Vectors, queries: Vectors, config: IndexConfig, budget: float
) -> Tuned:
    """The widest search that takes no more than `budget` microseconds; the narrowest if all take more."""
    curve: list[Point] = []
    for point in walk(index, vectors, queries, config):
        curve.append(point)
        if point["us_per_query"] > budget or point["recall"] == 1:
            break
    within = [point for point in curve if point["us_per_query"] <= budget]
    chosen = within[-1] if within else curve[0]
    return Tuned(chosen["ef"], enough(chosen, config.recall_target), curve)


def enough(point: Mapping[str, float], target: float) -> bool:
    """Whether a width is to be trusted with queries that it was not chosen on."""
    return point["recall"] - 2 * point["standard_error"] >= aim(target)


def aim(target: float) -> float:
    """What recall has to be on validation queries, for a target on others."""
    return target + SPARE if target + SPARE <= 1 else target


def walk(
    index: hnswlib.Index,
    vectors: Vectors,
    queries: Vectors,
    config: IndexConfig,
    clock: Clock | None = None,
    least: Shares | None = None,
    ladder: Sequence[int] = (),
) -> Iterator[Point]:
    """Recall and time at each rung of the ladder; it ends where the graph does.

    A width that is clearly short of the target after some hundred queries is not asked the others.

    Args:
        clock: that times the searches; one of this graph alone if not given.
        least: `least_scores` of these queries, where they are known already.
        ladder: widths to try, at least k; all of `rungs` if not given.

    Raises:
        GateRefused: the graph is so torn that a query reaches fewer than k items.
    """
    least = least_scores(vectors, queries, config.k) if least is None else least
    clock = clock or Clock(graph_search(index, config.k, 2 * config.k), queries)
    first, rest = _first_and_rest(len(queries), config.seed)
    for ef in ladder or rungs(config.k, len(vectors)):

        def shares(some: Rows, ef: int = ef) -> Shares:
            asked = queries[some]
            found = approximate(index, asked, config.k, ef, config.threads or os.cpu_count() or 1)
            return shares_above(found, vectors, asked, least[some])

        each = shares(first)
        if len(rest) and _point(each)["recall"] + 2 * _point(each)["standard_error"] >= aim(
            config.recall_target
        ):
            each = np.concatenate([each, shares(rest)])
        us = clock.microseconds(graph_search(index, config.k, ef))
        yield {"ef": ef, **_point(each), "us_per_query": us}
        if ef >= len(vectors):
            break


def rungs(k: int, count: int) -> tuple[int, ...]:
    """Widths to try: none below twice k, for no search is served that is narrower (`protos/beam.py`).

    Args:
        k: items wanted.
        count: N, items in the graph.
    """
    least = max(k, min(2 * k, count))
    return least, *(ef for ef in EF_LADDER if ef > least)


def _first_and_rest(count: int, seed: int) -> tuple[Rows, Rows]:
    order = np.random.default_rng(seed).permutation(count)
    return order[:FIRST], order[FIRST:]


def _point(each: Shares) -> Point:
    error = float(each.std() / len(each) ** 0.5)
    return {"recall": float(each.mean()), "standard_error": error, "queries": len(each)}
