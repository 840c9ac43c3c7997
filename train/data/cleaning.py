r"""Cleaning of an event log: casts, then derived columns, then filters.

    casts = { Quantity = "integer", InvoiceDate = "time" }
    derive.month = { of = "InvoiceDate", take = "month" }
    filters = [{ column = "Quantity", above = 0 }, { column = "StockCode", matches = '^\d{5}' }]

The keys belong to `[data]` of kind `events`; `files` has `casts`, too.
"""

import dataclasses
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from twinspire.protos.errors import DataError
from twinspire.train.data.columns import Columns

Cast = Literal["string", "id", "integer", "number", "time", "lower", "strip"]

_COMPARISONS = {
    "above": operator.gt,
    "at_least": operator.ge,
    "below": operator.lt,
    "at_most": operator.le,
}


@dataclass(frozen=True)
class Derived:
    """A string column computed from a time column, such as the hour of the day.

    Args:
        of: name of the time column; a time without a zone is read as UTC.
        take: `hour` is "0" to "23", `weekday` "1" (Monday) to "7", `day` "1" to "31", `month` "1" to "12".
    """

    of: str
    take: Literal["hour", "weekday", "day", "month", "year"]


@dataclass(frozen=True)
class RowFilter:
    """A test of one column; events that fail it are dropped and counted.

    Exactly one test is given. An absent value passes only `not_matches` and `not_in`.

    Args:
        column: name of the tested column.
        present: `true`; the value is present and not blank.
        matches: a regular expression that occurs in the value.
        not_matches: a regular expression that does not occur in the value.
        above: the value is a number greater than this.
        at_least: the value is a number of at least this.
        below: the value is a number smaller than this.
        at_most: the value is a number of at most this.
        is_in: the value, as a string, is one of these.
        not_in: the value, as a string, is none of these.
    """

    column: str
    present: Literal[True] | None = None
    matches: str | None = None
    not_matches: str | None = None
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    is_in: tuple[str, ...] | None = None
    not_in: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        given = [name for name in _TESTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"column: expected exactly one of {', '.join(_TESTS)} beside it, got {given}")
        if given[0] in ("matches", "not_matches"):
            try:
                re.compile(self.value)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"{given[0]}: not a regular expression: {error}") from None

    @property
    def test(self) -> str:
        """Name of the test that is given."""
        return next(name for name in _TESTS if getattr(self, name) is not None)

    @property
    def value(self) -> Any:
        """Operand of the test."""
        return getattr(self, self.test)

    @property
    def reason(self) -> str:
        """The reason that the report gives for dropped events, such as `Quantity not above 0`."""
        if self.test == "present":
            return f"{self.column} absent"
        value = self.value
        if isinstance(value, tuple):
            value = ", ".join(value) if len(value) <= 5 else f"the {len(value)} given"
        elif isinstance(value, float):
            value = f"{value:g}"
        return f"{self.column} {_REASONS[self.test]} {value}"


_TESTS = tuple(each.name for each in dataclasses.fields(RowFilter) if each.name != "column")
_REASONS = {
    "matches": "does not match",
    "not_matches": "matches",
    "above": "not above",
    "at_least": "not at least",
    "below": "not below",
    "at_most": "not at most",
    "is_in": "not in",
    "not_in": "in",
}


def clean(
    columns: Columns, casts: Mapping[str, Cast], derive: Mapping[str, Derived], filters: Sequence[RowFilter]
) -> tuple[Columns, dict[str, int]]:
    """The events that pass every filter, and the number of dropped events by reason.

    Raises:
        DataError: a value cannot be cast or tested, or no event passes.
    """
    columns = cast_columns(columns, casts)
    columns = columns.with_columns(*_derived(columns, derive))
    dropped: dict[str, int] = {}
    for each in filters:
        kept = columns.keep(_passes(columns, each))
        count = columns.frame.height - kept.frame.height
        if count:
            dropped[each.reason] = dropped.get(each.reason, 0) + count
        columns = kept
        if columns.frame.is_empty():
            raise DataError(f"{columns.path}: no event passes the filters; dropped: {dropped}")
    return columns, dropped


def cast_columns(columns: Columns, casts: Mapping[str, Cast]) -> Columns:
    """The same rows, with some columns read as another type.

    `id` is a string; a whole number loses its fraction, as 1.0, which is how other programs write an integer
    of a column with gaps, and so does the text "1.0".

    Raises:
        DataError: a value cannot be cast.
    """
    for name, cast in casts.items():
        columns = columns.with_columns(_cast(columns, name, cast).alias(name))
    return columns


def _cast(columns: Columns, name: str, cast: Cast) -> pl.Series:
    if cast == "id":
        return _ids(columns, name)
    if cast == "integer":
        numbers = columns.numbers(name, "a whole number")
        columns.refuse(name, (numbers != numbers.round()).fill_null(False), "a whole number")
        return numbers.cast(pl.Int64)
    if cast == "number":
        return columns.numbers(name)
    if cast == "time":
        return columns.times(name)
    strings = columns.strings(name)
    if cast == "lower":
        return strings.str.to_lowercase()
    return strings.str.strip_chars() if cast == "strip" else strings


def _ids(columns: Columns, name: str) -> pl.Series:
    values = columns.frame[name]
    if values.dtype.is_float():
        values = values.fill_nan(None)
        whole = (values == values.round()) & (values.abs() < 2**53)
        columns.refuse(name, ~whole.fill_null(True), "a whole number below 2^53")
        return values.cast(pl.Int64).cast(pl.String)
    return columns.strings(name).str.strip_chars().str.replace(r"^(-?\d+)\.0*$", "$1")


def _derived(columns: Columns, derive: Mapping[str, Derived]) -> list[pl.Series]:
    made = []
    for name, derived in derive.items():
        times = (columns.times(derived.of) * 1e6).cast(pl.Int64).cast(pl.Datetime("us"))
        parts = {
            "hour": times.dt.hour,
            "weekday": times.dt.weekday,
            "day": times.dt.day,
            "month": times.dt.month,
            "year": times.dt.year,
        }
        made.append(parts[derived.take]().cast(pl.String).alias(name))
    return made


def _passes(columns: Columns, test: RowFilter) -> pl.Series:
    """Boolean for each event, never null."""
    if test.test in _COMPARISONS:
        compare: Callable[[pl.Series, float], pl.Series] = _COMPARISONS[test.test]
        return compare(columns.numbers(test.column), test.value).fill_null(False)
    strings = columns.strings(test.column)
    if test.test == "present":
        return (strings.str.strip_chars() != "").fill_null(False)
    # Python's `re`, as in the check of the configuration. It tests distinct values only, which are few.
    if test.test in ("matches", "not_matches"):
        pattern = re.compile(test.value)
        listed = [value for value in strings.unique().drop_nulls() if pattern.search(value)]
    else:
        listed = list(test.value)
    matching = strings.is_in(listed).fill_null(False)
    return ~matching if test.test.startswith("not_") else matching
