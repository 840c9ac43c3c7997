"""Times of filtered searches: the plan that a search takes beside the two others.

The others compare all items that pass, and widen the search in the graph to the end.
"""

import dataclasses
import gc
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from twinspire.protos.nearest.search import each_vector
from twinspire.protos.system.timing import Effort, take_turns
from twinspire.serving.benchmark.filter_measurement import Bucket, FilteredQuery, rows_of
from twinspire.serving.filters.compiled import CompiledFilter, FilterCache
from twinspire.serving.retrieval.query import EncodedQueries
from twinspire.serving.retrieval.retriever import Retriever

SELECTIVE = 0.01  # from this selectivity down, and at HALF, a filtered search takes at most twice as long
HALF = 0.5
WHOLE = Effort(iterations=400, fewest=200, seconds=10.0)  # calls of whole queries, and of searches alone
PARTS = Effort(iterations=200, fewest=40, seconds=10.0)

Calls = Mapping[str, Callable[[FilteredQuery], object]]


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
    index, items, some = retriever.built.index, retriever.items, bucket.queries

    def find(encoded: EncodedQueries, compiled: CompiledFilter | None) -> object:
        return retriever.find(
            encoded, [retriever.search_options(k, exclude_history=False, compiled=compiled)]
        )

    for n, each in enumerate(some):
        find(some[n - 1].encoded, each.compiled)
    dimension = retriever.manifest.dimension

    def answered(each: FilteredQuery, compiled: CompiledFilter | None) -> object:
        """What a worker does for one query; it keeps the filters that it is asked for."""
        return find(retriever.encode_prepared([retriever.prepare(each.query)]), compiled)

    whole: Calls = {
        "unfiltered": lambda each: answered(each, None),
        "filtered": lambda each: answered(each, each.compiled),
        "first_use": lambda each: answered(each, FilterCache(items).compile(each.compiled.expression)),
    }
    vectors = {id(each): each_vector(each.encoded.vectors, dimension) for each in some}
    parts: Calls = {
        "unfiltered": lambda each: index.search(vectors[id(each)], k),
        "planner": lambda each: index.search_passing(vectors[id(each)], k, rows_of(each.compiled)),
        "exact": lambda each: index.exact(vectors[id(each)], k, rows_of(each.compiled).rows),
    }

    def timed(calls: Calls, effort: Effort) -> tuple[dict[str, float], int]:
        """The median processor microseconds of each name, and the number of calls of each."""
        of_queries = {name: [partial(call, each) for each in some] for name, call in calls.items()}
        taken = {name: each.cpu for name, each in take_turns(of_queries, effort).items()}
        return {name: float(np.median(each)) for name, each in taken.items()}, taken["unfiltered"].size

    gc.collect()
    p50, count = timed(whole, dataclasses.replace(WHOLE, iterations=max(WHOLE.iterations, len(some))))
    return {
        "p50_us": p50,
        "search_p50_us": timed(parts, PARTS)[0],
        "p50_ratio": p50["filtered"] / p50["unfiltered"],
        "timed_queries": min(len(some), count),
    }


def bound_of(selectivity: float) -> float:
    """How many times as long a filtered search may take, at the median."""
    return 2.0 if selectivity >= HALF or selectivity <= SELECTIVE else 4.0
