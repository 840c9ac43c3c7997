"""Values of filter fields: how a raw value is read, and the columns of N items on disk.

    filters.npz           arrays of each field n, counted from 0 in ascending order of the fields' names

    number, boolean, time   `<n>.values` ascending: float64, int8 (0 or 1), or int64 (microseconds since
                            1970), with `<n>.rows` uint32: the item of each value
    string, strings         `<n>.text` uint8: the distinct strings in UTF-8, ascending and joined, with
                            `<n>.ends` int64 (V,); `<n>.starts` int64 (V + 1,): the items that hold string v
                            are `<n>.rows`[starts[v]:starts[v + 1]], ascending

An item without a value is in no row. The file is neither compressed nor pickled.
"""

import io
import itertools
import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from protos.bundle import FILTERS, FilterKind, Manifest
from protos.errors import BundleDamaged, InvalidInput

FilterSchema = Mapping[str, FilterKind]
Rows = npt.NDArray[np.uint32]
Parsed: TypeAlias = "str | tuple[str, ...] | float | int | None"

KINDS: tuple[FilterKind, ...] = get_args(FilterKind)
LIST_SEPARATOR = "|"  # between the strings of one text, as in tables
ORDERED: dict[FilterKind, type[np.generic]] = {"number": np.float64, "boolean": np.int8, "time": np.int64}
BOOLEANS = {"true": 1, "false": 0, "1": 1, "0": 0}
EARLIEST = int(datetime(1, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000  # microseconds since 1970
LATEST = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()) * 1_000_000 + 999_999


@dataclass(frozen=True)
class OrderedColumn:
    """A number, boolean or time of each item that has one.

    Args:
        values: ascending (M,).
        rows: of the items (M,).
    """

    values: npt.NDArray[Any]
    rows: Rows


@dataclass(frozen=True)
class StringColumn:
    """The strings of the items.

    Args:
        text: distinct strings in UTF-8, ascending and joined: uint8.
        ends: where each of them ends in `text` (V,).
        starts: where the items of each begin in `rows` (V + 1,).
        rows: of the items, ascending for each string.
    """

    text: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    rows: Rows


Column = OrderedColumn | StringColumn


def parse_value(kind: FilterKind, raw: Any, field: str) -> Parsed:
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
    parsed: Parsed = _READERS[kind](raw, field)
    return parsed


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
        raw = raw if isinstance(raw, datetime) else datetime(raw.year, raw.month, raw.day)
        whole = raw if raw.tzinfo else raw.replace(tzinfo=UTC)
        since = whole - datetime(1970, 1, 1, tzinfo=UTC)
        moment = int(since.days * 86_400 + since.seconds) * 1_000_000 + int(since.microseconds)
        if not EARLIEST <= moment <= LATEST:  # its zone is not UTC
            raise _wrong(field, _BETWEEN, given)
        return moment
    seconds = _number(raw, field, _TIME)
    if seconds is None or not EARLIEST <= seconds * 1e6 <= LATEST:
        raise _wrong(field, _BETWEEN, raw)
    return round(seconds * 1e6)


_READERS: dict[FilterKind, Any] = {
    "string": _string,
    "strings": _strings,
    "number": _number,
    "boolean": _boolean,
    "time": _time,
}


def _wrong(field: str, expected: str, raw: Any) -> InvalidInput:
    found = repr(raw)
    return InvalidInput(field, f"expected {expected}, got {found if len(found) <= 80 else found[:79] + '…'}")


def build_column(kind: FilterKind, values: Sequence[Parsed]) -> Column:
    """The column of N items.

    Args:
        values: for each item, what `parse_value` has returned.
    """
    if kind in ORDERED:
        rows = np.array([row for row, value in enumerate(values) if value is not None], np.uint32)
        present = np.array([value for value in values if value is not None], ORDERED[kind])
        order = np.argsort(present, kind="stable")
        return OrderedColumn(present[order], rows[order])
    places: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        for text in (value,) if isinstance(value, str) else value or ():  # type: ignore[union-attr]
            places.setdefault(text, []).append(row)
    encoded = sorted((text.encode(), rows) for text, rows in places.items())
    lengths = np.array([len(rows) for _, rows in encoded], np.int64)
    return StringColumn(
        np.array(bytearray(b"".join(text for text, _ in encoded)), np.uint8),
        np.cumsum([len(text) for text, _ in encoded], dtype=np.int64),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array([row for _, rows in encoded for row in rows], np.uint32),
    )


def column_values(column: Column, count: int) -> list[Parsed]:
    """The value of each of N items, from their column; the strings of an item are in ascending order."""
    found: list[Any] = [None] * count
    if isinstance(column, OrderedColumn):
        for row, value in zip(column.rows.tolist(), column.values.tolist(), strict=True):
            found[row] = value
        return found
    begins = np.concatenate([[0], column.ends[:-1]]).tolist() if len(column.ends) else []
    for n, (begin, end) in enumerate(zip(begins, column.ends.tolist(), strict=True)):
        text = column.text[begin:end].tobytes().decode()
        for row in column.rows[column.starts[n] : column.starts[n + 1]].tolist():
            found[row] = (*(found[row] or ()), text)
    return found


def build_columns(schema: FilterSchema, items: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """The columns of items, by field.

    Args:
        schema: filter field -> type.
        items: for each item, field -> raw value, as `parse_value` takes it; a field may be missing.

    Raises:
        InvalidInput: a value is of another type; the text names item and field.
    """
    return {
        field: build_column(
            kind, [parse_value(kind, item.get(field), f"[{n}].{field}") for n, item in enumerate(items)]
        )
        for field, kind in schema.items()
    }


def write_filters(folder: Path, columns: Mapping[str, Column]) -> None:
    """Write the columns of a bundle, by field."""
    arrays: dict[str, Any] = {}
    for n, (_, column) in enumerate(sorted(columns.items())):
        arrays |= {f"{n}.{name}": array for name, array in vars(column).items()}
    with (folder / FILTERS).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_filters(folder: Path, manifest: Manifest) -> dict[str, Column]:
    """The columns of a bundle whose files have been verified, by field.

    Raises:
        BundleDamaged: the file does not hold the columns that the manifest describes.
    """
    if not manifest.filters:
        return {}
    path = folder / FILTERS
    try:
        arrays = _arrays(path)
        columns = {
            field: _column(f"{n}.", kind, arrays, manifest.count)
            for n, (field, kind) in enumerate(sorted(manifest.filters.items()))
        }
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise BundleDamaged(f"{path}: {error}") from None
    if arrays:
        raise BundleDamaged(f"{path}: holds {sorted(arrays)}, which the manifest's filters do not name")
    return columns


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of the file; compressed ones are refused, because they may be of any size."""
    with zipfile.ZipFile(path) as archive:
        if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
            raise ValueError("holds a compressed array")
        return {
            name.removesuffix(".npy"): np.lib.format.read_array(
                io.BytesIO(archive.read(name)), allow_pickle=False
            )
            for name in archive.namelist()
        }


def _column(prefix: str, kind: FilterKind, arrays: dict[str, npt.NDArray[Any]], count: int) -> Column:
    """One column, taken out of `arrays`; it is checked here, and searches do not check it again.

    Raises:
        KeyError, ValueError: an array is missing or wrong.
    """

    def take(name: str, dtype: Any) -> npt.NDArray[Any]:
        array = arrays.pop(prefix + name)
        if array.dtype != dtype or array.ndim != 1:
            raise ValueError(
                f"{prefix}{name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} (n,)"
            )
        return array

    def expect(holds: Any, what: str) -> None:
        if not holds:
            raise ValueError(f"{prefix}{what}")

    rows = take("rows", np.uint32)
    expect(not len(rows) or rows.max() < count, f"rows: expected rows below {count}")
    if kind in ORDERED:
        values = take("values", ORDERED[kind])
        expect(len(values) == len(rows), "values: expected one for each row")
        expect(np.isfinite(values).all() and (values[1:] >= values[:-1]).all(), "values: expected ascending")
        expect(kind != "boolean" or np.isin(values, (0, 1)).all(), "values: expected 0 or 1")
        expect(len(np.unique(rows)) == len(rows), "rows: an item stands in it twice")
        return OrderedColumn(values, rows)
    text, ends, starts = take("text", np.uint8), take("ends", np.int64), take("starts", np.int64)
    expect(len(starts) == len(ends) + 1, "starts: expected one more than ends")
    for name, array, last in (("ends", ends, len(text)), ("starts", starts, len(rows))):
        expect((np.diff(array, prepend=0) >= 0).all(), f"{name}: expected ascending")
        expect(not len(array) or array[-1] == last, f"{name}: expected {last} at its end")
    expect(starts[0] == 0, "starts: expected 0 first")
    begins = np.concatenate([[0], ends[:-1]]).tolist() if len(ends) else []
    strings = [text[a:b].tobytes() for a, b in zip(begins, ends.tolist(), strict=True)]
    expect(all(a < b for a, b in itertools.pairwise(strings)), "text: expected ascending strings")
    for each in strings:
        each.decode()  # a UnicodeDecodeError is a ValueError
    inside = np.ones(len(rows), np.bool_)  # whether a row must be above the one before it
    inside[starts[starts < len(rows)]] = False
    expect((np.diff(rows.astype(np.int64), prepend=-1)[inside] > 0).all(), "rows: expected ascending")
    if kind == "string":
        expect(len(np.unique(rows)) == len(rows), "rows: an item stands in it twice")
    return StringColumn(text, ends, starts, rows)
