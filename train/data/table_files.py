"""Tables in delimited text, JSONL and Parquet: where a file is, its identity, and its rows.

Errors name file, row and column; rows are counted from 1, without the header. CSV and TSV are quoted as in
RFC 4180; `layouts.py` says what other delimited text is read. Cells of CSV and TSV stay strings, because
"007" is no number; an empty cell is null. A JSONL file has one object on each line; its values keep their
types.

A folder is a table, too: that of its Parquet files, also of those in folders below it, in the order of their
names as text, folder by folder: part-10 comes before part-2. Rows are counted through all of them. A folder
named `day=2026-01-31` gives its rows a column `day` of strings, as Hive and Spark write them; it replaces one
that the files have.

A cell has at most `MAX_CELL_LENGTH` characters. A line of text is refused before more than `MAX_LINE_LENGTH`
characters of it are read.
"""

import csv
import hashlib
import io
import json
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote

import polars as pl

from twinspire.protos.bundle import record
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import DataError
from twinspire.protos.files.regular_files import check_regular, open_regular
from twinspire.train.data.layouts import SUFFIXES, Layout, format_of, layout_key

T = TypeVar("T")
Reader = Callable[[Path, Sequence[str], int, int], Iterator[pl.DataFrame]]

DATA_FOLDER = "TWINSPIRE_DATA"
"""Environment variable: folder of files that are not in the folder of the TOML file."""
MAX_CELL_LENGTH = 1 << 20  # characters; towers read at most 65,536 of a text
MAX_LINE_LENGTH = 16 * MAX_CELL_LENGTH  # characters
SEPARATORS = (";", "\t", "|", ":", ",")  # that a header is looked at for, to give advice
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # in the name of a folder whose rows have no value
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


def table_parts(path: Path) -> list[Path]:
    """The files of a table: those of a folder in the order of their paths, or the file itself.

    Files and folders whose names begin with "." or "_" are no part of the table, as in Spark, but for names
    such as `_type=a`.

    Raises:
        DataError: a folder has no Parquet file, or has a folder or a file twice because of links.
        OSError: a folder cannot be read.
    """
    if path.suffix.lower() in (*SUFFIXES, ".jsonl") or not path.is_dir():
        return [path]
    parts: list[Path] = []
    seen: dict[str, str] = {}
    for folder, below, files in os.walk(path, onerror=_raise, followlinks=True):
        if (first := seen.setdefault(os.path.realpath(folder), folder)) != folder:
            raise DataError(f"{folder}: expected each folder once, got a link to, or from, {first}")
        below[:] = sorted(filter(_is_part, below))
        parts += [Path(folder, each) for each in filter(_is_part, files) if each.lower().endswith(".parquet")]
    if not parts:
        raise DataError(f"{path}: expected a folder with files that end in .parquet, found none")
    parts.sort()
    for each in parts:
        if (first := seen.setdefault(os.path.realpath(each), str(each))) != str(each):
            raise DataError(f"{each}: expected each file once, got a link to, or from, {first}")
    return parts


def _is_part(name: str) -> bool:
    return name[0] != "." and (name[0] != "_" or "=" in name)


def _raise(error: OSError) -> None:
    raise error


def identity_of(paths: Iterable[Path]) -> str:
    """sha256 over the sha256 of each file; of a folder that is a table, also over the names in it.

    Raises:
        DataError: a file is missing, or is no regular file.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            for part in table_parts(path):
                check_regular(part)
                name = part.relative_to(path).as_posix() if part != path else ""
                digest.update(f"{name}{record(part).sha256}".encode())
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
    return _concatenated(path, [*read_long_slices(path, columns, SLICE, layout, name)])


def read_long_slices(
    path: Path, columns: Sequence[str], size: int, layout: Layout | None = None, name: str = ""
) -> Iterator[pl.DataFrame]:
    """Slices of `size` rows, about, as one frame each; at least one.

    Text is read `SLICE` rows at a time, because its cells are Python objects until a frame holds them. JSONL
    is one slice: its columns have the types of their values, which other slices may lack.

    Arguments and errors are those of `read_table`.
    """
    slices: list[pl.DataFrame] = []
    is_empty = True
    is_text = format_of(path, layout, name) is not None or path.suffix.lower() == ".jsonl"
    step = min(size, SLICE) if is_text else size
    for each in read_slices(path, columns, step, layout=layout, name=name):
        is_empty = False
        slices.append(each)
        if path.suffix.lower() != ".jsonl" and sum(part.height for part in slices) + step > size:
            yield _concatenated(path, slices)
            slices = []
    if slices:
        yield _concatenated(path, slices)
    if is_empty:
        raise DataError(f"{path}: expected at least one row, got an empty table")


def _concatenated(path: Path, slices: Sequence[pl.DataFrame]) -> pl.DataFrame:
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
    if written is None and path.is_dir() and path.suffix.lower() != ".jsonl":
        reader = _parquet
    if reader is None:
        endings = ", ".join([*SUFFIXES, *_READERS])
        advice = f', or a separator in [data.layouts."{name}"]' if name else ""
        raise DataError(f"{path}: expected a file that ends in {endings}, got {path.suffix!r}{advice}")
    try:
        for part in table_parts(path):
            check_regular(part)
        for n, frame in enumerate(reader(path, columns, size, first)):
            _check_cells(path, frame, first + n * size)
            yield frame
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeError as error:
        encoding = "utf-8" if written is None else written.encoding
        advice = f"; {layout_key(name)} may name another encoding" if written is not None and name else ""
        reason = getattr(error, "reason", error)
        raise DataError(f"{path}{_place(path, encoding)}: expected {encoding}: {reason}{advice}") from None


def _place(path: Path, encoding: str) -> str:
    """The line that is not in UTF-8; empty for another encoding."""
    if encoding != "utf-8":
        return ""
    with open_regular(path) as file:
        lines = (n for n, line in enumerate(file, 1) if line.decode(errors="ignore").encode() != line)
        return f": line {next(lines, 0)}"


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


def _delimited(written: Layout, name: str) -> Reader:
    """A reader of delimited text, with the name of the file in the TOML.

    It uses Python's parser. Polars silently pads short rows with nulls, and its error for a quote inside an
    unquoted cell names no row.
    """

    def read(path: Path, columns: Sequence[str], size: int, first: int) -> Iterator[pl.DataFrame]:
        csv.field_size_limit(MAX_LINE_LENGTH)  # of columns that are not read, too
        # UTF-8 may have a byte order mark.
        encoding = "utf-8-sig" if written.encoding == "utf-8" else written.encoding
        with _opened(path, "", encoding) as file:
            text, delimiter = _bounded_lines(path, file), written.separator
            if len(delimiter) > 1:  # Python's parser takes one character
                whole, delimiter = text, "\x1f"
                text = (line.replace(written.separator, delimiter) for line in whole)
            is_quoted = written.quoted and len(written.separator) == 1
            lines = csv.reader(
                text,
                delimiter=delimiter,
                quoting=csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE,
                strict=True,
            )
            header = [*written.columns] or _header(path, lines)
            for column in columns:
                if column not in header:
                    raise _missing(path, column, header, _other_separator(header, name))
            positions = [header.index(column) for column in columns]
            for chunk in _chunks(islice(_rows(path, lines, len(header)), first, None), size):
                cells = [[row[position] or None for row in chunk] for position in positions]
                yield pl.DataFrame(cells, dict.fromkeys(columns, pl.String), orient="col")

    return read


def _opened(path: Path, newline: str, encoding: str = "utf-8-sig") -> io.TextIOWrapper:
    return io.TextIOWrapper(open_regular(path), encoding=encoding, newline=newline)


def _bounded_lines(path: Path, file: io.TextIOWrapper) -> Iterator[str]:
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_LENGTH + 1), ""), 1):
        if len(line) > MAX_LINE_LENGTH:
            raise DataError(
                f"{path}: line {number}: expected at most {MAX_LINE_LENGTH:,} characters, got more"
            )
        yield line


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
    """Rows with as many cells as the header; blank lines are allowed only at the end."""
    fault: DataError | None = None
    number, begins = 0, lines.line_num + 1
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
            begins = lines.line_num + 1
    except csv.Error as error:
        what = str(error)
        if what == "unexpected end of data":
            what = "a quoted cell begins in this row and does not end"
        raise DataError(f"{path}: row {number + 1} (line {begins}): {what}") from None


def _jsonl(path: Path, columns: Sequence[str], size: int, first: int) -> Iterator[pl.DataFrame]:
    types: dict[str, str] = {}
    present: dict[str, None] = {}
    with _opened(path, newline="\n") as file:
        for n, lines in enumerate(_chunks(islice(_lines(path, file), first, None), size)):
            begin = first + n * size
            objects = [_object(path, row, line) for row, line in enumerate(lines, begin + 1)]
            present.update(dict.fromkeys(name for each in objects for name in each))
            yield pl.DataFrame(
                [_series(path, name, [each.get(name) for each in objects], begin, types) for name in columns]
            )
    for column in columns if present and not first else ():
        if column not in present:
            raise _missing(path, column, present)


def _lines(path: Path, file: io.TextIOWrapper) -> Iterator[str]:
    """Lines that are not blank; blank lines are allowed only at the end."""
    blank = 0
    for number, line in enumerate(_bounded_lines(path, file), 1):
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
        if isinstance(value, str) and value.encode(errors="ignore").decode() != value:
            raise DataError(f"{path}: row {row}, column {column!r}: expected Unicode, got {value!r}")
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


def _parquet(path: Path, columns: Sequence[str], size: int, first: int) -> Iterator[pl.DataFrame]:
    tables: dict[Path, pl.LazyFrame] = {}
    types: dict[str, pl.DataType] = {}
    counts = []
    for part in table_parts(path):
        with _readable(part):
            table = _scan(path, part, columns)
            if count := table.select(pl.len()).collect().item():
                _unify(path, part, table.collect_schema(), types)
                tables[part] = table
                counts.append(count)
    ends, files = list(accumulate(counts)), [*tables]
    for at in range(first, sum(counts), size):
        # One slice at a time: the batches of Polars read ahead, and hold whole row groups.
        until = min(at + size, ends[-1])
        slices = []
        for n in range(bisect_right(ends, at), bisect_left(ends, until) + 1):
            begin = ends[n] - counts[n]
            with _readable(files[n]):
                rows = tables[files[n]].slice(max(0, at - begin), until - max(at, begin))
                slices.append(rows.cast(pl.Schema(types)).collect())
        yield pl.concat(slices)


@contextmanager
def _readable(part: Path) -> Iterator[None]:
    try:
        yield
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{part}: not a readable Parquet file: {error}") from None


def _unify(path: Path, part: Path, schema: pl.Schema, types: dict[str, pl.DataType]) -> None:
    """Find the type of each column in all files of the folder `path`.

    Args:
        types: column -> type in the files before; changed to the type in all.

    Raises:
        DataError: a column has a type in this file that does not go with those before.
    """
    for column, found in schema.items():
        before = types.get(column, found)
        try:
            if not _is_alike(before, found):
                raise pl.exceptions.SchemaError
            both = [pl.Series(column, [], each).to_frame() for each in (before, found)]
            types |= pl.concat(both, how="vertical_relaxed").schema
        except pl.exceptions.PolarsError:
            of_folder = any(each.startswith(f"{column}=") for each in part.relative_to(path).parts[:-1])
            raise DataError(
                f"{part}: column {column!r}: expected {before} as in the files before, got {found}"
                f"{' of the name of its folder' if of_folder else ''}"
            ) from None


def _is_alike(one: pl.DataType, other: pl.DataType) -> bool:
    """Whether types differ in width, unit, precision or encoding alone; nulls go with every type."""
    if isinstance(one, pl.List) and isinstance(other, pl.List):
        return _is_alike(cast(pl.DataType, one.inner), cast(pl.DataType, other.inner))
    kinds = {one.base_type(), other.base_type()}
    return (
        len(kinds - {pl.Null}) < 2
        or kinds <= {pl.String, pl.Categorical, pl.Enum}
        or (one.is_integer() and other.is_integer())
        or (one.is_float() and other.is_float())
    )


def _scan(path: Path, part: Path, columns: Sequence[str]) -> pl.LazyFrame:
    """The named columns of one of a table's files; those of the names of its folders are strings."""
    folders = [] if part == path else part.relative_to(path).parts[:-1]
    named = {
        unquote(key): unquote(value)
        for key, found, value in (each.partition("=") for each in folders)
        if found
    }
    present = dict.fromkeys([*pl.read_parquet_schema(part), *named])
    for column in columns:
        if column not in present:
            raise _missing(part, column, present)
    values = {key: None if value == NO_VALUE else value for key, value in named.items() if key in columns}
    table = pl.scan_parquet(part, glob=False, hive_partitioning=False)
    return table.with_columns(pl.lit(value, pl.String).alias(key) for key, value in values.items()).select(
        columns
    )


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
            where = f"{path}: row {begin + (long.arg_max() or 0) + 1}, column {column.name!r}"
            raise DataError(f"{where}: expected at most {MAX_CELL_LENGTH:,} characters, got more")


_READERS: dict[str, Reader] = {
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
