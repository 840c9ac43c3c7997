"""Filtered search of a bundle: recall, completeness and plans by selectivity.

Every answer is compared with exact search among the items that pass.

The selectivity of a filter is the share of the items that pass. Random filters know nothing of the query.
Anti-correlated filters are made for a query: of the fields' values they take those that are rarest among the
query's nearest items, so that a search in the graph meets few items that pass.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from twinspire.protos.errors import MissingStage
from twinspire.protos.nearest.scores import least_found
from twinspire.protos.nearest.search import largest_products, search_each
from twinspire.serving.filters.compiled import CompiledFilter, FilterCache, PassingRows
from twinspire.serving.filters.expression import Equals, Filter, In, Range
from twinspire.serving.filters.kinds import COMPARISONS
from twinspire.serving.retrieval.answer import FusionMode
from twinspire.serving.retrieval.query import EncodedQueries, Query, SearchResult
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.segments.built import BuiltSegment
from twinspire.serving.segments.remote import RemoteItem
from twinspire.serving.segments.vector_index import Neighbours, VectorIndex, Vectors

SELECTIVITIES = (0.5, 0.1, 0.01, 0.001)
RANDOM, ANTI_CORRELATED = "random", "anti_correlated"
QUERIES = 100  # of each bucket
TOLERANCE = 1.5  # a filter may pass this many times more or fewer items than the bucket's share
NEAR = 100  # nearest items that an anti-correlated filter avoids
MAX_STRINGS = 500  # of a field, drawn at random where it has more
KEPT_BYTES = 8 << 30  # all filters of a bucket are kept; a service keeps those that it is asked for most

Rows = npt.NDArray[np.int64]


class FilterWorkload:
    """Makes filters on the fields of a bundle; seeded."""

    def __init__(self, segment: BuiltSegment, seed: int = 0) -> None:
        self._filters = FilterCache(segment, KEPT_BYTES)
        self._columns = columns = segment.columns
        self._random = random.Random(seed)
        self._strings: dict[str, list[tuple[str, int]]] = {}  # field -> its values, with the items of each
        for name in columns.schema:
            if strings := columns.strings(name):
                drawn = self._random.sample(strings, MAX_STRINGS) if len(strings) > MAX_STRINGS else strings
                self._strings[name] = drawn
        self._rows = {
            (name, text): columns.evaluate(Equals(name, text))
            for name, values in self._strings.items()
            for text, _ in values
        }
        ordered = {name: columns.ordered(name) for name in columns.schema}
        self._ordered = {name: values for name, values in ordered.items() if len(values)}

    def filter(self, selectivity: float, near: Rows | None) -> CompiledFilter | None:
        """A filter of about a selectivity; None if the fields allow none.

        Args:
            near: rows of a query's nearest items, few of which pass the filter; None for a filter that knows
                no query.
        """
        nearest = None if near is None else BitMap(near.tolist())
        nodes = [self._in(name, selectivity, nearest) for name in self._strings]
        nodes += [self._range(name, selectivity, near) for name in self._ordered]
        found = [each for node in nodes if (each := self._fitting(node, selectivity))]
        if nearest is None:
            return self._random.choice(found) if found else None
        return min(found, key=lambda each: len(rows_of(each).passing & nearest), default=None)

    def _fitting(self, node: Filter | None, selectivity: float) -> CompiledFilter | None:
        """The filter, if there is one and its selectivity is near enough."""
        if node is None:
            return None
        compiled = self._filters.compile(node)
        share = share_of(rows_of(compiled)) / selectivity
        return compiled if 1 / TOLERANCE <= share <= TOLERANCE else None

    def _in(self, name: str, selectivity: float, nearest: BitMap | None = None) -> Filter | None:
        """Strings of about the selectivity: at random, or those that the fewest `nearest` rows have."""
        strings = self._random.sample(self._strings[name], len(self._strings[name]))
        if nearest is not None:
            strings.sort(key=lambda each: len(self._rows[name, each[0]] & nearest) / each[1])
        target = selectivity * self._columns.count
        taken, total = [], 0
        for text, count in strings:
            if total + count <= target * TOLERANCE:
                taken.append(text)
                total += count
            if total >= target / 1.1:
                break
        return In(name, tuple(taken)) if taken else None

    def _range(self, name: str, selectivity: float, near: Rows | None = None) -> Filter | None:
        """A range of a field: at random, or the one that the fewest of the items `near` are in."""
        values, length = self._ordered[name], math.ceil(selectivity * self._columns.count)
        starts = len(values) - length + 1
        if starts < 1:
            return None
        if near is None:
            first = self._random.randrange(starts)
        else:
            ranks = self._columns.ranks(name)[near]
            held = np.bincount(ranks[ranks >= 0], minlength=len(values))
            before = np.concatenate([[0], np.cumsum(held)])
            inside = before[length:] - before[:-length]  # items `near` in the range from each start (starts,)
            first = int(self._random.choice(np.flatnonzero(inside == inside.min())))
        ends = values[first], values[first + length - 1]
        low, high = map(COMPARISONS[self._columns.schema[name]].given, ends)
        return Range(name, at_least=low, at_most=high)


class FilteredQuery(NamedTuple):
    """A query with a filter."""

    query: Query
    encoded: EncodedQueries
    compiled: CompiledFilter


class Bucket(NamedTuple):
    """Queries whose filters have about the same selectivity; `kind` is RANDOM or ANTI_CORRELATED."""

    selectivity: float
    kind: str
    queries: Sequence[FilteredQuery]


def buckets(
    retriever: Retriever, items: BuiltSegment, queries: Sequence[Query], seed: int = 0, most: int = QUERIES
) -> Iterator[Bucket]:
    """The buckets that the fields of a bundle's items allow, each with up to `most` of the queries."""
    encoded = [retriever.encode([query]) for query in queries]
    searched = [n for n, each in enumerate(encoded) if each.contexts[0].basis.is_searched][:most]
    if not searched:
        raise MissingStage("none of the bundle's example queries is answered by a search")
    near = {n: exact(items.index, encoded[n].vectors, NEAR).rows[0] for n in searched}
    workload = FilterWorkload(items, seed)
    for selectivity in SELECTIVITIES:
        for kind in (RANDOM, ANTI_CORRELATED):
            found = []
            for n in searched:
                own = near[n] if kind == ANTI_CORRELATED else None
                if made := workload.filter(selectivity, own):
                    found.append(FilteredQuery(queries[n], encoded[n], made))
            if found:
                yield Bucket(selectivity, kind, found)


def measure_quality(retriever: Retriever, items: BuiltSegment, bucket: Bucket, k: int) -> dict[str, Any]:
    """Recall and completeness of a bucket, whose filters were made of `items`.

    Returns:
        `recall` of each query against exact search; `incomplete`, queries with fewer hits than min(k, items
        that pass); `wrong`, hits that do not pass; `plans`, the number of queries by plan; `passing`, the
        mean share of the items that pass.
    """
    recalls, plans = [], Counter[str]()
    incomplete = wrong = 0
    for each in bucket.queries:
        options = retriever.search_options(
            k,
            exclude_history=False,
            compiled=each.compiled
            if retriever.built is items
            else retriever.filters.compile(each.compiled.expression),
            fusion=FusionMode.DENSE,
        )
        (found,) = retriever.find(each.encoded, [options])
        plans[found.plan.value] += 1
        rows = rows_found(found, items)
        wrong += sum(row not in rows_of(each.compiled).passing for row in rows)
        incomplete += len(set(rows)) != min(k, rows_of(each.compiled).count)
        best = exact(items.index, each.encoded.vectors, k, rows_of(each.compiled).rows).scores[0]
        products = largest_products(items.vectors(rows), each.encoded.vectors[0])
        recalls.append(recall(products, best))
    shares = [share_of(rows_of(each.compiled)) for each in bucket.queries]
    return {
        "selectivity": bucket.selectivity,
        "kind": bucket.kind,
        "passing": float(np.mean(shares)),
        "recall": recalls,
        "incomplete": incomplete,
        "wrong": wrong,
        "plans": dict(plans),
    }


def rows_found(found: SearchResult, items: BuiltSegment) -> list[int]:
    """The rows of `items` in an answer; a remote segment names them by their ids."""
    rows: Any = found.rows
    if any(isinstance(row, RemoteItem) for row in rows):
        rows = items.find_all([row.item_id for row in rows])
    return [*rows]


def exact(index: VectorIndex, queries: Vectors, k: int, rows: Rows | None = None) -> Neighbours:
    """As `VectorIndex.exact`, of queries of one vector (B, D) or of several (B, K * D)."""
    dimension = index.vectors([0]).shape[1]
    if queries.shape[1] == dimension:
        return index.exact(queries, k, rows)
    best = search_each(
        lambda vectors: index.exact(vectors, k, rows).rows, index.vectors, queries, dimension, k
    )
    return Neighbours(np.stack([own for own, _ in best]), np.stack([scores for _, scores in best]))


def recall(products: Vectors, best: Vectors) -> float:
    """recall@k of an answer: an item whose product is that of the k-th best up to rounding is found."""
    return float((products >= least_found(best[-1:])).sum() / len(best))


def rows_of(compiled: CompiledFilter) -> PassingRows:
    """The rows of the bundle's segment that pass."""
    passing: PassingRows = compiled.passing.rows
    return passing


def share_of(passing: PassingRows) -> float:
    """The share of the items that pass."""
    return passing.count / passing.item_count
