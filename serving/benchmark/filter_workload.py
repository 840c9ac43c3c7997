"""Filters of a given selectivity on the fields of a bundle, for measurements.

The selectivity of a filter is the share of the items that pass. Random filters know nothing of the query.
Anti-correlated filters are made for a query: of the fields' values they take those that are rarest among the
query's nearest items, so that a search in the graph meets few items that pass.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from serving.filters.compiled import CompiledFilter, ItemFilters
from serving.filters.expression import Equals, Filter, In, Range, Time

TOLERANCE = 1.5  # a filter may pass this many times more or fewer items than the bucket's share
NEAR = 100  # nearest items that an anti-correlated filter avoids
ATTEMPTS = 20
MOST_STRINGS = 500  # of a field, drawn at random where it has more
Rows = npt.NDArray[np.int64]


class FilterWorkload:
    """Makes filters on the fields of a bundle; seeded.

    Args:
        filters: of the bundle.
        seed: of all random choices.
    """

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
        """A filter that few of a query's nearest items pass.

        Args:
            selectivity: share of the items that pass.
            near: rows of the query's nearest items.
        """
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
