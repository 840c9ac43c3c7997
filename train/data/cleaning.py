r"""Cleaning of an event log: casts, then derived columns, then filters.

    casts = { Quantity = "integer", InvoiceDate = "time" }
    derive.month = { of = "InvoiceDate", take = "month" }
    filters = ["Quantity > 0", "StockCode ~ '^[0-9]{5}'"]

A filter is a condition in Polars' SQL; an event for which it is false or null is dropped and counted. The
keys belong to `[data]` of kind `events`; `files` has `casts`, too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from twinspire.protos.errors import DataError
from twinspire.train.data.columns import Columns

# Nodes of an expression as Polars writes it as JSON: kind -> keys of its operands.
_OPERANDS = {"BinaryExpr": ("left", "right"), "Cast": ("expr",), "Ternary": ("predicate", "truthy", "falsy")}
_FUNCTIONS_OF_NUMBERS = ("Abs", "Ceil", "Floor", "MaxHorizontal", "MinHorizontal", "Pow")
_FUNCTIONS_OF_ONE_EVENT = frozenset(
    [*_FUNCTIONS_OF_NUMBERS, "Boolean", "Coalesce", "FillNull", "Sql", "StringExpr", "TemporalExpr"]
)

Cast = Literal["string", "id", "integer", "number", "time", "lower", "strip"]


@dataclass(frozen=True)
class Derived:
    """A string column computed from a time column, such as the hour of the day.

    Args:
        of: name of the time column; a time without a zone is read as UTC.
        take: `hour` is "0" to "23", `weekday` "1" (Monday) to "7", `day` "1" to "31", `month` "1" to "12".
    """

    of: str
    take: Literal["hour", "weekday", "day", "month", "year"]


def condition(text: str) -> pl.Expr:
    """What a filter tests, such as `Quantity > 0`, as an expression of the columns that it names.

    Raises:
        ValueError: the text is no expression in SQL, or more than one.
    """
    try:
        pl.sql_expr(f"({text}\n)")  # in parentheses "EUR" of "price > 5 EUR" is no alias but an error
        return pl.sql_expr(text)
    except pl.exceptions.PolarsError as error:
        example = 'a condition in SQL, such as "price > 0"'
        raise ValueError(f"expected {example}, got {text!r}: {error}") from None


def reads_other_events(text: str) -> bool:
    """Whether a filter may be about more than its own event, as `price > AVG(price)` is.

    True, too, for an expression that is not known to read one event at a time.
    """
    return not _reads_one_event(json.loads(condition(text).meta.serialize(format="json")))


def _reads_one_event(node: Any) -> bool:
    """Whether an expression, as Polars writes it as JSON, is known to read one row at a time."""
    if not isinstance(node, dict):
        return False
    [(kind, content)] = node.items()
    if kind in ("Column", "Literal"):
        return True
    if kind == "Function":
        function = content["function"]
        name, options = (function, "") if isinstance(function, str) else next(iter(function.items()))
        # "Any" and "All" have options. The format of a date that has none is that of the first rows.
        reads_others = isinstance(options, dict) and (name == "Boolean" or "Strptime" in options)
        inputs = all(map(_reads_one_event, content["input"]))
        return name in _FUNCTIONS_OF_ONE_EVENT and not reads_others and inputs
    return kind in _OPERANDS and all(_reads_one_event(content[key]) for key in _OPERANDS[kind])


def clean(
    columns: Columns, casts: Mapping[str, Cast], derive: Mapping[str, Derived], filters: Sequence[str]
) -> tuple[Columns, dict[str, int]]:
    """The events that pass every filter, and the number of dropped events by reason.

    Raises:
        DataError: a value cannot be cast or tested.
    """
    columns = cast_columns(columns, casts)
    columns = columns.with_columns(*_derived(columns, derive))
    dropped: dict[str, int] = {}
    for text in filters:
        kept = columns.keep(_passes(columns, text))
        count = columns.frame.height - kept.frame.height
        if count:
            dropped[f"not {text}"] = count
        columns = kept
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
        made.append(getattr(times.dt, derived.take)().cast(pl.String).alias(name))
    return made


def _passes(columns: Columns, text: str) -> pl.Series:
    """Boolean for each event, never null."""
    try:
        found = columns.frame.select(condition(text).alias("kept"))["kept"]
    except pl.exceptions.PolarsError as error:
        said = str(error).splitlines()[0]
        raise DataError(
            f"{columns.path}: the filter {text!r} cannot be tested: {said}; columns of CSV and TSV "
            'are strings: casts = { column = "number" } makes them numbers'
        ) from None
    if found.dtype != pl.Boolean or len(found) != columns.frame.height:
        raise DataError(f"{columns.path}: the filter {text!r}: expected true or false for each event")
    return found.fill_null(False)
