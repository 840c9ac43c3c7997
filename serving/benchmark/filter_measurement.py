"""Filtered search of a bundle: recall, completeness, plans and times by selectivity.

Every answer is compared with exact search among the items that pass. The plan that the planner takes is timed
beside the two others: comparing all items that pass, and widening the search in the graph to the end.
"""

import dataclasses
import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from protos.errors import MissingStage
from protos.scores import SCORE_TOLERANCE
from protos.system.timing import Call, Effort, Times, take_turns
from serving.benchmark.filter_workload import NEAR, FilterWorkload
from serving.filters.compiled import SUBSET_FROM_USE, CompiledFilter, ItemFilters
from serving.filters.expression import Filter
from serving.filters.planner import search_passing
from serving.retrieval.answer import FusionMode
from serving.retrieval.query import EncodedQueries, Query
from serving.retrieval.retriever import Retriever
from serving.retrieval.vector_index import VectorIndex, Vectors

SELECTIVITIES = (0.5, 0.1, 0.01, 0.001)
RANDOM, ANTI_CORRELATED = "random", "anti_correlated"
FEW = 0.01  # from this selectivity down, and at HALF, a filtered search takes at most twice as long
HALF = 0.5
QUERIES = 100  # of each bucket
KEPT_BYTES = 8 << 30  # all filters of a bucket are kept; a service keeps those that it is asked for most
WHOLE = Effort(iterations=400, fewest=200, seconds=10.0)  # calls of whole queries, and of searches alone
PARTS = Effort(iterations=200, fewest=40, seconds=10.0)


@dataclass(frozen=True)
class FilteredQuery:
    """A query with a filter.

    Args:
        query: as asked.
        encoded: the same.
        compiled: the filter.
    """

    query: Query
    encoded: EncodedQueries
    compiled: CompiledFilter


@dataclass(frozen=True)
class Bucket:
    """Queries whose filters have about the same selectivity; `kind` is RANDOM or ANTI_CORRELATED."""

    selectivity: float
    kind: str
    queries: Sequence[FilteredQuery]


def buckets(
    retriever: Retriever, queries: Sequence[Query], seed: int = 0, most: int = QUERIES
) -> Iterator[Bucket]:
    """The buckets that the bundle's fields allow.

    Args:
        retriever: of the bundle.
        queries: to draw from.
        seed: of all random choices.
        most: queries in a bucket.

    Raises:
        MissingStage: no query is answered by a search.
    """
    encoded = [retriever.encode([query]) for query in queries]
    searched = [n for n, each in enumerate(encoded) if each.contexts[0].basis.is_searched][:most]
    if not searched:
        raise MissingStage("none of the bundle's example queries is answered by a search")
    near = {n: retriever.index.exact(encoded[n].vectors, NEAR).rows[0] for n in searched}
    workload = FilterWorkload(ItemFilters(retriever.filters.columns, KEPT_BYTES), seed)
    for selectivity in SELECTIVITIES:
        for kind in (RANDOM, ANTI_CORRELATED):
            made = {
                n: workload.random(selectivity)
                if kind == RANDOM
                else workload.anti_correlated(selectivity, near[n])
                for n in searched
            }
            found = [
                FilteredQuery(queries[n], encoded[n], each) for n, each in made.items() if each is not None
            ]
            if found:
                yield Bucket(selectivity, kind, found)


def measure_quality(retriever: Retriever, bucket: Bucket, k: int) -> dict[str, Any]:
    """Recall and completeness of a bucket.

    Returns:
        `recall` of each query against exact search; `incomplete`, queries with fewer hits than min(k, items
        that pass); `wrong`, hits that do not pass; `plans`, the number of queries by plan; `passing`, the
        mean share of the items that pass.
    """
    index = retriever.index
    recalls, plans = [], Counter[str]()
    incomplete = wrong = 0
    for each in bucket.queries:
        options = retriever.search_options(k, compiled=each.compiled, fusion=FusionMode.DENSE)
        (found,) = retriever.find(each.encoded, [options])
        plans[found.plan.value] += 1
        wrong += sum(row not in each.compiled.passing for row in found.rows)
        incomplete += len(set(found.rows)) != min(k, each.compiled.count)
        best = index.exact(each.encoded.vectors, k, each.compiled.rows).scores[0]
        products = index.vectors(found.rows) @ each.encoded.vectors[0]
        least = best[-1] - SCORE_TOLERANCE * max(1, abs(best[-1]))
        recalls.append(float((products >= least).sum() / len(best)))
    shares = [each.compiled.count / each.compiled.item_count for each in bucket.queries]
    return {
        "selectivity": bucket.selectivity,
        "kind": bucket.kind,
        "passing": float(np.mean(shares)),
        "recall": recalls,
        "incomplete": incomplete,
        "wrong": wrong,
        "plans": dict(plans),
    }


def measure_times(retriever: Retriever, bucket: Bucket, k: int) -> dict[str, Any]:
    """Times of a bucket's queries in process, on one thread, in turns.

    Processor time is taken, not that by the clock: other processes must not lengthen the longer calls only.
    Each filter is used before, with another query: an application uses a filter again and again, while its
    queries are new. The first use of a filter is timed besides.

    Returns:
        `p50_us` of the whole query, by name: `unfiltered`, `filtered`, and `first_use` of a filter that is
        not kept; `search_p50_us` of the search alone, by plan; `p50_ratio` of the first two;
        `timed_queries`, the different queries that were timed.
    """
    index, some = retriever.index, bucket.queries
    for n, each in enumerate(some):
        for _ in range(SUBSET_FROM_USE):
            retriever.find(some[n - 1].encoded, [retriever.search_options(k, compiled=each.compiled)])
    whole: dict[str, Sequence[Call]] = {
        "unfiltered": [partial(_answer, retriever, each.query, k, None) for each in some],
        "filtered": [partial(_answer, retriever, each.query, k, each.compiled) for each in some],
        "first_use": [
            partial(_first_answer, retriever, each.query, k, each.compiled.expression) for each in some
        ],
    }
    free_width = retriever.manifest.index.ef_search // 2
    parts: dict[str, Sequence[Call]] = {
        "unfiltered": [partial(index.search, each.encoded.vectors, k) for each in some],
        "planner": [
            partial(search_passing, index, each.encoded.vectors, k, each.compiled, free_width)
            for each in some
        ],
        "exact": [partial(index.exact, each.encoded.vectors, k, each.compiled.rows) for each in some],
        "graph": [
            partial(
                graph_only,
                index,
                each.encoded.vectors,
                min(k, each.compiled.count),
                each.compiled,
                free_width,
            )
            for each in some
        ],
    }
    gc.collect()
    effort = dataclasses.replace(WHOLE, iterations=max(WHOLE.iterations, len(some)))
    timed = take_turns(whole, effort)
    taken = {name: _p50(times.cpu) for name, times in timed.items()}
    searches = {name: _p50(times.cpu) for name, times in take_turns(parts, PARTS).items()}
    return {
        "p50_us": taken,
        "search_p50_us": searches,
        "p50_ratio": taken["filtered"] / taken["unfiltered"],
        "timed_queries": min(len(some), timed["filtered"].cpu.size),
    }


def _answer(retriever: Retriever, query: Query, k: int, compiled: CompiledFilter | None) -> object:
    """What a worker does for one query whose filter it has kept."""
    encoded = retriever.encode_prepared([retriever.prepare(query)])
    return retriever.find(encoded, [retriever.search_options(k, compiled=compiled)])


def _first_answer(retriever: Retriever, query: Query, k: int, expression: Filter) -> object:
    """What a worker does for one query whose filter is new to it."""
    return _answer(retriever, query, k, retriever.filters.evaluated(expression))


def graph_only(index: VectorIndex, vectors: Vectors, k: int, compiled: CompiledFilter, width: int) -> Any:
    """Search the graph twice as wide each time until `k` of the items found pass; the planner would stop."""
    width = max(width, k, 1)
    while True:
        width = min(width, index.count)
        rows, scores = index.search(vectors, width)
        kept = compiled.mask[rows[0]]
        if np.count_nonzero(kept) >= k or width == index.count:
            return rows[0][kept][:k], scores[0][kept][:k]
        width *= 2


def _p50(microseconds: Times) -> float:
    return float(np.percentile(microseconds, 50))


def bound_of(selectivity: float) -> float:
    """How many times as long a filtered search may take, at the median."""
    return 2.0 if selectivity >= HALF or selectivity <= FEW else 4.0
