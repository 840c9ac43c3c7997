"""Raw columns of a table as what they are used for: ids, texts, categories, numbers, times.

A value that does not fit is a `DataError` that names file, row (from 1, without the header), column,
what was expected and what was found.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from protos.errors import DataError

LIST_SEPARATOR = "|"

_STRING_TYPES = (pl.String, pl.Categorical, pl.Enum, pl.Null)


@dataclass(frozen=True)
class Columns:
    """The columns of one table, checked and converted on the way out.

    Every method raises `DataError` for the first value that does not fit.

    Args:
        path: of the file.
        frame: its columns, or those of some of its rows.
        rows: where the rows of `frame` stand in the file, from 0; None if it has them all, in order.
    """

    path: Path
    frame: pl.DataFrame
    rows: pl.Series | None = None

    def keep(self, kept: pl.Series) -> "Columns":
        """The rows where `kept` holds; faults are still told by where they stand in the file."""
        return Columns(self.path, self.frame.filter(kept), self.places.filter(kept))

    @property
    def places(self) -> pl.Series:
        """Where the rows stand in the file, from 0."""
        if self.rows is not None:
            return self.rows
        return pl.int_range(self.frame.height, eager=True)

    def with_columns(self, *columns: pl.Series) -> "Columns":
        """The same rows with columns added or replaced."""
        return Columns(self.path, self.frame.with_columns(*columns), self.rows)

    def strings(self, column: str, expected: str = "a string") -> pl.Series:
        """Strings as they are, whole numbers and truth values spelt out, null where absent."""
        values = self.frame[column]
        if values.dtype in _STRING_TYPES or values.dtype == pl.Boolean or values.dtype.is_integer():
            return values.cast(pl.String)
        self.refuse(column, values.is_not_null(), expected)
        return values.cast(pl.String, strict=False)

    def required(self, column: str, expected: str) -> pl.Series:
        """Strings that are neither null nor blank."""
        values = self.strings(column, expected)
        self.refuse(column, values.is_null() | (values.str.strip_chars() == ""), expected)
        return values

    def unique_ids(self, column: str) -> pl.Series:
        """Ids that occur once."""
        values = self.required(column, "an id")
        again = ~values.is_first_distinct()
        if again.any():
            first = values.index_of(values[again.arg_max() or 0])
            expected = f"ids that occur once (this one stands in row {self.places[first or 0] + 1} already)"
            self.refuse(column, again, expected)
        return values

    def categories(self, column: str) -> pl.Series:
        """Several strings to a row: a list, or one string cut at "|"; null is an empty list."""
        expected = "a list of strings"
        values = self.frame[column]
        if not isinstance(values.dtype, pl.List):
            lists = self.strings(column, expected).str.split(LIST_SEPARATOR)
            return lists.list.eval(pl.element().filter(pl.element() != "")).fill_null([])
        inner = values.dtype.inner
        if not (inner in _STRING_TYPES or inner.is_integer()):
            self.refuse(column, values.is_not_null(), expected)
        absent = values.list.eval(pl.element().is_null()).list.any().fill_null(False)
        self.refuse(column, absent, expected)
        return values.cast(pl.List(pl.String)).fill_null([])

    def numbers(self, column: str, expected: str = "a finite number") -> pl.Series:
        """Float64, null where absent; NaN counts as absent."""
        values = self.frame[column]
        if not (values.dtype.is_numeric() or values.dtype in (pl.String, pl.Boolean, pl.Null)):
            self.refuse(column, values.is_not_null(), expected)
        if values.dtype == pl.String:
            values = values.str.strip_chars()
        numbers = values.cast(pl.Float64, strict=False)
        unread = numbers.is_null() & values.is_not_null()
        self.refuse(column, unread | numbers.is_infinite().fill_null(False), expected)
        return numbers.fill_nan(None)

    def times(self, column: str) -> pl.Series:
        """Float64: numbers as they are, ISO dates and times as seconds since 1970, UTC if unsaid."""
        expected = "a number or an ISO date"
        values = self.frame[column]
        if values.dtype in (pl.Date, pl.Datetime):
            times = values.cast(pl.Datetime("us")).dt.epoch("us").cast(pl.Float64) / 1e6
        elif values.dtype == pl.String and not _begins_with_a_number(values):
            times = pl.Series(column, [_seconds(value) for value in values], dtype=pl.Float64)
        else:
            times = self.numbers(column, expected)
        self.refuse(column, times.is_null(), expected)
        return times

    def refuse(self, column: str, bad: pl.Series, expected: str) -> None:
        """Raise for the first row where `bad` holds."""
        if bad.any():
            row = bad.arg_max() or 0
            found = self.frame[column][row]
            found = found.to_list() if isinstance(found, pl.Series) else found
            raise DataError(
                f"{self.path}: row {self.places[row] + 1}, column {column!r}: expected {expected}, "
                f"got {_show(found)}"
            )


def _show(value: Any) -> str:
    """A value as an error names it: null by its name, and never a page of text."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _begins_with_a_number(strings: pl.Series) -> bool:
    """Whether the first of a column's times is a number, as then all of them are to be."""
    return strings.head(1).cast(pl.Float64, strict=False).null_count() == 0


def _seconds(value: str | None) -> float | None:
    try:
        time = datetime.fromisoformat(value or "")
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
