"""Reads items from tables in CSV, TSV, JSONL and Parquet, row by row.

A column feeds the features that read it in the bundle's schema, or that have its name, and the display field
of its name. Where a row has both columns of a feature, that of the schema feeds it, as in training. A cell of
CSV is a text, and an empty one is absent; several strings are separated by "|". A row of JSONL may also be
what `items get` and `items changes` print: an object with `id`, `features` and `fields`. The service checks
whether the bundle takes the features and fields; its errors name them.
"""

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinspire.protos.errors import DataError
from twinspire.protos.filter_kinds import KINDS, LIST_SEPARATOR
from twinspire.serving.client.items import Item
from twinspire.serving.client.lines import JSON_SUFFIXES, LONGEST_LINE, bounded_lines, parse_object
from twinspire.serving.retrieval.query import Value
from twinspire.serving.wire.converters import Info

ID_COLUMNS = ("item_id", "id")
EXPECTED = "expected_sequence"
SEPARATORS = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
PARQUET_ROWS = 1024  # rows that are read at once
# Keys of a row that is an object with `features` and `fields`; some keys of a printed state are not read.
WHOLE = frozenset(
    {*ID_COLUMNS, "features", "fields", EXPECTED, "sequence", "origin", "written_at", "store_id"}
)

Row = Mapping[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a table, in order.

    Raises:
        DataError: it cannot be read, its format is unknown, or a row is damaged.
    """
    suffix = path.suffix.lower()
    if suffix in SEPARATORS:
        return _delimited(path, SEPARATORS[suffix])
    if suffix in JSON_SUFFIXES:
        return _json_lines(path)
    if suffix == PARQUET:
        return _parquet(path)
    known = ", ".join((*SEPARATORS, *JSON_SUFFIXES, PARQUET))
    raise DataError(f"{path}: expected a name that ends in one of {known}")


def id_of(row: Row) -> str:
    """The id in a row; empty if there is none."""
    column = _id_column(row)
    return str(row[column]) if column else ""


@dataclass
class ItemFileColumns:
    """Makes items of rows.

    Args:
        path: of the table, for errors.
        readers: column -> the features that it feeds, each with the function that reads its values.
        fields: display fields.
        sources: feature -> its column in the schema.

    Attributes:
        ignored: columns that nothing reads.
    """

    path: Path
    readers: Mapping[str, list[tuple[str, Callable[[Any], Value | None]]]]
    fields: frozenset[str]
    sources: Mapping[str, str] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, path: Path, served: Info) -> "ItemFileColumns":
        """The columns of a table for the schema of the bundle that a service serves."""
        schema: Any = served.manifest["schema"]
        readers: dict[str, list[tuple[str, Callable[[Any], Value | None]]]] = {}
        sources: dict[str, str] = {}
        for name, spec in schema["item"].items():
            if spec["kind"] != "id":
                read = _reader(name, "strings" if spec.get("multi") else spec["kind"])
                sources[name] = spec.get("catalogue_column") or spec.get("column") or name
                for column in {name, sources[name]}:
                    readers.setdefault(column, []).append((name, read))
        filters: Any = served.manifest.get("filters") or {}
        for name, kind in filters.items():
            fed = readers.setdefault(name, [])
            if all(feature != name for feature, _ in fed):  # the column may feed a feature of another name
                fed.append((name, _reader(name, kind)))
        return cls(path, readers, frozenset(served.display_fields), sources)

    def item(self, row: Row, number: int, reads_values: bool = True) -> Item:
        """The item of a row, counted from 1; only its id and its expected sequence without `reads_values`.

        Raises:
            DataError: it has no id, or a cell of another type.
        """
        item_id = self.item_id(row, number)
        if not reads_values:
            return Item(item_id, expected_sequence=self.expected(row, number))
        if WHOLE.issuperset(row) and isinstance(row.get("features"), Mapping):
            return self._whole(item_id, row, number)
        features: dict[str, Value] = {}
        fields: dict[str, str] = {}
        cells = _values(row)
        for column, cell in cells.items():
            fed = [
                (name, read)
                for name, read in self.readers.get(column, ())
                if (source := self.sources.get(name, column)) == column or source not in cells
            ]
            if not fed and column not in self.fields:
                self.ignored.add(column)
            for name, read in fed:
                value = self._read(read, cell, number, column)
                if value is not None:
                    features[name] = value
            if column in self.fields:
                text = self._read(_field, cell, number, column)
                if text is not None:
                    fields[column] = text
        return Item(item_id, features, fields, self.expected(row, number))

    def _whole(self, item_id: str, row: Row, number: int) -> Item:
        """The item of a row that has its features under `features`, and its display fields under `fields`."""
        if (origin := row.get("origin")) in ("deleted", "unknown"):
            raise self._error(number, "origin", f"the item is {origin}, so there is nothing to write")
        features: dict[str, Value] = {}
        fields: dict[str, str] = {}
        for name, cell in row["features"].items():
            value = self._read(_any_value, cell, number, f"features.{name}")
            if value is not None:
                features[name] = value
        given = row.get("fields") or {}
        if not isinstance(given, Mapping):
            raise self._error(number, "fields", f"expected an object, got {given!r}")
        for name, cell in given.items():
            text = self._read(_field, cell, number, f"fields.{name}")
            if text is not None:
                fields[name] = text
        return Item(item_id, features, fields, self.expected(row, number))

    def _read(self, read: Callable[[Any], Any], cell: Any, number: int, column: str) -> Any:
        try:
            return read(cell)
        except ValueError as error:
            raise self._error(number, column, str(error)) from None

    def _error(self, number: int, column: str, reason: str) -> DataError:
        return DataError(f"{self.path}: row {number}, column {column!r}: {reason}")

    def item_id(self, row: Row, number: int) -> str:
        """The id in a row.

        Raises:
            DataError: there is none, or it is neither a string nor a whole number.
        """
        column = _id_column(row)
        if not column:
            raise DataError(f"{self.path}: row {number}: expected an id in column {' or '.join(ID_COLUMNS)}")
        cell = row[column]
        if isinstance(cell, bool) or not isinstance(cell, str | int):
            raise self._error(number, column, f"expected a string, got {cell!r}")
        return str(cell)

    def expected(self, row: Row, number: int) -> int | None:
        """The expected sequence in a row, None if there is none.

        Raises:
            DataError: it is no whole number.
        """
        cell = row.get(EXPECTED)
        if _is_absent(cell):
            return None
        if isinstance(cell, float) and cell.is_integer():  # pandas writes integers so if some are missing
            cell = int(cell)
        try:
            return int(str(cell))
        except ValueError:
            raise self._error(number, EXPECTED, f"expected a whole number, got {cell!r}") from None


def _reader(name: str, kind: str) -> Callable[[Any], Value | None]:
    """The function that reads the values of a feature, or of a filter field, of a kind."""
    if kind in KINDS:
        kind = KINDS[kind].read_as
    if kind not in _READERS:
        raise DataError(f"the service's {name!r} is of kind {kind!r}, which this client does not know")
    return _READERS[kind]


def _id_column(row: Row) -> str:
    """The column that holds the id of a row; empty if there is none."""
    return next((each for each in ID_COLUMNS if not _is_absent(row.get(each))), "")


def _values(row: Row) -> Row:
    """The cells of a row without its id, its expected sequence, and another column of ids that is empty."""
    used = (_id_column(row), EXPECTED)
    return {
        column: cell
        for column, cell in row.items()
        if column not in used and not (column in ID_COLUMNS and _is_absent(cell))
    }


def _delimited(path: Path, separator: str) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_LINE)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = (line for _, line in bounded_lines(file, path))
            reader = csv.DictReader(lines, delimiter=separator, strict=True)
            columns = reader.fieldnames or []
            if len({*columns}) != len(columns):
                raise DataError(f"{path}: two columns have the same name")
            for number, row in enumerate(reader, 1):
                if None in row or any(cell is None for cell in row.values()):
                    raise DataError(f"{path}: row {number}: expected {len(columns)} cells")
                yield row
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num + 1}: {error}; is each quote closed?") from None


def _json_lines(path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            number = 0
            for _, line in bounded_lines(file, path):
                if not line.strip():
                    continue
                number += 1
                try:
                    row = parse_object(line)
                except ValueError as error:
                    raise DataError(f"{path}: row {number}: {error}") from None
                yield row
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise DataError(
            f"{path}: reading Parquet needs pyarrow; install it with: pip install pyarrow"
        ) from None
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(PARQUET_ROWS):
                yield from batch.to_pylist()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except pa.ArrowException as error:
        raise DataError(f"{path}: {error}") from None


def _is_absent(cell: Any) -> bool:
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _text(cell: Any) -> Value | None:
    if _is_absent(cell):
        return None
    if isinstance(cell, str | bool | int):
        return _shown(cell)
    raise ValueError(f"expected a string, got {cell!r}")


def _number(cell: Any) -> Value | None:
    if _is_absent(cell) or (isinstance(cell, str) and not cell.strip()):
        return None
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        raise ValueError(f"expected a finite number, got {cell!r}")
    try:
        number = float(cell)
    except (ValueError, OverflowError):
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {cell!r}")
    return number


def _strings(cell: Any) -> Value | None:
    if _is_absent(cell):
        return None
    if isinstance(cell, str):
        return [each for each in cell.split(LIST_SEPARATOR) if each]
    if isinstance(cell, list) and not any(_is_no_string(each) for each in cell):
        return [_shown(each) for each in cell]
    raise ValueError(f"expected a list of strings, got {cell!r}")


def _is_no_string(cell: Any) -> bool:
    is_number = isinstance(cell, float)
    return cell is None or isinstance(cell, list | dict) or (is_number and not math.isfinite(cell))


def _shown(cell: Any) -> str:
    """A cell as a text: a boolean as true or false, a time in ISO 8601."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return str(cell.isoformat() if hasattr(cell, "isoformat") else cell)


def _moment(cell: Any) -> Value | None:
    """A time as a text of ISO 8601, or as seconds since 1970."""
    if _is_absent(cell):
        return None
    if isinstance(cell, list | Mapping | bool):
        raise ValueError(f"expected a time, got {cell!r}")
    return _number(cell) if isinstance(cell, int | float) else _shown(cell)


def _any_value(cell: Any) -> Value | None:
    """A feature's value by its own type, for the service to compare with the schema."""
    if _is_absent(cell):
        return None
    if isinstance(cell, bool):
        return _shown(cell)
    if isinstance(cell, int | float):
        return _number(cell)
    if isinstance(cell, list):
        return _strings(cell)
    if isinstance(cell, Mapping):
        raise ValueError(f"expected a text, a number or a list of strings, got {cell!r}")
    return _shown(cell)


def _field(cell: Any) -> str | None:
    """A display field's text; the elements of a list are joined with commas, as in a bundle."""
    if _is_absent(cell):
        return None
    if isinstance(cell, Mapping):
        raise ValueError(f"expected a string, got {cell!r}")
    return ", ".join(map(_shown, cell)) if isinstance(cell, list) else _shown(cell)


_READERS: dict[str, Callable[[Any], Value | None]] = {
    "text": _text,
    "category": _text,
    "number": _number,
    "strings": _strings,
    "history": _strings,
    "time": _moment,
}
