"""Tables in delimited text, JSONL and Parquet: where a file is, its identity, and its rows.

Errors name file, row and column; rows are counted from 1, without the header. CSV and TSV are quoted as in
RFC 4180; `layouts.py` says what other delimited text is read. Cells of CSV and TSV stay strings, because
"007" is no number; an empty cell is null. A JSONL file has one object on each line; its values keep their
types.

A cell has at most `MAX_CELL_LENGTH` characters. At most `MAX_ROW_LENGTH` characters of a row of CSV, TSV or
JSONL are read, so a longer row is refused before it fills the memory. A cell of Parquet is refused only after
its column was decoded, so the limits do not bound the memory for reading Parquet.
"""

import codecs
import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from twinspire.protos.bundle import record
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import DataError
from twinspire.protos.files.regular_files import check_regular, open_regular
from twinspire.train.data.layouts import (
    SUFFIXES,
    Layout,
    format_of,
    layout_key,
)

T = TypeVar("T")
Reader = Callable[[Path, Sequence[str], int, int], Iterator[pl.DataFrame]]

DATA_FOLDER = "TWINSPIRE_DATA"
"""Environment variable: folder of files that are not in the folder of the TOML file."""
MAX_CELL_LENGTH = 1 << 20  # characters; towers read at most 65,536 of a text
MAX_ROW_LENGTH = 1 << 24  # characters of the file
SEPARATORS = (";", "\t", "|", ":", ",")  # that a header is looked at for, to give advice
SLICE = 65_536  # rows whose cells are Python objects at one time


def find_data_file(base: Path, name: str) -> Path:
    """Path of a file in `base`, or else in the folder that TWINSPIRE_DATA names.

    A file that is in neither gets its path in `base`.
    """
    path = base / name
    folder = os.environ.get(DATA_FOLDER)
    if folder and not path.exists() and (Path(folder) / name).exists():
        return Path(folder) / name
    return path


def identity_of(paths: Iterable[Path]) -> str:
    """sha256 over the sha256 of each file.

    Raises:
        DataError: a file is missing, or is no regular file.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            check_regular(path)
            digest.update(record(path).sha256.encode())
        except OSError as error:
            hint = "" if path.exists() else f"; {DATA_FOLDER} may name its folder"
            raise DataError(f"{path}: cannot be read: {error.strerror or error}{hint}") from None
    return digest.hexdigest()


def read_table(
    path: Path, columns: Sequence[str], layout: Layout | None = None, name: str = ""
) -> pl.DataFrame:
    """The named columns of the table at `path`, in that order.

    Args:
        path: of the file; its suffix tells the format.
        columns: distinct names.
        layout: of delimited text, where the suffix does not say it.
        name: of the file in `[data.layouts]`, for error texts; empty if a layout cannot be given.

    Raises:
        DataError: the file is missing, damaged or empty, has an unknown suffix, or lacks a column.
    """
    slices = list(read_slices(path, columns, SLICE, layout=layout, name=name))
    if not slices:
        raise DataError(f"{path}: expected at least one row, got an empty table")
    try:
        return pl.concat(slices, how="vertical_relaxed")  # relaxed: a slice may hold only integers, or nulls
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: values of a column are of different types: {error}") from None


def read_slices(
    path: Path,
    columns: Sequence[str],
    size: int,
    first: int = 0,
    layout: Layout | None = None,
    name: str = "",
) -> Iterator[pl.DataFrame]:
    """The named columns of the table at `path`, `size` rows at a time.

    Args:
        path: of the file; its suffix tells the format.
        columns: distinct names.
        size: rows in a slice; the last slice may have fewer.
        layout: of delimited text, where the suffix does not say it.
        name: of the file in `[data.layouts]`, for error texts; empty if a layout cannot be given.

    Raises:
        DataError: the file is missing or damaged, has an unknown suffix, or lacks a column. An invalid row
            raises when its slice is read.
    """
    written = format_of(path, layout, name)
    reader = _READERS.get(path.suffix.lower()) if written is None else _delimited(written, name)
    if reader is None:
        endings = ", ".join([*SUFFIXES, *_READERS])
        advice = f', or a separator in [data.layouts."{name}"]' if name else ""
        raise DataError(f"{path}: expected a file that ends in {endings}, got {path.suffix!r}{advice}")
    try:
        check_regular(path)
        yield from reader(path, columns, size, first)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeError:
        delimited = name if written is not None else ""
        if written is not None and written.encoding == "utf-16":
            raise DataError(f"{path}: is not UTF-16 or is cut off; {layout_key(name)} says utf-16") from None
        raise _not_unicode(path, layout_key(delimited) if delimited else "") from None


def _chunks(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    rows = iter(rows)
    while chunk := list(islice(rows, size)):
        yield chunk


def _missing(path: Path, column: str, present: Iterable[str], advice: str = "") -> DataError:
    names = ", ".join(present) or "none"
    return DataError(f"{path}: column {column!r} is missing; columns present: {names}{advice}")


def _other_separator(header: Sequence[str], name: str) -> str:
    """Advice where a header of one column looks like one with another separator; else empty."""
    if len(header) != 1 or not name:
        return ""
    separator = max(SEPARATORS, key=header[0].count)
    if separator not in header[0]:
        return ""
    return f"; if {separator!r} separates them, set separator = {json.dumps(separator)} in {layout_key(name)}"


def _not_unicode(path: Path, key: str) -> DataError:
    """The error for a file that is not UTF-8, with the position of the first bad byte.

    Args:
        key: the table of the TOML that may name the file's encoding; empty if there is none.
    """
    offset = 0
    advice = f'; or set encoding = "latin-1" in {key}' if key else ""
    with open_regular(path) as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            advice = f': set encoding = "utf-16" in {key}' if key else ""
            return DataError(f"{path}: expected UTF-8, the file begins as UTF-16{advice}")
        file.seek(0)
        for number, line in enumerate(iter(lambda: file.readline(4 * MAX_ROW_LENGTH), b""), 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return DataError(
                    f"{path}: line {number}, byte offset {offset + error.start}: expected UTF-8, "
                    f"got byte 0x{line[error.start]:02x}{advice}"
                )
            offset += len(line)
    return DataError(f"{path}: expected UTF-8; changed while it was read")


def _delimited(written: Layout, name: str) -> Reader:
    """A reader of delimited text, with the name of the file in the TOML.

    It uses Python's parser. Polars silently pads short rows with nulls, and its error for a quote inside an
    unquoted cell names no row.
    """

    def read(path: Path, columns: Sequence[str], size: int, first: int) -> Iterator[pl.DataFrame]:
        csv.field_size_limit(MAX_ROW_LENGTH)
        encoding = (
            "utf-8-sig" if written.encoding == "utf-8" else written.encoding
        )  # it may have a byte order mark
        with _opened(path, "", encoding) as file:
            row = _Row(written.separator)
            lines = csv.reader(
                row.lines_of(file),
                delimiter=row.delimiter,
                quoting=csv.QUOTE_MINIMAL if written.may_quote else csv.QUOTE_NONE,
                strict=True,
            )
            header = [*written.columns] or _header(path, lines, row)
            for column in columns:
                if column not in header:
                    raise _missing(path, column, header, _other_separator(header, name))
            positions = [header.index(column) for column in columns]
            rows = islice(_rows(path, lines, header, row, columns), first, None)
            for chunk in _chunks(rows, size):
                cells = [[row[position] or None for row in chunk] for position in positions]
                yield pl.DataFrame(cells, dict.fromkeys(columns, pl.String), orient="col")

    return read


def _opened(path: Path, newline: str, encoding: str = "utf-8-sig") -> io.TextIOWrapper:
    return io.TextIOWrapper(open_regular(path), encoding=encoding, newline=newline)


class _RowTooLong(Exception):
    """A row has more than `MAX_ROW_LENGTH` characters."""


class _Row:
    """How much was read of the current row; a quoted cell may span several lines.

    Args:
        separator: of the file. Python's parser takes one character, so a longer one is replaced.
    """

    __slots__ = ("_replaced", "delimiter", "length", "lines")

    def __init__(self, separator: str) -> None:
        self._replaced = separator if len(separator) > 1 else ""
        self.delimiter = "\x1f" if self._replaced else separator
        self.lines = self.length = 0  # the length in characters

    def lines_of(self, file: io.TextIOWrapper) -> Iterator[str]:
        """The lines of a file.

        Raises:
            _RowTooLong: the current row is longer than `MAX_ROW_LENGTH`.
        """
        for line in iter(partial(file.readline, MAX_ROW_LENGTH + 1), ""):
            if self._replaced:
                line = line.replace(self._replaced, self.delimiter)
            self.lines += 1
            self.length += len(line)
            if self.length > MAX_ROW_LENGTH:
                raise _RowTooLong
            yield line


def _too_long(path: Path, row: int, column: str | None = None) -> DataError:
    """The error for a cell that is too long, or, without a column, for a row that is too long."""
    if column is None:
        return DataError(
            f"{path}: row {row}: expected at most {MAX_ROW_LENGTH:,} characters in a row, got more"
        )
    return DataError(
        f"{path}: row {row}, column {column!r}: expected at most {MAX_CELL_LENGTH:,} characters, got more"
    )


def _header(path: Path, lines: Any, row: _Row) -> list[str]:
    try:
        header: list[str] = next(lines, [])
    except csv.Error as error:
        raise DataError(f"{path}: line 1: {error}") from None
    except _RowTooLong:
        raise DataError(f"{path}: line 1: expected at most {MAX_ROW_LENGTH:,} characters, got more") from None
    row.lines = row.length = 0
    if not header:
        raise DataError(f"{path}: line 1: expected a header with column names, got nothing")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path}: line 1: expected distinct column names, got {twice!r} twice")
    return header


def _rows(
    path: Path, lines: Any, header: list[str], read: _Row, columns: Sequence[str]
) -> Iterator[list[str]]:
    """Rows with as many cells as the header; blank lines are allowed only at the end."""
    width = len(header)
    fault: DataError | None = None
    number = 0
    try:
        for number, row in enumerate(lines, 1):
            if fault is None and len(row) != width:
                fault = DataError(
                    f"{path}: row {number} (ends on line {lines.line_num}): expected {width} fields as in "
                    f"the header, got {len(row)}"
                )
            elif read.length > MAX_CELL_LENGTH:
                _check_row(path, number, dict(zip(header, row, strict=True)), columns)
            read.lines = read.length = 0
            if row and fault is not None:
                raise fault
            if row:
                yield row
    except csv.Error as error:
        first = lines.line_num - read.lines + 1
        what = str(error)
        if what == "unexpected end of data":
            what = "a quoted cell begins in this row and does not end"
        raise DataError(f"{path}: row {number + 1} (line {first}): {what}") from None
    except _RowTooLong:
        raise _too_long(path, number + 1) from None


def _check_row(path: Path, row: int, cells: Mapping[str, Any], columns: Iterable[str]) -> None:
    """Refuse a cell that is too long, in the columns that are read."""
    for column in columns:
        if _longest(cells.get(column)) > MAX_CELL_LENGTH:
            raise _too_long(path, row, column)


def _jsonl(path: Path, columns: Sequence[str], size: int, first: int) -> Iterator[pl.DataFrame]:
    types: dict[str, str] = {}
    with _opened(path, newline="\n") as file:
        for n, lines in enumerate(_chunks(islice(_lines(path, file), first, None), size)):
            begin = first + n * size
            objects = [_object(path, row, line, columns) for row, line in enumerate(lines, begin + 1)]
            if begin == 0:
                _check_names(path, columns, objects)
            yield pl.DataFrame(
                [_series(path, name, [each.get(name) for each in objects], begin, types) for name in columns]
            )


def _lines(path: Path, file: io.TextIOWrapper) -> Iterator[str]:
    """Lines that are not blank; blank lines are allowed only at the end."""
    blank = 0
    for number, line in enumerate(iter(lambda: file.readline(MAX_ROW_LENGTH + 1), ""), 1):
        if len(line) > MAX_ROW_LENGTH:
            raise _too_long(path, number)
        if not line.strip():
            blank = blank or number
        elif blank:
            raise DataError(f"{path}: row {blank}: not valid JSON: the line is blank")
        else:
            yield line


def _object(path: Path, row: int, line: str, columns: Sequence[str]) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise DataError(f"{path}: row {row}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: row {row}: expected a JSON object, got {line.rstrip()[:80]!r}")
    if len(line) > MAX_CELL_LENGTH:
        _check_row(path, row, value, columns)
    return value


def _longest(value: Any) -> int:
    """Length of a string, or of the longest string in a list, in characters."""
    if isinstance(value, list):
        return max(map(_longest, value), default=0)
    return len(value) if isinstance(value, str) else 0


def _check_names(path: Path, columns: Sequence[str], objects: Sequence[dict[str, Any]]) -> None:
    """Refuse a column that no row has; the whole file is read only if the first rows lack a column."""
    present = dict.fromkeys(name for each in objects for name in each)
    if all(column in present for column in columns):
        return
    with _opened(path, newline="\n") as file:
        for row, line in enumerate(_lines(path, file), 1):
            present.update(dict.fromkeys(_object(path, row, line, columns)))
    for column in columns:
        if column not in present:
            raise _missing(path, column, present)


def _series(path: Path, column: str, values: list[Any], begin: int, types: dict[str, str]) -> pl.Series:
    """The values of a JSON key, which must have one type in the whole file, apart from nulls."""
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
    """Refuse half a surrogate pair: JSON can escape it, but it cannot be encoded."""
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
            # One slice at a time: the batches of Polars read ahead, and hold whole row groups.
            slice_ = table.slice(at, size).collect()
            _check_cells(path, slice_, at)
            yield slice_
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from None


def _check_cells(path: Path, frame: pl.DataFrame, begin: int) -> None:
    """Refuse a string that is too long, also inside a list."""
    for column in frame:
        if isinstance(column.dtype, pl.Categorical | pl.Enum):
            column = column.cast(pl.String)
        if column.dtype == pl.List(pl.String):
            lengths = column.list.eval(pl.element().str.len_chars()).list.max()
        elif column.dtype == pl.String:
            lengths = column.str.len_chars()
        else:
            continue
        long = (lengths > MAX_CELL_LENGTH).fill_null(False)
        if long.any():
            raise _too_long(path, begin + (long.arg_max() or 0) + 1, column.name)


_READERS: dict[str, Reader] = {
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
