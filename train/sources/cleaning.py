"""A log made fit to be read: casts, then derived columns, then filters, as the TOML lists them."""

import operator
import re
from collections.abc import Callable, Mapping

import polars as pl

from protos.errors import DataError
from train.config.events import Cast, Derived, EventsData, Filter
from train.sources.columns import Columns

_COMPARISONS = {
    "above": operator.gt,
    "at_least": operator.ge,
    "below": operator.lt,
    "at_most": operator.le,
}


def clean(columns: Columns, data: EventsData) -> tuple[Columns, dict[str, int]]:
    """The events that pass every filter, and how many went for which reason.

    Raises:
        DataError: a value does not fit its cast or its filter, or no event is left.
    """
    for name, cast in data.casts.items():
        columns = columns.with_columns(_cast(columns, name, cast).alias(name))
    columns = columns.with_columns(*_derived(columns, data.derive))
    dropped: dict[str, int] = {}
    for each in data.filters:
        kept = columns.keep(_passes(columns, each))
        gone = columns.frame.height - kept.frame.height
        if gone:
            dropped[each.reason] = dropped.get(each.reason, 0) + gone
        columns = kept
        if columns.frame.is_empty():
            raise DataError(f"{columns.path}: no event passes the filters; dropped: {dropped}")
    return columns, dropped


def _cast(columns: Columns, name: str, cast: Cast) -> pl.Series:
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


def _passes(columns: Columns, test: Filter) -> pl.Series:
    """Boolean, one an event, never null."""
    if test.test in _COMPARISONS:
        compare: Callable[[pl.Series, float], pl.Series] = _COMPARISONS[test.test]
        return compare(columns.numbers(test.column), test.value).fill_null(False)
    strings = columns.strings(test.column)
    if test.test == "present":
        return (strings.str.strip_chars() != "").fill_null(False)
    # Python's own expressions, which the configuration was checked against; few values are distinct.
    if test.test in ("matches", "not_matches"):
        pattern = re.compile(test.value)
        listed = [value for value in strings.unique().drop_nulls() if pattern.search(value)]
    else:
        listed = list(test.value)
    found = strings.is_in(listed).fill_null(False)
    return ~found if test.test.startswith("not_") else found
