"""The filter fields, as `FilterColumns`, and the terms of a growing segment: rows are added and change."""

import json
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from twinspire.protos.filter_kinds import KINDS
from twinspire.protos.filters import FilterSchema
from twinspire.serving.filters.columns import FilterColumns, bitmap
from twinspire.serving.filters.expression import Filter
from twinspire.serving.filters.kinds import Bound
from twinspire.serving.segments.packed_items import EncodedItemsDamaged

Mask = npt.NDArray[np.bool_]
Slots = npt.NDArray[np.int32]
Weights = npt.NDArray[np.float32]
NO_SLOTS: Slots = np.empty(0, np.int32)
NO_WEIGHTS: Weights = np.empty(0, np.float32)
TERM_BYTES = 8  # for each term: its number and its weight
FIRST_CAPACITY = 256  # rows


class _Ordered:
    """Numbers, booleans or times, in the order of the rows; `FilterColumns` evaluates tests of them."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._values: npt.NDArray[Any] = np.zeros(FIRST_CAPACITY, dtype)
        self._has: Mask = np.zeros(FIRST_CAPACITY, np.bool_)

    def converted(self, value: Bound | None) -> Any:
        """A value of `parse_value` as `set` takes it; an error if the column cannot hold it."""
        if value is None:
            return None
        found = np.zeros(1, self._values.dtype)
        found[0] = value
        return found[0]

    def set(self, row: int, value: Any) -> None:
        """Give a row its value: one that has been set before, or the next, from 0 on; always succeeds."""
        if row >= len(self._has):
            more = len(self._has)
            self._values = np.concatenate([self._values, np.zeros(more, self._values.dtype)])
            self._has = np.concatenate([self._has, np.zeros(more, np.bool_)])
        self._has[row] = value is not None
        self._values[row] = 0 if value is None else value

    def equal(self, value: Bound) -> BitMap:
        return _rows(self._has & (self._values == value))

    def within(self, test: Mapping[str, Bound]) -> BitMap:
        found = self._has.copy()
        for name, bound in test.items():
            found &= _COMPARE[name](self._values, bound)
        return _rows(found)

    @property
    def present(self) -> BitMap:
        return _rows(self._has)


_COMPARE: Mapping[str, Any] = {
    "at_least": np.greater_equal,
    "above": np.greater,
    "at_most": np.less_equal,
    "below": np.less,
}


class _Strings:
    """One string or many of each row, as the rows of each string."""

    def __init__(self) -> None:
        self._rows: dict[str, BitMap] = {}
        self._held: list[tuple[str, ...]] = []  # by row
        self.present = BitMap()

    def converted(self, value: str | list[str] | None) -> tuple[str, ...]:
        """As `_Ordered.converted`."""
        found = () if value is None else (value,) if isinstance(value, str) else tuple(value)
        if not all(isinstance(each, str) for each in found):
            raise TypeError("expected strings")
        return found

    def set(self, row: int, value: tuple[str, ...]) -> None:
        """As `_Ordered.set`."""
        if row < len(self._held):
            for each in self._held[row]:
                self._rows[each].discard(row)
            self.present.discard(row)
            self._held[row] = value
        else:
            self._held.append(value)
        for each in value:
            self._rows.setdefault(each, BitMap()).add(row)
        if value:
            self.present.add(row)

    def equal(self, value: str) -> BitMap:
        return self._rows.get(value, BitMap())


class GrowingColumns:
    """Typed values of items that are added and changed; for one thread.

    Args:
        schema: filter field -> type.
    """

    def __init__(self, schema: FilterSchema) -> None:
        self.schema = schema
        self._columns: dict[str, _Ordered | _Strings] = {
            field: _Strings() if (dtype := KINDS[kind].dtype) is None else _Ordered(dtype)
            for field, kind in schema.items()
        }

    def set(self, row: int, values: bytes) -> None:
        """Set or replace the values of a row: all of them, or none if one cannot be set.

        Args:
            row: the next one, or one that has values.
            values: as JSON: filter field -> value as `protos.filter_kinds.parse_value` gives it.

        Raises:
            TypeError, ValueError, OverflowError: a column cannot hold its value, and nothing was set.
        """
        if self._columns:
            given = json.loads(values) if values else {}
            if not isinstance(given, dict):
                raise TypeError(f"expected an object of filter fields, got {type(given).__name__}")
            converted = {field: column.converted(given.get(field)) for field, column in self._columns.items()}
            for field, column in self._columns.items():
                column.set(row, converted[field])

    def evaluate(self, expression: Filter, count: int) -> Mask:
        """Whether each of the first `count` rows passes: bool (count,); errors as of `FilterColumns`."""
        passing = FilterColumns(dict(self.schema), count, self._columns).evaluate(expression)
        mask = np.zeros(count, np.bool_)
        mask[np.frombuffer(passing.to_array(), np.uint32)] = True
        return mask


class GrowingPostings:
    """The rows of each term, and their weights; for one thread. Rows are only added, so that they ascend."""

    def __init__(self) -> None:
        self._slots: dict[int, array[int]] = {}
        self._weights: dict[int, array[float]] = {}

    def add(self, slot: int, terms: bytes) -> None:
        """Add a row.

        Args:
            slot: higher than those before.
            terms: as `EncodedItem.terms`.

        Raises:
            EncodedItemsDamaged: they are not whole; nothing has been added.
        """
        if len(terms) % TERM_BYTES:
            raise EncodedItemsDamaged(f"{len(terms)} bytes of terms, expected {TERM_BYTES} for each")
        half = len(terms) // 2
        numbers, weights = np.frombuffer(terms[:half], np.int32), np.frombuffer(terms[half:], np.float32)
        for term, weight in zip(numbers.tolist(), weights.tolist(), strict=True):
            self._slots.setdefault(term, array("i")).append(slot)
            self._weights.setdefault(term, array("f")).append(weight)

    def of(self, term: int) -> tuple[Slots, Weights]:
        """The rows that hold a term, ascending, and the weight of each; copies."""
        slots = self._slots.get(term)
        if slots is None:
            return NO_SLOTS, NO_WEIGHTS
        return np.array(slots, np.int32), np.array(self._weights[term], np.float32)


def _rows(mask: Mask) -> BitMap:
    return bitmap(np.flatnonzero(mask).astype(np.uint32))
