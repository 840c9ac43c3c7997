"""The types of filter fields: how a raw value of each is read, held in columns, and shown in tables.

Another type is a name in `FilterKind` and a record in `KINDS`; `serving/filters/kinds.py` says how filters
compare with its values.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal, TypeAlias

import numpy as np

from twinspire.protos.errors import InvalidInput

FilterKind = Literal["string", "strings", "number", "boolean", "time"]
Parsed: TypeAlias = "str | tuple[str, ...] | float | int | None"

LIST_SEPARATOR = "|"  # between the strings of one text, as in tables
BOOLEANS = {"true": 1, "false": 0, "1": 1, "0": 0}


@dataclass(frozen=True)
class FilterType:
    """A type of filter fields.

    Args:
        parse: raw value, and its name in errors -> value as the columns hold it; None where it is absent.
        series: name of the type that a data set's column of it has in Polars; of lists, that of their
            elements. With `is_list`, each type has another.
        read_as: how clients read a cell of it: `text`, `number`, `strings` or `time` (`item_upload.py`).
        dtype: of its values in a column that is in their order; None for strings.
        is_list: whether an item may have several values.
        table: type of its column in a table of the catalogue, where it is another than `series`.
        cell: value -> cell of such a column.
    """

    parse: Callable[[Any, str], Parsed]
    series: str
    read_as: str
    dtype: type[np.generic] | None = None
    is_list: bool = False
    table: type | None = None
    cell: Callable[[Any], Any] = lambda value: value


def microseconds_of(value: date) -> int:
    """Microseconds since 1970 of a datetime, or of the first moment of a day; without a zone, UTC."""
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    whole = value if value.tzinfo else value.replace(tzinfo=UTC)
    since = whole - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


EARLIEST, LATEST = microseconds_of(datetime.min), microseconds_of(datetime.max)


def parse_value(kind: str, raw: Any, field: str) -> Parsed:
    """A raw value of an item as its filter field holds it; None where it is absent.

    Blank strings and NaN are absent. A text may stand for a value of each type: `strings` are split at "|",
    times are ISO 8601 (without a zone, UTC) or seconds since 1970. Of texts that are numbers, eight digits
    are a date (`20260102`), and seconds have nine digits or more; others might be years.

    Args:
        raw: a string, number, boolean, datetime, list of strings, or None.
        field: name of the value in errors.

    Returns:
        A string, distinct strings, a finite number, 0 or 1, or microseconds since 1970.

    Raises:
        InvalidInput: the value is of another type, or a time outside of the years 1 to 9999 of UTC.
    """
    if (
        raw is None
        or (isinstance(raw, str) and not raw.strip())
        or (isinstance(raw, float) and math.isnan(raw))
    ):
        return None
    return KINDS[kind].parse(raw, field)


def _string(raw: Any, field: str) -> str:
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, int):
        return str(raw)
    if isinstance(raw, Sequence) and not isinstance(raw, str) and len(raw) == 1:
        raw = raw[0]
    if not isinstance(raw, str):
        raise _wrong(field, "a string", raw)
    return _unicode(raw, field)


def _strings(raw: Any, field: str) -> tuple[str, ...] | None:
    if isinstance(raw, str):
        raw = raw.split(LIST_SEPARATOR)
    elif not isinstance(raw, Iterable):
        raw = [_string(raw, field)]
    if isinstance(raw, Mapping | Iterator) or not all(isinstance(each, str) for each in raw):
        raise _wrong(field, "strings", raw)
    return tuple(dict.fromkeys(_unicode(each, field) for each in raw if each.strip())) or None


def _unicode(text: str, field: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(field, "expected Unicode, got a lone surrogate") from None
    return text


def _number(raw: Any, field: str, expected: str = "a finite number") -> float | None:
    """A finite number, None for NaN; refuses booleans, bytes and "1_000", which Python's `float` takes."""
    if isinstance(raw, bool | bytes | bytearray) or (isinstance(raw, str) and "_" in raw):
        raise _wrong(field, expected, raw)
    try:
        number = float(raw)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(field, expected, raw) from None
    if math.isinf(number):
        raise _wrong(field, expected, raw)
    return None if math.isnan(number) else number


def _boolean(raw: Any, field: str) -> int:
    found = BOOLEANS.get(raw.strip().lower()) if isinstance(raw, str) else raw
    if not isinstance(found, int | float) or found not in (0, 1):
        raise _wrong(field, "true or false", raw)
    return int(found)


_NUMBER = re.compile(r"[+-]?(?P<whole>[0-9]+)(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_TIME = "an ISO date or seconds since 1970"
_BETWEEN = "a time in the years 1 to 9999 of UTC"
DATE_DIGITS = 8  # of an ISO date without hyphens; seconds since 1970 have more since March 1973


def _time(raw: Any, field: str) -> int:
    given = raw
    if isinstance(raw, str):
        text = raw.strip()
        number = _NUMBER.fullmatch(text)
        if number is None or (text.isdigit() and len(text) == DATE_DIGITS):
            try:
                raw = datetime.fromisoformat(text)
            except ValueError:
                raise _wrong(field, _TIME, raw) from None
        elif len(number["whole"]) <= DATE_DIGITS and "e" not in text.lower():
            raise _wrong(field, f"{_TIME} of at least {DATE_DIGITS + 1} digits", raw)
    if isinstance(raw, date):
        moment = microseconds_of(raw)
        if not EARLIEST <= moment <= LATEST:  # its zone is not UTC
            raise _wrong(field, _BETWEEN, given)
        return moment
    seconds = _number(raw, field, _TIME)
    if seconds is None or not EARLIEST <= seconds * 1e6 <= LATEST:
        raise _wrong(field, _BETWEEN, raw)
    return round(seconds * 1e6)


def _wrong(field: str, expected: str, raw: Any) -> InvalidInput:
    found = repr(raw)
    return InvalidInput(field, f"expected {expected}, got {found if len(found) <= 80 else found[:79] + '…'}")


KINDS: dict[str, FilterType] = {
    "string": FilterType(_string, "String", "text"),
    "strings": FilterType(_strings, "String", "strings", is_list=True, cell=list),
    "number": FilterType(_number, "Float64", "number", np.float64),
    "boolean": FilterType(_boolean, "Int8", "text", np.int8, table=bool, cell=bool),
    "time": FilterType(_time, "Int64", "time", np.int64, table=datetime),
}
