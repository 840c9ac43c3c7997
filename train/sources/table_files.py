"""A table from a CSV, TSV, JSONL or Parquet file, with every fault told by file, row and column.

Rows are counted from 1, a header not among them. CSV and TSV quote as RFC 4180 has it, and their cells
stay the strings that they are, because "007" is no number; an empty cell is null. A JSONL file has one
object a line, whose values keep their type.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from protos.errors import DataError

_FIELD_LIMIT = 2**31 - 1


def read_table(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """The named columns of the table at `path`, in that order.

    Raises:
        DataError: the file is missing, has another ending, is damaged or empty, or lacks a column.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        endings = ", ".join(_READERS)
        raise DataError(f"{path}: expected a file that ends in {endings}, got {path.suffix!r}")
    try:
        frame = reader(path, columns)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if frame.is_empty():
        raise DataError(f"{path}: expected at least one row, got an empty table")
    return frame


def _missing(path: Path, column: str, present: Sequence[str]) -> DataError:
    names = ", ".join(present) or "none"
    return DataError(f"{path}: column {column!r} is missing; columns present: {names}")


def _text_of(path: Path) -> str:
    """The file's text, without a byte order mark."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line}, byte offset {error.start}: expected UTF-8, "
            f"got byte 0x{content[error.start]:02x}"
        ) from None


def _delimited(separator: str) -> Callable[[Path, Sequence[str]], pl.DataFrame]:
    """A reader of CSV or TSV.

    Python's own parser, for Polars pads a short row with nulls without a word, and refuses a file with
    a quote inside an unquoted cell without saying where.
    """

    def read(path: Path, columns: Sequence[str]) -> pl.DataFrame:
        csv.field_size_limit(_FIELD_LIMIT)
        text = io.StringIO(_text_of(path).rstrip("\r\n"), newline="")
        rows = csv.reader(text, delimiter=separator, strict=True)
        header = _header(path, next(rows, []))
        for column in columns:
            if column not in header:
                raise _missing(path, column, header)
        positions = [header.index(column) for column in columns]
        cells: list[list[str | None]] = [[] for _ in columns]
        count = 0
        try:
            for count, row in enumerate(rows, 1):
                if len(row) != len(header):
                    raise DataError(
                        f"{path}: row {count} (ends on line {rows.line_num}): expected {len(header)} "
                        f"fields as in the header, got {len(row)}"
                    )
                for column_cells, position in zip(cells, positions, strict=True):
                    column_cells.append(row[position] or None)
        except csv.Error as error:
            raise DataError(f"{path}: row {count + 1} (line {rows.line_num}): {error}") from None
        return pl.DataFrame([pl.Series(*each, dtype=pl.String) for each in zip(columns, cells, strict=True)])

    return read


def _header(path: Path, header: list[str]) -> list[str]:
    if not header:
        raise DataError(f"{path}: line 1: expected a header with column names, got nothing")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path}: line 1: expected distinct column names, got {twice!r} twice")
    return header


def _jsonl(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    objects = list(_objects(path))
    present = list(dict.fromkeys(name for each in objects for name in each))
    series = []
    for column in columns:
        if objects and column not in present:
            raise _missing(path, column, present)
        series.append(_series(path, column, [each.get(column) for each in objects]))
    return pl.DataFrame(series)


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_text_of(path).rstrip().split("\n"), 1):
        if number == 1 and not line:
            return
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}: row {number}: not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise DataError(f"{path}: row {number}: expected a JSON object, got {line[:80]!r}")
        yield value


def _series(path: Path, column: str, values: list[Any]) -> pl.Series:
    """The values of a JSON key; they must be of one type, apart from nulls."""
    expected = next((_type(value) for value in values if value is not None), "a string")
    for number, value in enumerate(values, 1):
        if value is not None and _type(value) != expected:
            raise DataError(
                f"{path}: row {number}, column {column!r}: expected {expected} as in the rows before, "
                f"got {value!r}"
            )
        if isinstance(value, str) and not value.isascii():
            _check_surrogates(path, number, column, value)
    try:
        return pl.Series(column, values, None if values else pl.String, strict=False)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: column {column!r}: expected {expected}s: {error}") from None


def _type(value: Any) -> str:
    """What a value is called in JSON, which does not tell 1 from 1.0."""
    return _JSON_TYPES[type(value)]


_JSON_TYPES = {
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    list: "a list",
    dict: "an object",
}


def _check_surrogates(path: Path, number: int, column: str, value: str) -> None:
    """JSON can spell half a surrogate pair, which no encoding of Unicode can."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{path}: row {number}, column {column!r}: expected Unicode, "
            f"got the lone surrogate {value[error.start]!r} at character {error.start}"
        ) from None


def _parquet(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    try:
        present = list(pl.read_parquet_schema(path))
        for column in columns:
            if column not in present:
                raise _missing(path, column, present)
        return pl.read_parquet(path, columns=list(columns)).select(columns)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from None


_READERS: dict[str, Callable[[Path, Sequence[str]], pl.DataFrame]] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
