"""Which graph to build: M and ef_construction compared on a sample of the items.

The sample is drawn evenly, and its graphs are searched with validation queries. Recall gets harder with the
number of items, and for sparse graphs faster than for dense ones; how fast shows between a quarter of the
sample and all of it, and the cost is carried on to the whole catalogue at that rate.

Graphs are tried from the sparsest to the densest, one at a time in memory beside the first, which all are
timed beside. Once two in a row take clearly longer to the same recall than the best so far, still
denser ones are left out.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hnswlib
import numpy as np
from rich.console import Console

from export.index.clock import Clock, graph_search
from export.index.graph import SPACE, Vectors, build_as, links_size
from export.index.growth import PART, Growth, cost_at
from export.index.search import Shares, least_scores
from export.index.width import EF_LADDER, Point, aim, walk
from protos.bundle import IndexParameters, Score
from protos.errors import GateRefused
from train.config.index import IndexConfig

GRID = ((8, 100), (16, 100), (16, 200), (32, 200), (32, 400), (48, 400))  # M and ef_construction
QUERIES = 400  # validation queries that each graph of the sweep is asked
ALIKE = 1.15  # costs that differ by less are the same: then memory decides, then time to build
DEARER = 1.25  # a cost of so many times the best is clearly higher
SAME_RECALL = 0.002  # within a budget, recalls that differ by less are the same


@dataclass(frozen=True)
class Swept:
    """A graph of the sweep.

    Args:
        m: links of a node.
        ef_construction: width of the search while building.
        build_s: seconds that building over the sample took.
        bytes_per_item: beyond the vectors.
        curve: `ef`, `recall`, `standard_error` and `us_per_query` of each width.
        cost_us: microseconds of a query at the target, between two widths; None where it is out of reach.
        expected_us: the same on all items, at the rate that it grew at up to here.
        expected_recall: what a budget of time pays for on all items; None without a budget.
    """

    m: int
    ef_construction: int
    build_s: float
    bytes_per_item: float
    curve: Sequence[Point]
    cost_us: float | None
    expected_us: float | None
    expected_recall: float | None = None


def grid(config: IndexConfig) -> list[tuple[int, int]]:
    """What to try, from sparse to dense, with what the configuration settles settled."""
    pairs = ((config.m or m, config.ef_construction or ef) for m, ef in GRID)
    return sorted(dict.fromkeys(pairs))


@dataclass(frozen=True)
class Sample:
    """What graphs are compared on.

    Args:
        items: (S, D).
        queries: (Q, D).
        least: (Q,) what the best k score at least.
        whole: N, items that it was drawn from.
        part: a smaller one, in which growth begins; None where this one is the whole.
    """

    items: Vectors
    queries: Vectors
    least: Shares
    whole: int
    part: "Sample | None" = None


def drawn(vectors: Vectors, queries: Vectors, config: IndexConfig) -> Sample:
    """A seeded sample of items and queries, with a quarter of it inside."""
    random, whole = np.random.default_rng(config.seed), len(vectors)
    asked = queries
    if len(queries) > QUERIES:
        asked = queries[np.sort(random.choice(len(queries), QUERIES, replace=False))]
    if whole <= config.sample:
        return Sample(vectors, asked, least_scores(vectors, asked, config.k), whole)
    rows = random.choice(whole, config.sample, replace=False)
    few, many = (vectors[np.sort(rows[:size])] for size in (config.sample // PART, config.sample))
    part = Sample(few, asked, least_scores(few, asked, config.k), whole)
    return Sample(many, asked, least_scores(many, asked, config.k), whole, part)


def sweep(sample: Sample, config: IndexConfig, score: Score, console: Console) -> list[Swept]:
    """The graphs that were tried, from sparse to dense."""
    found: list[Swept] = []
    clock: Clock | None = None
    for m, ef_construction in grid(config):
        chosen = IndexParameters(SPACE, m, ef_construction, config.k, config.seed)
        told = f"index: M {m}, ef_construction {ef_construction} on {len(sample.items):,} items"
        with console.status(told):
            begun = time.perf_counter()
            graph = build_as(chosen, sample.items, score, config.threads)
            seconds = time.perf_counter() - begun
            clock = clock or Clock(graph_search(graph, config.k, 4 * config.k), sample.queries)
            curve, smaller, size = _curve(graph, sample, config, clock), list[Point](), links_size(graph)
            if sample.part is not None:
                graph = build_as(chosen, sample.part.items, score, config.threads)
                smaller = _curve(graph, sample.part, config, clock)
        growth = Growth(curve, smaller, sample.whole / len(sample.items), aim(config.recall_target))
        budget, cost = config.latency_budget_us, cost_at(curve, growth.target)
        recall = None if budget is None else growth.recall_within(budget)
        found.append(Swept(m, ef_construction, seconds, size, curve, cost, growth.cost_us(), recall))
        if past_the_best(found, config):
            break
    return found


def _curve(graph: hnswlib.Index, sample: Sample, config: IndexConfig, clock: Clock) -> list[Point]:
    """From the narrowest search to the first that reaches the target, or breaks the budget.

    It begins below what is served, for the whole needs wider searches; every second rung tells enough.
    """
    curve: list[Point] = []
    target, budget = aim(config.recall_target), config.latency_budget_us
    ladder = (config.k, *(ef for ef in EF_LADDER[::2] if ef > config.k))
    try:
        for point in walk(graph, sample.items, sample.queries, config, clock, sample.least, ladder):
            curve.append(point)
            if point["recall"] >= target if budget is None else point["us_per_query"] > budget:
                break
    except GateRefused:  # torn: whatever it reaches, no search may rely on it
        curve.clear()
    return curve


def past_the_best(found: Sequence[Swept], config: IndexConfig) -> bool:
    """Whether the two densest graphs so far are clearly dearer than a sparser one.

    One alone may be: its M is larger, and its ef_construction too small for that. With a budget to fill,
    none is too dear.
    """
    if config.latency_budget_us is not None:
        return False
    costs = [each.expected_us for each in found]
    dearest = DEARER * min((cost for cost in costs if cost is not None), default=math.inf)
    return len(costs) > 2 and all(cost is not None and cost > dearest for cost in costs[-2:])


def choose(found: Sequence[Swept], config: IndexConfig) -> Swept:
    """The graph of least cost, or of the best recall within the budget; between equals the smaller.

    Where none reaches the target on the sample, the one of the highest recall.
    """
    if config.latency_budget_us is not None:
        best = max(each.expected_recall or 0 for each in found)
        even = [each for each in found if (each.expected_recall or 0) >= best - SAME_RECALL]
    elif costs := [each.expected_us for each in found if each.expected_us is not None]:
        most = ALIKE * min(costs)
        even = [each for each in found if each.expected_us is not None and each.expected_us <= most]
    else:
        best = max(_highest(each) for each in found)
        even = [each for each in found if _highest(each) == best]
    return min(even, key=lambda each: (each.bytes_per_item, each.build_s))


def _highest(each: Swept) -> float:
    return max((point["recall"] for point in each.curve), default=0.0)


def as_report(each: Swept) -> dict[str, Any]:
    """A graph of the sweep as JSON says it."""
    return {**each.__dict__, "curve": list(each.curve)}
