"""Columns of a table, checked and converted by their use: ids, texts, categories, numbers, times.

An invalid value raises a `DataError` that names file, row (from 1, without the header), column, the expected
and the found value.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from twinspire.protos.errors import DataError
from twinspire.protos.features import (
    CategoryFeature,
    FeatureSpec,
    HistoryFeature,
    IdFeature,
    TextFeature,
    TimeFeature,
)
from twinspire.protos.filter_kinds import LIST_SEPARATOR
from twinspire.train.data.layouts import Layout
from twinspire.train.data.table_files import read_long_slices, read_table

UNITS = (("seconds", 1.0), ("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9))
UNIT_BOUNDS = (1e11, 1e14, 1e17)  # from these on the next unit: 1e11 seconds are the year 5138
TEXT = -1  # in place of a unit
LATEST = 4_133_980_800.0  # seconds: the end of the year 2100
ROWS_AT_ONCE = 1_000_000
SHOWN = 5  # ids or rows in an error text

_STRING_TYPES = (pl.String, pl.Categorical, pl.Enum, pl.Null)


@dataclass(frozen=True)
class Columns:
    """Columns of one file; each method checks and converts one of them.

    Every method raises `DataError` for invalid values, which names the first ones.

    Args:
        frame: all rows of the file, or some of them.
        rows: numbers of these rows in the file, from 0; None if `frame` has all rows in order.
        casts: key of `[data]` with the casts of this file, for error texts; empty if there is none.
        time_units: of columns of times, which slices of one file share: the column and how often it was
            replaced -> its unit in `UNITS` or `TEXT`, and the number of the row, from 1, that tells it.
        replaced: the names of replaced columns, in order.
    """

    path: Path
    frame: pl.DataFrame
    rows: pl.Series | None = None
    casts: str = ""
    time_units: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()

    def keep(self, kept: pl.Series) -> "Columns":
        """The rows where `kept` is true; errors still name rows by their number in the file."""
        return replace(self, frame=self.frame.filter(kept), rows=self.row_numbers.filter(kept))

    def without_blank(self, *groups: Sequence[str]) -> "Columns":
        """The rows that have a value in each of some groups of columns; a text of spaces is none."""
        has_value = [
            pl.any_horizontal(_has_value(self.frame[name]).alias(name) for name in group) for group in groups
        ]
        return self.keep(self.frame.select(pl.all_horizontal(has_value).alias("kept"))["kept"])

    @property
    def row_numbers(self) -> pl.Series:
        """Numbers of the rows in the file, from 0."""
        if self.rows is not None:
            return self.rows
        return pl.int_range(self.frame.height, eager=True)

    def with_columns(self, *columns: pl.Series) -> "Columns":
        """The same rows with columns added or replaced."""
        replaced = (*self.replaced, *(each.name for each in columns if each.name in self.frame.columns))
        return replace(self, frame=self.frame.with_columns(*columns), replaced=replaced)

    def strings(self, column: str, expected: str = "a string") -> pl.Series:
        """Strings, unchanged; integers and booleans as strings; null where absent.

        An error says by which cast whole floats are read as ids.
        """
        values = self.frame[column]
        if values.dtype.is_float() and values.count():
            row = values.is_not_null().arg_max() or 0
            key = f'{self.casts}.{json.dumps(column, ensure_ascii=False)} = "id"'
            is_id = self.casts and values[row].is_integer()
            hint = f'; {key} in [data] reads {values[row]!r} as "{values[row]:.0f}"' if is_id else ""
            raise self.refusal(column, row, f"expected {expected}, got {values[row]!r}{hint}")
        if values.dtype in _STRING_TYPES or values.dtype == pl.Boolean or values.dtype.is_integer():
            return values.cast(pl.String)
        self.refuse(column, values.is_not_null(), expected)
        return values.cast(pl.String, strict=False)

    def required(self, column: str, expected: str, advice: str = "") -> pl.Series:
        """Strings; null and blank ones are refused, with advice on what to do about them."""
        values = self.strings(column, expected)
        self.refuse(column, values.is_null() | (values.str.strip_chars() == ""), expected, advice)
        return values

    def unique_ids(self, column: str) -> pl.Series:
        """Strings that are distinct, neither null nor blank."""
        values = self.required(column, "an id")
        again = ~values.is_first_distinct()
        if again.any():
            first = values.index_of(values[again.arg_max() or 0])
            expected = f"an id that occurs once (row {self.row_numbers[first or 0] + 1} has it, too)"
            self.refuse(column, again, expected)
        return values

    def categories(self, column: str) -> pl.Series:
        """A list of strings for each row, from a list or from one string split at "|"; empty where null."""
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
        """Float64; null where absent or NaN."""
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
        """Float64: ISO dates and times in seconds since 1970; without a zone, UTC.

        Numbers below 1e11 are seconds, or any other order, and are unchanged. Larger ones are milliseconds,
        microseconds or nanoseconds since 1970, by their size, and become seconds. All numbers of a column
        must be of one unit and not after 2100, so milliseconds before March 1973 are not told from seconds.
        """
        expected = "a number or an ISO date"
        values = self.frame[column]
        key = (column, self.replaced.count(column))
        if values.dtype in (pl.Date, pl.Datetime):
            times = values.cast(pl.Datetime("us")).dt.epoch("us").cast(pl.Float64) / 1e6
        elif values.dtype == pl.String and self._is_text(key, values):
            times = pl.Series(column, [_seconds(value) for value in values], dtype=pl.Float64)
        else:
            numbers = self.numbers(column, expected)
            self.refuse(column, numbers.is_null(), expected)
            return self._seconds(key, numbers)
        self.refuse(column, times.is_null(), expected)
        return times

    def _is_text(self, key: tuple[str, int], times: pl.Series) -> bool:
        """Whether the first time of a column, which is one of strings, is no number."""
        if key not in self.time_units and len(times) and not _begins_with_a_number(times):
            self.time_units[key] = (TEXT, self.row_numbers[0] + 1)
        return key in self.time_units and self.time_units[key][0] == TEXT

    def _seconds(self, key: tuple[str, int], numbers: pl.Series) -> pl.Series:
        """Numbers of one unit as seconds."""
        sizes = numbers.abs()
        units = pl.zeros(len(sizes), dtype=pl.Int64, eager=True)
        for bound in UNIT_BOUNDS:
            units = units + (sizes >= bound).cast(pl.Int64)
        if units.is_empty():
            return numbers
        first, row = self.time_units.setdefault(key, (int(units[0]), self.row_numbers[0] + 1))
        name, scale = UNITS[first]
        bad = (units != first) | (numbers / scale > LATEST)
        if first:  # smaller numbers may be an order that is no time, and may begin below 0
            bad = bad | (numbers < 0)
        self.refuse(key[0], bad, f"a time of the years 1970 to 2100, in {name} since 1970 as in row {row}")
        return numbers / scale

    def refuse(self, column: str, bad: pl.Series, expected: str, advice: str = "") -> None:
        """Raise a `DataError` for the rows where `bad` is true; advice on them ends its text."""
        rows = bad.arg_true()
        if len(rows):
            found = self.frame[column][rows[0]]
            found = found.to_list() if isinstance(found, pl.Series) else found
            reason = f"expected {expected}, got {_show(found)}"
            if len(rows) > 1:
                numbers = self.row_numbers.gather(rows[:SHOWN]) + 1
                reason += f", in {len(rows):,} rows: {_first(map(str, numbers), len(rows))}"
            raise self.refusal(column, rows[0], f"{reason}; {advice}" if advice else reason)

    def refusal(self, column: str, row: int, reason: str) -> DataError:
        """The error for a value; the text names file, row and column."""
        return DataError(f"{self.path}: row {self.row_numbers[row] + 1}, column {column!r}: {reason}")


def _has_value(values: pl.Series) -> pl.Series:
    if values.dtype == pl.String:
        return (values.str.strip_chars() != "").fill_null(False)
    if values.dtype.is_float():
        return values.is_not_nan().fill_null(False)
    if isinstance(values.dtype, pl.List):
        return (values.list.len() > 0).fill_null(False)
    return values.is_not_null()


def _show(value: Any) -> str:
    """A value for an error text, cut to 80 characters."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _first(shown: Iterable[str], count: int) -> str:
    """The first `SHOWN` of some values, and how many of them there are besides."""
    return ", ".join(shown) + (f" and {count - SHOWN:,} more" if count > SHOWN else "")


def _begins_with_a_number(strings: pl.Series) -> bool:
    """Whether a column's first time is a number; then all others must be numbers, too."""
    return strings.head(1).cast(pl.Float64, strict=False).null_count() == 0


def _seconds(value: str | None) -> float | None:
    try:
        time = datetime.fromisoformat(value or "")
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def column_names(features: Mapping[str, FeatureSpec]) -> list[str]:
    """The columns that features read, `catalogue_column` included; a history or a time reads none of them."""
    read = [spec for spec in features.values() if not isinstance(spec, HistoryFeature | TimeFeature)]
    served = [spec.catalogue_column for spec in read if isinstance(spec, TextFeature)]
    return [*(spec.column for spec in read), *(name for name in served if name)]


def read_columns(
    path: Path, names: Iterable[str], layout: Layout | None = None, file: str = "", casts: str = ""
) -> Columns:
    """The named columns of the table at `path`; names may repeat.

    Args:
        layout: of delimited text, where the suffix does not say it.
        file: name of the table in `[data.layouts]`, for error texts; empty if a layout cannot be given.
        casts: key of `[data]` with the casts of this table, for error texts; empty if there is none.

    Raises:
        DataError: the file is missing or damaged, or lacks a column.
    """
    return Columns(path, read_table(path, list(dict.fromkeys(names)), layout, file), casts=casts)


def read_column_slices(
    path: Path, names: Iterable[str], layout: Layout | None = None, file: str = "", casts: str = ""
) -> Iterator[Columns]:
    """The same, `ROWS_AT_ONCE` rows at a time; at least one slice.

    Raises:
        DataError: the file is missing, damaged or empty, or lacks a column.
    """
    units: dict[tuple[str, int], tuple[int, int]] = {}
    first = 0
    for frame in read_long_slices(path, list(dict.fromkeys(names)), ROWS_AT_ONCE, layout, file):
        rows = pl.int_range(first, first + frame.height, eager=True)
        yield Columns(path, frame, rows, casts, units)
        first += frame.height


def features_of(
    columns: Columns, features: Mapping[str, FeatureSpec], may_lack_texts: bool = False, advice: str = ""
) -> dict[str, pl.Series]:
    """The columns of one tower's features, by name of the column.

    Args:
        may_lack_texts: read a text that is null or blank as an empty one, instead of refusing it.
        advice: what to do about rows that lack a text, for the error.

    Raises:
        DataError: a value does not fit its feature, or two features need different types of one column.
    """
    read: dict[str, pl.Series] = {}
    for name, spec in features.items():
        for column in column_names({name: spec}):
            values = _values(columns, column, spec, may_lack_texts, advice)
            if column in read and read[column].dtype != values.dtype:
                raise DataError(
                    f"{columns.path}: column {column!r} is read by two features as "
                    f"{read[column].dtype} and as {values.dtype}"
                )
            if column not in read or isinstance(spec, TextFeature):  # whose absent value is ""
                read[column] = values
    return read


def _values(columns: Columns, column: str, spec: FeatureSpec, may_lack_texts: bool, advice: str) -> pl.Series:
    if isinstance(spec, TextFeature):
        if not may_lack_texts:
            return columns.required(column, "text", advice)
        return columns.strings(column, "text").fill_null("").str.replace(r"^\s+$", "")
    if isinstance(spec, CategoryFeature):
        return columns.categories(column) if spec.multi else columns.strings(column)
    if isinstance(spec, IdFeature):
        return columns.required(column, "an id")
    return columns.numbers(column)


def items_of(
    columns: Columns, id_column: str, features: Mapping[str, FeatureSpec], display: Iterable[str]
) -> pl.DataFrame:
    """The items: `item_id`, then columns of features, then the other display fields.

    An item may lack its texts where the tower reads its id, too; they are then empty.

    Raises:
        DataError: a value does not fit, an id is repeated, or `item_id` is the name of another column.
    """
    id_features = {name: spec for name, spec in features.items() if column_names({name: spec}) == ["item_id"]}
    others = {name: spec for name, spec in features.items() if name not in id_features}
    if id_column != "item_id" and (
        "item_id" in display or any(not isinstance(spec, IdFeature) for spec in id_features.values())
    ):
        raise DataError(
            f"{columns.path}: column 'item_id' is a feature or a display field, but the ids are in "
            f"{id_column!r}: rename it"
        )
    has_id = any(isinstance(spec, IdFeature) for spec in features.values())
    advice = (
        'leave such items out, with unknown_items = "drop" in [data] their pairs too, or add [item.id] with '
        'kind = "id": an item may then lack its texts'
    )
    read = features_of(columns, others, has_id, advice)
    shown = {
        name: columns.strings(name, "a string to show").fill_null("")
        for name in display
        if name not in read and name != "item_id"
    }
    return pl.DataFrame({"item_id": columns.unique_ids(id_column), **read, **shown})


def weights_of(columns: Columns, column: str) -> pl.Series:
    """Float32 weights; all 1 if `column` is empty."""
    if not column:
        return pl.repeat(1.0, columns.frame.height, dtype=pl.Float32, eager=True)
    expected = "a number of at least 0"
    weights = columns.numbers(column, expected)
    columns.refuse(column, weights.is_null() | (weights < 0), expected)
    return weights.cast(pl.Float32)


def labels_of(columns: Columns, column: str, positive_from: float | None) -> pl.Series:
    """Float32 labels: 1 of a positive row, 0 of a negative one; all 1 if `column` is empty.

    Args:
        positive_from: a row is positive if its number is at least this; if None, where it is above 0.
    """
    if not column:
        return pl.repeat(1.0, columns.frame.height, dtype=pl.Float32, eager=True)
    expected = "a number"
    numbers = columns.numbers(column, expected)
    columns.refuse(column, numbers.is_null(), expected)
    positive = numbers > 0 if positive_from is None else numbers >= positive_from
    return positive.cast(pl.Float32)


def rows_of(columns: Columns, column: str, item_ids: pl.Series, table: str) -> pl.Series:
    """UInt32 rows of the items whose ids are in a column.

    Args:
        table: name of the table of items, for error texts.

    Raises:
        DataError: an id is absent or unknown.
    """
    ids = columns.required(column, "an item id")
    rows = pl.DataFrame({"id": item_ids}).with_row_index("item_row")
    joined = pl.DataFrame({"id": ids}).join(rows, on="id", how="left", maintain_order="left")
    unknown = joined.filter(pl.col("item_row").is_null())["id"]
    if len(unknown):
        distinct = unknown.unique(maintain_order=True)
        shown = _first(map(_show, distinct[:SHOWN]), len(distinct))
        row = joined["item_row"].is_null().arg_max() or 0
        advice = '; unknown_items = "drop" in [data] leaves them out' if columns.casts else ""
        raise columns.refusal(
            column,
            row,
            f"expected the id of an item in {table}, got {shown}, in {len(unknown):,} rows{advice}",
        )
    return joined["item_row"]
