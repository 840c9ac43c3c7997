"""The filter fields of N items, and which of the items pass a filter.

    columns = FilterColumns.load(folder, manifest)                                # of a bundle
    columns = FilterColumns.from_values({"price": "number"}, [{"price": 3}, {}])  # of other items
    columns.evaluate(where.price < 50)                                            # a bitmap of rows

Rows are Roaring bitmaps (Lemire et al. 2018, "Roaring Bitmaps: Implementation of an Optimized Software
Library"). Values are kept sorted, so that a test reads only the rows that pass it.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import InvalidInput
from twinspire.protos.filters import FilterSchema, OrderedColumn, StringColumn, build_columns, read_filters
from twinspire.protos.names import near
from twinspire.serving.filters.expression import (
    FILTER_FIELD,
    MAX_DEPTH,
    AllOf,
    AnyOf,
    Condition,
    Equals,
    Filter,
    In,
    Not,
    Present,
    Range,
    describe,
    shown_name,
)
from twinspire.serving.filters.kinds import COMPARISONS, Bound, typed

# Work is counted in steps: 1 step is the time for the graph to return one more item, about 3 us.
TEST_STEPS = 8  # to evaluate a condition, or one of its values: 14 to 24 us
STEP_ROWS = 512  # rows that pass a condition, for 1 step more (65,441 items, ranges of half of them)
DENSE_SHARE = 4  # a range of more than 1/4 of the rows is found by a scan of all ranks


def bitmap(rows: npt.NDArray[np.uint32]) -> BitMap:
    """A bitmap of rows; from an `array` it takes a tenth of the time that it takes from NumPy's."""
    plain = array("I")
    plain.frombytes(np.ascontiguousarray(rows).data.cast("B"))
    return BitMap(plain)


class _Ordered:
    """Evaluates tests of a number, boolean or time.

    Args:
        column: the values, ascending, and the row of each.
        count: N.
    """

    def __init__(self, column: OrderedColumn, count: int) -> None:
        self.values, self._rows, self._count = column.values, column.rows, count

    @cached_property
    def ranks(self) -> npt.NDArray[np.int32]:
        """Row -> place of its value in the order, -1 where it has none: int32 (N,)."""
        ranks = np.full(self._count, -1, np.int32)
        ranks[self._rows] = np.arange(len(self._rows), dtype=np.int32)
        return ranks

    def equal(self, value: Bound) -> BitMap:
        first, last = (int(np.searchsorted(self.values, value, side)) for side in ("left", "right"))
        return self._between(first, last)

    def within(self, test: Mapping[str, Bound]) -> BitMap:
        first, last = 0, len(self.values)
        for name, value in test.items():
            # at_least and below count equal values to the right of the bound, above and at_most to its left.
            place = int(np.searchsorted(self.values, value, _SIDES[name]))
            if name in ("at_least", "above"):
                first = max(first, place)
            else:
                last = min(last, place)
        return self._between(first, last)

    def _between(self, first: int, last: int) -> BitMap:
        if first >= last:
            return BitMap()
        if (last - first) * DENSE_SHARE < self._count:
            return bitmap(np.sort(self._rows[first:last]))
        # As unsigned numbers, ranks below `first` are above all others, so one comparison is enough.
        inside = (self.ranks - np.int32(first)).view(np.uint32) < np.uint32(last - first)
        return bitmap(np.flatnonzero(inside).astype(np.uint32))

    @cached_property
    def present(self) -> BitMap:
        return bitmap(np.sort(self._rows))


_SIDES: dict[str, Any] = {"at_least": "left", "above": "right", "at_most": "right", "below": "left"}


class _Strings:
    """Evaluates tests of one string or many.

    Args:
        column: the distinct strings, ascending, and the rows of each.
    """

    def __init__(self, column: StringColumn) -> None:
        self._text = column.text.data
        self._ends: Sequence[int] = column.ends.data
        self._starts: Sequence[int] = column.starts.data
        self._rows = column.rows

    def equal(self, value: str) -> BitMap:
        sought = value.encode("utf-8", "surrogatepass")
        first, last = 0, len(self._ends)
        while first < last:
            middle = (first + last) // 2
            if self._string(middle) < sought:
                first = middle + 1
            else:
                last = middle
        if first == len(self._ends) or self._string(first) != sought:
            return BitMap()
        return bitmap(self._rows[self._starts[first] : self._starts[first + 1]])

    def strings(self) -> list[tuple[str, int]]:
        return [
            (self._string(n).decode(), self._starts[n + 1] - self._starts[n]) for n in range(len(self._ends))
        ]

    def _string(self, n: int) -> bytes:
        return bytes(self._text[self._ends[n - 1] if n else 0 : self._ends[n]])

    @cached_property
    def present(self) -> BitMap:
        return bitmap(np.unique(self._rows))


@dataclass
class Work:
    """The work of an evaluation.

    Args:
        steps: as defined at `TEST_STEPS`.
    """

    steps: int = 0


@dataclass(frozen=True)
class FilterColumns:
    """Typed values of N items.

    Args:
        schema: filter field -> type.
        count: N.
    """

    schema: FilterSchema
    count: int
    _columns: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path, manifest: Manifest) -> "FilterColumns":
        """The columns of a bundle whose files have been verified.

        Raises:
            BundleDamaged: they are not those that the manifest describes.
        """
        return cls._of(manifest.filters, read_filters(folder, manifest), manifest.count)

    @classmethod
    def from_values(cls, schema: FilterSchema, items: Sequence[Mapping[str, Any]]) -> "FilterColumns":
        """The columns of items that are given as raw values by field; a missing value is absent.

        Raises:
            InvalidInput: a value is of another type; `protos.filter_kinds.parse_value` says what fits.
        """
        return cls._of(schema, build_columns(schema, items), len(items))

    @classmethod
    def _of(
        cls, schema: FilterSchema, columns: Mapping[str, OrderedColumn | StringColumn], count: int
    ) -> "FilterColumns":
        made = {
            field: _Ordered(column, count) if isinstance(column, OrderedColumn) else _Strings(column)
            for field, column in columns.items()
        }
        return cls(dict(schema), count, made)

    def evaluate(self, expression: Filter, work: Work | None = None) -> BitMap:
        """The rows of the items that pass.

        Args:
            expression: the filter.
            work: to which the work is added, also that before an error.

        Raises:
            InvalidInput: the filter names an unknown field or has a value of another type; the error's field
                is its place in the tree, such as `filter.all[1].price`.
        """
        return self._evaluate(expression, FILTER_FIELD, MAX_DEPTH, Work() if work is None else work)

    def _evaluate(self, node: Filter, path: str, depth: int, work: Work) -> BitMap:
        if depth == 0:
            raise InvalidInput(path, f"expected at most {MAX_DEPTH} filters inside each other")
        if isinstance(node, Not):
            return self._evaluate(node.filter, f"{path}.not", depth - 1, work).flip(0, self.count)
        if isinstance(node, AllOf | AnyOf):
            name = "all" if isinstance(node, AllOf) else "any"
            if not node.filters:
                raise InvalidInput(f"{path}.{name}", "expected at least one filter, got none")
            found = [
                self._evaluate(each, f"{path}.{name}[{n}]", depth - 1, work)
                for n, each in enumerate(node.filters)
            ]
            if isinstance(node, AnyOf):
                return BitMap.union(*found)
            return BitMap.intersection(*sorted(found, key=len))
        if isinstance(node, Condition):
            tested = self._test(node, path)
            values = len(node.values) if isinstance(node, In) else 1
            work.steps += TEST_STEPS * values + len(tested) // STEP_ROWS
            return tested
        raise TypeError(f"{path}: expected a filter, got {type(node).__name__}")

    def _test(self, test: Condition, path: str) -> BitMap:
        """The rows that pass one condition."""
        path = f"{path}.{shown_name(test.field)}"
        kind = self.schema.get(test.field)
        if kind is None:
            known = f"{describe(self.schema)}{near(test.field, self.schema)}"
            raise InvalidInput(path, f"unknown filter field; {known}")
        column = self._columns[test.field]
        if isinstance(test, Present):
            present: BitMap = column.present
            return present if test.present else present.flip(0, self.count)
        if isinstance(test, Range):
            if (bound := COMPARISONS[kind].bound) is None:
                raise InvalidInput(
                    path, f"expected equals, in or present, because it is a {kind}; got a range"
                )
            bounds = {
                name: bound(typed(kind, value, f"{path}.{name}"), name) for name, value in test.bounds()
            }
            if not bounds:
                raise InvalidInput(path, "expected a bound of the range, got none")
            found: BitMap = column.within(bounds)
            return found
        if isinstance(test, Equals):
            values = [typed(kind, test.value, path)]
        else:
            values = [typed(kind, value, f"{path}.in[{n}]") for n, value in enumerate(test.values)]
        sought = dict.fromkeys(map(COMPARISONS[kind].stored, values))
        equal = [column.equal(value) for value in sought if value is not None]
        return BitMap.union(*equal) if equal else BitMap()

    def strings(self, field: str) -> list[tuple[str, int]]:
        """The distinct strings of a field, and the number of items that hold each; none of other kinds."""
        column = self._columns[field]
        return column.strings() if isinstance(column, _Strings) else []

    def ordered(self, field: str) -> npt.NDArray[Any]:
        """The values of a number, or the microseconds of a time, ascending; none of other kinds."""
        column = self._columns[field]
        empty: npt.NDArray[Any] = np.empty(0)
        return column.values if COMPARISONS[self.schema[field]].bound else empty

    def ranks(self, field: str) -> npt.NDArray[np.int32]:
        """The place of each item's value in `ordered`, -1 where it has none: int32 (N,)."""
        ranks: npt.NDArray[np.int32] = self._columns[field].ranks
        return ranks
