"""M and ef_construction of the graph, compared on a sample of the items.

The sample is drawn at random, and its graphs are searched with validation queries. Recall gets harder as the
number of items grows, and faster so for sparse graphs than for dense ones. The growth of cost between a
quarter of the sample and the whole sample is extrapolated to the whole catalogue.

Graphs are measured from the sparsest to the densest, with one at a time in memory beside the first one, which
is the timer's reference. Once two graphs in a row cost clearly more than the best so far at the same recall,
denser graphs are skipped.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hnswlib
import numpy as np
from rich.console import Console

from export.ann.ef_search import EF_LADDER, Point, recall_curve, with_margin
from export.ann.graph import SPACE, Vectors, build_graph, links_size
from export.ann.search import Shares, kth_scores
from export.ann.timer import SearchTimer, graph_search
from protos.bundle import IndexParameters, Score
from protos.errors import GateRefused
from train.config.index import IndexConfig
from train.progress import progress_bar

GRID = ((8, 100), (16, 100), (16, 200), (32, 200), (32, 400), (48, 400))  # M and ef_construction
QUERIES = 400  # validation queries for each graph
SAME_COST = 1.15  # costs within this factor are equal: then memory decides, then build time
HIGHER_COST = 1.25  # a cost above this factor of the best is clearly higher
FRACTION = 4  # growth is measured from 1 / FRACTION of the sample to all of it
MIN_MISSED = 1e-4  # the smallest share of missed items, for its logarithm


@dataclass(frozen=True)
class SweptGraph:
    """Measurements of one graph.

    Args:
        m: links of a node.
        ef_construction: width of the search while building.
        build_s: seconds that building over the sample took.
        bytes_per_item: in addition to the vectors.
        curve: `ef`, `recall`, `standard_error` and `us_per_query` of each width.
        cost_us: microseconds per query at the target, interpolated; None if the target is out of reach.
        expected_us: the same, extrapolated to all items.
    """

    m: int
    ef_construction: int
    build_s: float
    bytes_per_item: float
    curve: Sequence[Point]
    cost_us: float | None
    expected_us: float | None


def grid(config: IndexConfig) -> list[tuple[int, int]]:
    """M and ef_construction to measure, from sparse to dense; configured values are fixed."""
    pairs = ((config.m or m, config.ef_construction or ef) for m, ef in GRID)
    return sorted(dict.fromkeys(pairs))


@dataclass(frozen=True)
class Sample:
    """Items and queries that graphs are compared on.

    Args:
        items: (S, D).
        queries: (Q, D).
        bounds: (Q,), `kth_scores` of the queries.
        total: N, the items that it was drawn from.
        part: a smaller sample, where growth is measured from; None if this one has all items.
    """

    items: Vectors
    queries: Vectors
    bounds: Shares
    total: int
    part: "Sample | None" = None


def draw_sample(vectors: Vectors, queries: Vectors, config: IndexConfig) -> Sample:
    """Draw items and queries by the seed, with a quarter of them as the smaller sample."""
    random, total = np.random.default_rng(config.seed), len(vectors)
    if len(queries) > QUERIES:
        queries = queries[np.sort(random.choice(len(queries), QUERIES, replace=False))]
    if total <= config.sample:
        return Sample(vectors, queries, kth_scores(vectors, queries, config.k), total)
    rows = random.choice(total, config.sample, replace=False)
    few, many = (vectors[np.sort(rows[:size])] for size in (config.sample // FRACTION, config.sample))
    part = Sample(few, queries, kth_scores(few, queries, config.k), total)
    return Sample(many, queries, kth_scores(many, queries, config.k), total, part)


def sweep(sample: Sample, config: IndexConfig, score: Score, console: Console) -> list[SweptGraph]:
    """Measure the graphs of the grid, from sparse to dense."""
    found: list[SweptGraph] = []
    timer: SearchTimer | None = None
    shapes = list(grid(config))
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task(f"index: graphs on {len(sample.items):,} items", total=len(shapes), note="")
        for m, ef_construction in shapes:
            progress.update(task, note=f"M {m}, ef_construction {ef_construction}")
            chosen = IndexParameters(SPACE, m, ef_construction, config.k, config.seed)
            begun = time.perf_counter()
            graph = build_graph(chosen, sample.items, score, config.threads)
            seconds = time.perf_counter() - begun
            timer = timer or SearchTimer(graph_search(graph, config.k, 4 * config.k), sample.queries)
            curve, smaller, size = _curve(graph, sample, config, timer), list[Point](), links_size(graph)
            if sample.part is not None:
                graph = build_graph(chosen, sample.part.items, score, config.threads)
                smaller = _curve(graph, sample.part, config, timer)
            progress.advance(task)
            found.append(_swept(chosen, seconds, size, curve, smaller, sample, config))
            if is_past_the_best(found):
                break
    return found


def _swept(
    chosen: IndexParameters,
    seconds: float,
    size: float,
    curve: list[Point],
    smaller: list[Point],
    sample: Sample,
    config: IndexConfig,
) -> SweptGraph:
    """One measured graph, with what is expected of it on all items."""
    target = with_margin(config.recall_target)
    growth = Extrapolation(curve, smaller, sample.total / len(sample.items), target)
    shape = chosen.m, chosen.ef_construction
    return SweptGraph(*shape, seconds, size, curve, cost_at(curve, target), growth.cost_us())


def _curve(graph: hnswlib.Index, sample: Sample, config: IndexConfig, timer: SearchTimer) -> list[Point]:
    """Measure from the smallest width to the first that reaches the target.

    It starts below the widths that are served, because all items will need larger ones than the sample, and
    takes every second width.
    """
    curve: list[Point] = []
    target = with_margin(config.recall_target)
    widths = (config.k, *(ef for ef in EF_LADDER[::2] if ef > config.k))
    try:
        for point in recall_curve(graph, sample.items, sample.queries, config, timer, sample.bounds, widths):
            curve.append(point)
            if point["recall"] >= target:
                break
    except GateRefused:  # the graph is disconnected, so no search can rely on it
        curve.clear()
    return curve


def is_past_the_best(found: Sequence[SweptGraph]) -> bool:
    """Whether the two densest graphs so far cost clearly more than a sparser one.

    One alone may do so because its ef_construction is too small for its larger M.
    """
    costs = [each.expected_us for each in found]
    limit = HIGHER_COST * min((cost for cost in costs if cost is not None), default=math.inf)
    return len(costs) > 2 and all(cost is not None and cost > limit for cost in costs[-2:])


def choose(found: Sequence[SweptGraph]) -> SweptGraph:
    """The graph of least cost, or of the highest recall if none reaches the target on the sample.

    Between equals it is the smallest.
    """
    if costs := [each.expected_us for each in found if each.expected_us is not None]:
        limit = SAME_COST * min(costs)
        even = [each for each in found if each.expected_us is not None and each.expected_us <= limit]
    else:
        best = max(_highest_recall(each) for each in found)
        even = [each for each in found if _highest_recall(each) == best]
    return min(even, key=lambda each: (each.bytes_per_item, each.build_s))


def _highest_recall(each: SweptGraph) -> float:
    return max((point["recall"] for point in each.curve), default=0.0)


def as_report(each: SweptGraph) -> dict[str, Any]:
    """The measurements as JSON."""
    return {**each.__dict__, "curve": list(each.curve)}


@dataclass(frozen=True)
class Extrapolation:
    """Cost of a graph over all items, from measurements on two samples.

    Args:
        curve: on the sample.
        smaller: on 1 / `FRACTION` of it; empty if the sample has all items.
        times: all items over items of the sample.
        target: recall at which the two curves are compared, or the highest that both reach.
    """

    curve: Sequence[Point]
    smaller: Sequence[Point]
    times: float
    target: float

    @property
    def factor(self) -> float:
        """Time of a query on all items over that on the sample: a power of `times`, at least 1."""
        if not self.curve or not self.smaller:
            return 1.0
        tops = (max(point["recall"] for point in curve) for curve in (self.curve, self.smaller))
        level = min(self.target, *tops)
        costs = cost_at(self.curve, level), cost_at(self.smaller, level)
        if costs[0] is None or costs[1] is None:
            return 1.0
        return float(max(1.0, costs[0] / costs[1]) ** (math.log(self.times) / math.log(FRACTION)))

    def cost_us(self) -> float | None:
        """Microseconds per query at the target on all items; None if the sample does not reach it."""
        cost = cost_at(self.curve, self.target)
        return None if cost is None else cost * self.factor


def cost_at(curve: Sequence[Point], target: float) -> float | None:
    """Microseconds per query at a recall, interpolated between two widths; None if no width reaches it.

    Between two widths, time is close to a power of the share of missed items.
    """
    below: Point | None = None
    for point in curve:
        if point["recall"] >= target:
            if below is None:
                return float(point["us_per_query"])
            high, low, wanted = (
                math.log(max(MIN_MISSED, 1 - recall)) for recall in (below["recall"], point["recall"], target)
            )
            share = 1.0 if high == low else (high - wanted) / (high - low)
            return float(below["us_per_query"] ** (1 - share) * point["us_per_query"] ** share)
        below = point
    return None
