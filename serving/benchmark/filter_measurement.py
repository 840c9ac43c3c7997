"""Filtered search of a bundle: recall, completeness, plans and times by selectivity.

Every answer is compared with exact search among the items that pass. The plan that the planner takes is timed
beside the two others: comparing all items that pass, and widening the search in the graph to the end.

The selectivity of a filter is the share of the items that pass. Random filters know nothing of the query.
Anti-correlated filters are made for a query: of the fields' values they take those that are rarest among the
query's nearest items, so that a search in the graph meets few items that pass.
"""

import dataclasses
import gc
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from protos.errors import MissingStage
from protos.scores import SCORE_TOLERANCE
from protos.search import each_vector, largest_products, search_each
from protos.system.timing import Effort, Times, take_turns
from serving.filters.compiled import SUBSET_FROM_USE, CompiledFilter, ItemFilters
from serving.filters.expression import Equals, Filter, In, Range, Time
from serving.filters.planner import search_passing
from serving.retrieval.answer import FusionMode
from serving.retrieval.query import EncodedQueries, Query
from serving.retrieval.retriever import Retriever
from serving.retrieval.vector_index import Allowed, Neighbours, VectorIndex, Vectors

SELECTIVITIES = (0.5, 0.1, 0.01, 0.001)
RANDOM, ANTI_CORRELATED = "random", "anti_correlated"
FEW = 0.01  # from this selectivity down, and at HALF, a filtered search takes at most twice as long
HALF = 0.5
QUERIES = 100  # of each bucket
TOLERANCE = 1.5  # a filter may pass this many times more or fewer items than the bucket's share
NEAR = 100  # nearest items that an anti-correlated filter avoids
ATTEMPTS = 20
MOST_STRINGS = 500  # of a field, drawn at random where it has more
KEPT_BYTES = 8 << 30  # all filters of a bucket are kept; a service keeps those that it is asked for most
WHOLE = Effort(iterations=400, fewest=200, seconds=10.0)  # calls of whole queries, and of searches alone
PARTS = Effort(iterations=200, fewest=40, seconds=10.0)


Rows = npt.NDArray[np.int64]


class FilterWorkload:
    """Makes filters on the fields of a bundle; seeded."""

    def __init__(self, filters: ItemFilters, seed: int = 0) -> None:
        self._filters = filters
        self._columns = columns = filters.columns
        self._random = random.Random(seed)
        self._strings = {name: self._sample(columns.strings(name)) for name in columns.schema}
        self._strings = {name: values for name, values in self._strings.items() if values}
        self._rows = {
            (name, text): columns.evaluate(Equals(name, text))
            for name, values in self._strings.items()
            for text, _ in values
        }
        ordered = {name: columns.ordered(name) for name in columns.schema}
        self._ordered = {name: values for name, values in ordered.items() if len(values)}

    def _sample(self, strings: list[tuple[str, int]]) -> list[tuple[str, int]]:
        return strings if len(strings) <= MOST_STRINGS else self._random.sample(strings, MOST_STRINGS)

    def random(self, selectivity: float) -> CompiledFilter | None:
        """A filter that knows no query; None if the fields allow none of this selectivity."""
        makers: list[Callable[[float], Filter | None]] = [self._random_in] * len(self._strings)
        makers += [self._random_range] * len(self._ordered)
        makers += [self._random_pair] if len(self._strings) + len(self._ordered) > 1 else []
        for _ in range(ATTEMPTS):
            node = self._random.choice(makers)(selectivity) if makers else None
            if node is not None and (compiled := self._fitting(node, selectivity)):
                return compiled
        return None

    def anti_correlated(self, selectivity: float, near: Rows) -> CompiledFilter | None:
        """A filter that few of a query's nearest items pass, whose rows are `near`."""
        nearest = BitMap(near.tolist())
        nodes: list[Filter | None] = [self._rarest_in(name, selectivity, nearest) for name in self._strings]
        nodes += [self._rarest_range(name, selectivity, near) for name in self._ordered]
        found = [self._fitting(node, selectivity) for node in nodes if node is not None]
        return min(
            (each for each in found if each is not None),
            key=lambda each: len(each.passing & nearest),
            default=None,
        )

    def _fitting(self, node: Filter, selectivity: float) -> CompiledFilter | None:
        """The filter, if its selectivity is near enough."""
        compiled = self._filters.compile(node)
        share = compiled.count / compiled.item_count / selectivity
        return compiled if 1 / TOLERANCE <= share <= TOLERANCE else None

    def _random_in(self, selectivity: float) -> Filter | None:
        name = self._random.choice([*self._strings])
        strings = self._random.sample(self._strings[name], len(self._strings[name]))
        return self._fill(name, strings, selectivity)

    def _fill(self, name: str, strings: Sequence[tuple[str, int]], selectivity: float) -> Filter | None:
        """The first strings that together have the selectivity; those that are too frequent are left out."""
        target = selectivity * self._columns.count
        taken, total = [], 0
        for text, count in strings:
            if total + count <= target * TOLERANCE:
                taken.append(text)
                total += count
            if total >= target / 1.1:
                break
        return In(name, tuple(taken)) if taken else None

    def _random_range(self, selectivity: float) -> Filter | None:
        name = self._random.choice([*self._ordered])
        length = math.ceil(selectivity * self._columns.count)
        last = len(self._ordered[name]) - length
        return None if last < 0 else self._range(name, self._random.randint(0, last), length)

    def _range(self, name: str, first: int, length: int) -> Filter:
        values = self._ordered[name]
        return Range(
            name,
            at_least=self._value(name, values[first]),
            at_most=self._value(name, values[first + length - 1]),
        )

    def _value(self, name: str, value: Any) -> float | Time:
        return Time(int(value) * 1000) if self._columns.schema[name] == "time" else float(value)

    def _random_pair(self, selectivity: float) -> Filter | None:
        """Two conditions, each of the root of the selectivity."""
        each = math.sqrt(selectivity)
        one = self._random_in(each) if self._strings else self._random_range(each)
        other = self._random_range(each) if self._ordered else self._random_in(each)
        return None if one is None or other is None else one & other

    def _rarest_in(self, name: str, selectivity: float, nearest: BitMap) -> Filter | None:
        shuffled = self._random.sample(self._strings[name], len(self._strings[name]))
        shuffled.sort(key=lambda each: len(self._rows[name, each[0]] & nearest) / each[1])
        return self._fill(name, shuffled, selectivity)

    def _rarest_range(self, name: str, selectivity: float, near: Rows) -> Filter | None:
        """The range of the field that the fewest of the nearest items are in."""
        length = math.ceil(selectivity * self._columns.count)
        ranks = self._columns.ranks(name)
        starts = len(self._ordered[name]) - length + 1
        if starts < 1:
            return None
        held = np.bincount(ranks[near][ranks[near] >= 0], minlength=len(self._ordered[name]))
        before = np.concatenate([[0], np.cumsum(held)])
        inside = before[length:] - before[:-length]  # nearest items in the range from each start (starts,)
        fewest = np.flatnonzero(inside[:starts] == inside[:starts].min())
        return self._range(name, int(self._random.choice(fewest)), length)


@dataclass(frozen=True)
class FilteredQuery:
    """A query with a filter."""

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
    """The buckets that the bundle's fields allow, each with up to `most` of the queries."""
    encoded = [retriever.encode([query]) for query in queries]
    searched = [n for n, each in enumerate(encoded) if each.contexts[0].basis.is_searched][:most]
    if not searched:
        raise MissingStage("none of the bundle's example queries is answered by a search")
    near = {n: exact(retriever.index, encoded[n].vectors, NEAR).rows[0] for n in searched}
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
        best = exact(index, each.encoded.vectors, k, each.compiled.rows).scores[0]
        products = largest_products(index.vectors(found.rows), each.encoded.vectors[0])
        recalls.append(recall(products, best))
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


def exact(index: VectorIndex, queries: Vectors, k: int, allowed: Allowed | None = None) -> Neighbours:
    """As `VectorIndex.exact`, of queries of one vector (B, D) or of several (B, K * D)."""
    dimension = index.vectors([0]).shape[1]
    if queries.shape[1] == dimension:
        return index.exact(queries, k, allowed)
    best = search_each(
        lambda vectors: index.exact(vectors, k, allowed).rows, index.vectors, queries, dimension, k
    )
    return Neighbours(np.stack([own for own, _ in best]), np.stack([scores for _, scores in best]))


def recall(products: Vectors, best: Vectors) -> float:
    """recall@k of an answer: an item whose product is within `SCORE_TOLERANCE` of the k-th best is found."""
    least = best[-1] - SCORE_TOLERANCE * max(1, abs(best[-1]))
    return float((products >= least).sum() / len(best))


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
    free_width, dimension = retriever.manifest.index.ef_search // 2, retriever.manifest.dimension

    def answered(each: FilteredQuery, compiled: CompiledFilter | None) -> object:
        """What a worker does for one query; it keeps the filters that it is asked for."""
        encoded = retriever.encode_prepared([retriever.prepare(each.query)])
        return retriever.find(encoded, [retriever.search_options(k, compiled=compiled)])

    whole: dict[str, Callable[[FilteredQuery], object]] = {
        "unfiltered": lambda each: answered(each, None),
        "filtered": lambda each: answered(each, each.compiled),
        "first_use": lambda each: answered(each, retriever.filters.evaluated(each.compiled.expression)),
    }
    vectors = {id(each): each_vector(each.encoded.vectors, dimension) for each in some}
    parts: dict[str, Callable[[FilteredQuery], object]] = {
        "unfiltered": lambda each: index.search(vectors[id(each)], k),
        "planner": lambda each: search_passing(index, vectors[id(each)], k, each.compiled, free_width),
        "exact": lambda each: index.exact(vectors[id(each)], k, each.compiled.rows),
        "graph": lambda each: [
            graph_only(index, vector[None], min(k, each.compiled.count), each.compiled, free_width)
            for vector in vectors[id(each)]
        ],
    }

    def timed(calls: Mapping[str, Callable[[FilteredQuery], object]], effort: Effort) -> dict[str, Times]:
        of_queries = {name: [partial(call, each) for each in some] for name, call in calls.items()}
        return {name: times.cpu for name, times in take_turns(of_queries, effort).items()}

    gc.collect()
    effort = dataclasses.replace(WHOLE, iterations=max(WHOLE.iterations, len(some)))
    taken = timed(whole, effort)
    p50 = {name: float(np.median(times)) for name, times in taken.items()}
    return {
        "p50_us": p50,
        "search_p50_us": {name: float(np.median(times)) for name, times in timed(parts, PARTS).items()},
        "p50_ratio": p50["filtered"] / p50["unfiltered"],
        "timed_queries": min(len(some), taken["filtered"].size),
    }


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


def bound_of(selectivity: float) -> float:
    """How many times as long a filtered search may take, at the median."""
    return 2.0 if selectivity >= HALF or selectivity <= FEW else 4.0
