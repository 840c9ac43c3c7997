"""Rows of files of items, events and queries: tables in CSV, TSV, JSONL and Parquet, and lines of text."""

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from twinspire.protos.documents import parse_json
from twinspire.protos.errors import DataError, InvalidInput, TwinspireError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_SUFFIXES = (".jsonl", ".ndjson")  # of files with an object of JSON on each line
PARQUET = ".parquet"
PARQUET_ROWS = 1024  # rows that are read at once
# Characters of a cell of CSV, and bytes of a line of JSON or text; by default servers accept much smaller
# requests only.
LONGEST_CELL = 16 << 20
PART_BYTES = 1 << 20  # approximate bytes of a part; a service accepts requests of 4 MiB by default

Row = Mapping[str, Any]
NumberedRow = tuple[int, Row]


def read_rows(path: Path, texts: bool = False) -> Iterator[NumberedRow]:
    """The rows of a file in order, with their numbers from 1; of JSONL and texts, those of their lines.

    Args:
        texts: whether a file that is no table by its name holds a text on each line; its rows have the column
            `text`. Otherwise it is refused.

    Raises:
        DataError: it cannot be read, its format is unknown, or a row is damaged.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in SEPARATORS:
            yield from _delimited(path, SEPARATORS[suffix])
        elif suffix in JSON_SUFFIXES:
            yield from _lines(path, json_object)
        elif suffix == PARQUET:
            yield from _parquet(path)
        elif texts:
            yield from _lines(path, lambda line: {"text": line})
        else:
            known = ", ".join((*SEPARATORS, *JSON_SUFFIXES, PARQUET))
            raise DataError(f"{path}: expected a name that ends in one of {known}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def count_rows(path: Path, texts: bool = False) -> int | None:
    """The rows of a file, which is read once for that; None if it can be read only once, such as a pipe.

    Raises:
        DataError: as `read_rows`.
    """
    if path.exists() and not path.is_file():
        return None
    return sum(1 for _ in read_rows(path, texts))


def in_parts(
    rows: Iterator[NumberedRow], size: int, key: Callable[[Row], Any] | None = None
) -> Iterator[list[NumberedRow]]:
    """The rows in parts of at most `size` rows and about `PART_BYTES`; in none has a key two rows."""
    part: list[NumberedRow] = []
    keys: set[Any] = set()
    taken = 0
    for number, row in rows:
        own = number if key is None else key(row)
        if len(part) >= size or taken >= PART_BYTES or own in keys:
            yield part
            part, keys, taken = [], set(), 0
        part.append((number, row))
        keys.add(own)
        taken += sum(len(str(cell).encode(errors="replace")) for cell in row.values())
    if part:
        yield part


def named_by_row(error: InvalidInput, path: Path, part: list[NumberedRow], name: str) -> TwinspireError:
    """The error with the row of the file in place of the place in the request, if it names one.

    Args:
        part: the rows of the request.
        name: the field of the request that holds them.
    """
    head, _, rest = error.field.partition(f"{name}[")
    place, closing, field = rest.partition("]")
    is_place = not head and closing and place.isdecimal() and len(place) < 10
    if not is_place or int(place) >= len(part):
        return error
    field = f"{field.lstrip('.')}: " if field else ""
    return DataError(f"{path}: row {part[int(place)][0]}: {field}{error.reason}")


def _delimited(path: Path, separator: str) -> Iterator[NumberedRow]:
    csv.field_size_limit(LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=separator, strict=True)
        try:
            columns = reader.fieldnames or []
            if len({*columns}) != len(columns):
                raise DataError(f"{path}: two columns have the same name")
            for number, row in enumerate(reader, 1):
                if None in row or any(cell is None for cell in row.values()):
                    raise DataError(f"{path}: row {number}: expected {len(columns)} cells")
                yield number, row
        except csv.Error as error:
            raise DataError(f"{path}: line {reader.line_num + 1}: {error}; is each quote closed?") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: after line {reader.line_num}: {error}") from None


def _lines(path: Path, read: Callable[[str], Row]) -> Iterator[NumberedRow]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_CELL + 1), b""), 1):
            if len(line) > LONGEST_CELL:
                raise DataError(f"{path}: row {number}: expected a line of at most {LONGEST_CELL} bytes")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                row = read(text) if text.strip() else None
            except ValueError as error:  # JSON's and UTF-8's are ValueErrors
                raise DataError(f"{path}: row {number}: {error}") from None
            if row is not None:
                yield number, row


def json_object(line: str) -> Row:
    """The object of a text of JSON; raises ValueError if it is none."""
    found = parse_json(line, takes_nan=False)
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, got {found!r:.80}")
    return found


def _parquet(path: Path) -> Iterator[NumberedRow]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise DataError(
            f"{path}: reading Parquet needs pyarrow; install it with: pip install pyarrow"
        ) from None
    try:
        with pq.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(PARQUET_ROWS) for row in batch.to_pylist())
            yield from enumerate(rows, 1)
    except pa.ArrowException as error:
        raise DataError(f"{path}: {error}") from None
