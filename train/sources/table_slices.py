"""A table from a CSV, TSV, JSONL or Parquet file, some rows at a time, none of them held for long.

Every fault is told by file, row and column; rows are counted from 1, a header not among them. CSV and TSV
quote as RFC 4180 has it, and their cells stay the strings that they are, because "007" is no number; an
empty cell is null. A JSONL file has one object a line, whose values keep their type.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from protos.documents import parse_json
from protos.errors import DataError

T = TypeVar("T")
Reader = Callable[[Path, Sequence[str], int, int], Iterator[pl.DataFrame]]

_FIELD_LIMIT = 2**31 - 1


def read_slices(path: Path, columns: Sequence[str], size: int, first: int = 0) -> Iterator[pl.DataFrame]:
    """The named columns of the table at `path`, `size` rows at a time, the last time maybe fewer.

    Args:
        columns: distinct names.
        size: rows of a slice.
        first: how many rows to pass over.

    Raises:
        DataError: the file is missing, has another ending, is damaged, or lacks a column. A fault is found
            when its slice is read.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        endings = ", ".join(_READERS)
        raise DataError(f"{path}: expected a file that ends in {endings}, got {path.suffix!r}")
    try:
        yield from reader(path, columns, size, first)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise _not_unicode(path) from None


def _chunks(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    rows = iter(rows)
    while chunk := list(islice(rows, size)):
        yield chunk


def _missing(path: Path, column: str, present: Iterable[str]) -> DataError:
    names = ", ".join(present) or "none"
    return DataError(f"{path}: column {column!r} is missing; columns present: {names}")


def _not_unicode(path: Path) -> DataError:
    """Where the first byte stands that is not UTF-8: a text file only knows it by the chunk."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return DataError(
                    f"{path}: line {number}, byte offset {offset + error.start}: expected UTF-8, "
                    f"got byte 0x{line[error.start]:02x}"
                )
            offset += len(line)
    return DataError(f"{path}: expected UTF-8; changed while it was read")


def _delimited(separator: str) -> Reader:
    """A reader of CSV or TSV.

    Python's own parser, for Polars pads a short row with nulls without a word, and refuses a file with
    a quote inside an unquoted cell without saying where.
    """

    def read(path: Path, columns: Sequence[str], size: int, first: int) -> Iterator[pl.DataFrame]:
        csv.field_size_limit(_FIELD_LIMIT)
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, delimiter=separator, strict=True)
            header = _header(path, lines)
            for column in columns:
                if column not in header:
                    raise _missing(path, column, header)
            positions = [header.index(column) for column in columns]
            rows = islice(_rows(path, lines, len(header)), first, None)
            for chunk in _chunks(rows, size):
                cells = [[row[position] or None for row in chunk] for position in positions]
                yield pl.DataFrame(cells, dict.fromkeys(columns, pl.String), orient="col")

    return read


def _header(path: Path, lines: Any) -> list[str]:
    try:
        header: list[str] = next(lines, [])
    except csv.Error as error:
        raise DataError(f"{path}: line 1: {error}") from None
    if not header:
        raise DataError(f"{path}: line 1: expected a header with column names, got nothing")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path}: line 1: expected distinct column names, got {twice!r} twice")
    return header


def _rows(path: Path, lines: Any, width: int) -> Iterator[list[str]]:
    """Rows of the header's width; blank lines may only stand at the end."""
    fault: DataError | None = None
    number = 0
    try:
        for number, row in enumerate(lines, 1):
            if fault is None and len(row) != width:
                fault = DataError(
                    f"{path}: row {number} (ends on line {lines.line_num}): expected {width} fields as in "
                    f"the header, got {len(row)}"
                )
            if row and fault is not None:
                raise fault
            if row:
                yield row
    except csv.Error as error:
        raise DataError(f"{path}: row {number + 1} (line {lines.line_num}): {error}") from None


def _jsonl(path: Path, columns: Sequence[str], size: int, first: int) -> Iterator[pl.DataFrame]:
    types: dict[str, str] = {}
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for n, lines in enumerate(_chunks(islice(_lines(path, file), first, None), size)):
            begin = first + n * size
            objects = [_object(path, row, line) for row, line in enumerate(lines, begin + 1)]
            if begin == 0:
                _check_names(path, columns, objects)
            yield pl.DataFrame(
                [_series(path, name, [each.get(name) for each in objects], begin, types) for name in columns]
            )


def _lines(path: Path, file: Iterable[str]) -> Iterator[str]:
    """Lines with something on them; blank ones may only stand at the end."""
    blank = 0
    for number, line in enumerate(file, 1):
        if not line.strip():
            blank = blank or number
        elif blank:
            raise DataError(f"{path}: row {blank}: not valid JSON: the line is blank")
        else:
            yield line


def _object(path: Path, row: int, line: str) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise DataError(f"{path}: row {row}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: row {row}: expected a JSON object, got {line.rstrip()[:80]!r}")
    return value


def _check_names(path: Path, columns: Sequence[str], objects: Sequence[dict[str, Any]]) -> None:
    """A key may be absent from many rows, but not from all: only then are all looked at."""
    present = dict.fromkeys(name for each in objects for name in each)
    if all(column in present for column in columns):
        return
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for row, line in enumerate(_lines(path, file), 1):
            present.update(dict.fromkeys(_object(path, row, line)))
    for column in columns:
        if column not in present:
            raise _missing(path, column, present)


def _series(path: Path, column: str, values: list[Any], begin: int, types: dict[str, str]) -> pl.Series:
    """The values of a JSON key; they must be of one type in the whole file, apart from nulls."""
    for row, value in enumerate(values, begin + 1):
        if value is None:
            continue
        expected = types.setdefault(column, _JSON_TYPES[type(value)])
        if _JSON_TYPES[type(value)] != expected:
            raise DataError(
                f"{path}: row {row}, column {column!r}: expected {expected} as in the rows before, "
                f"got {value!r}"
            )
        if isinstance(value, str) and not value.isascii():
            _check_surrogates(path, row, column, value)
    try:
        return pl.Series(column, values, strict=False)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        expected = types.get(column, "a string")
        raise DataError(f"{path}: column {column!r}: expected {expected}s: {error}") from None


_JSON_TYPES = {
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    list: "a list",
    dict: "an object",
}


def _check_surrogates(path: Path, row: int, column: str, value: str) -> None:
    """JSON can spell half a surrogate pair, which no encoding of Unicode can."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{path}: row {row}, column {column!r}: expected Unicode, "
            f"got the lone surrogate {value[error.start]!r} at character {error.start}"
        ) from None


def _parquet(path: Path, columns: Sequence[str], size: int, first: int) -> Iterator[pl.DataFrame]:
    try:
        present = list(pl.read_parquet_schema(path))
        for column in columns:
            if column not in present:
                raise _missing(path, column, present)
        table = pl.scan_parquet(path, glob=False).select(columns)
        count = table.select(pl.len()).collect().item()
        for at in range(first, count, size):
            # one slice at a time: Polars' own batches run ahead, and hold whole row groups
            yield table.slice(at, size).collect()
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from None


_READERS: dict[str, Reader] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
