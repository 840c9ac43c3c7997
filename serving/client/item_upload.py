"""Sends a table of items in batches.

A column feeds the features that read it in the bundle's schema, or that have its name, and the display field
of its name. Where a row has both columns of a feature, that of the schema feeds it, as in training. A cell of
CSV is a text, and an empty one is absent; several strings are separated by "|". A row of JSONL may also be
what `items get` and `items changes` print: an object with `id`, `features` and `fields`. The service checks
whether the bundle takes the features and fields; its errors name them.

An upload that was interrupted is repeated as a whole. Items are then written again, also over newer versions
of other writers, unless the rows have expected sequences; the file of refused items is written anew.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinspire.protos.errors import DataError, InvalidInput
from twinspire.protos.filter_kinds import KINDS, LIST_SEPARATOR
from twinspire.serving.client.blocking import RetrievalClient
from twinspire.serving.client.items import Item, ItemResult, Mode, Written
from twinspire.serving.client.rows import NumberedRow, Row, in_parts, named_by_row, read_rows
from twinspire.serving.retrieval.query import Value
from twinspire.serving.wire.converters import Info

BATCH = 500  # items
PATIENCE_SECONDS = 60.0  # for which a batch is sent again while the service is not available
ID_COLUMNS = ("item_id", "id")
EXPECTED = "expected_sequence"
# Keys of a row that is an object with `features` and `fields`; some keys of a printed state are not read.
WHOLE = frozenset(
    {*ID_COLUMNS, "features", "fields", EXPECTED, "sequence", "origin", "written_at", "store_id"}
)


@dataclass
class Upload:
    """What an upload has done; also its JSON.

    Args:
        rows: of the table that are done.
        written: items that were written.
        refused: items that were refused.
        first_refused: the first of them, if there is one.
        sequence: of the last write, 0 if there was none.
        ignored_columns: those that nothing reads.
        seconds: that it took.
    """

    rows: int = 0
    written: int = 0
    refused: int = 0
    first_refused: ItemResult | None = None
    sequence: int = 0
    ignored_columns: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, written: Written) -> list[ItemResult]:
        """Count the answer to a batch; returns the refused items."""
        refused = [each for each in written.results if each.refusal is not None]
        self.rows += len(written.results)
        self.refused += len(refused)
        self.written += len(written.results) - len(refused)
        self.first_refused = next(iter(refused), None) if self.first_refused is None else self.first_refused
        self.sequence = max(self.sequence, written.sequence)
        return refused


def upload(
    client: RetrievalClient,
    path: Path,
    mode: Mode = "upsert",
    batch: int = 0,
    tick: Callable[[int], None] = lambda rows: None,
    refused: Path | None = None,
    patience: float = PATIENCE_SECONDS,
) -> Upload:
    """Write the items of a table.

    Args:
        mode: as of `RetrievalClient.upsert`.
        batch: items in one request; 0 for the usual number, or fewer if the service takes no more.
        tick: called with the number of rows that are done.
        refused: file for the refused items, a line of JSON for each; it is written anew.
        patience: seconds for which a batch is sent again while the service is not available.

    Raises:
        DataError: the table cannot be read, or the service refuses a row; the text names it. The rows before
            its batch are written. Or the file of refused items cannot be written.
        As `RetrievalClient.upsert`.
    """
    started = time.monotonic()
    served = client.info()
    columns = ItemFileColumns(path, served)
    most = served.state.get("catalogue", {}).get("bounds", {}).get("max_batch") or BATCH
    done = Upload()
    with _refused_file(refused) as write:
        for part in in_parts(
            read_rows(path), batch or min(BATCH, most), lambda row: str(row.get(_id_column(row), ""))
        ):
            write(done.add(_send(client, columns, part, mode, patience)))
            tick(done.rows)
    done.ignored_columns = sorted(columns.ignored)
    done.seconds = round(time.monotonic() - started, 3)
    return done


@contextmanager
def _refused_file(path: Path | None) -> Iterator[Callable[[Sequence[ItemResult]], None]]:
    """A file of refused items, written anew; yields the function that adds items.

    Raises:
        DataError: the file cannot be written.
    """

    def write(refused: Sequence[ItemResult]) -> None:
        if file:
            with _naming(path):
                file.writelines(json.dumps(each._asdict(), ensure_ascii=False) + "\n" for each in refused)
                file.flush()

    with _naming(path):
        file = path.open("w", encoding="utf-8") if path else None
    try:
        yield write
    finally:
        if file:
            with _naming(path):
                file.close()


@contextmanager
def _naming(path: Path | None) -> Iterator[None]:
    """Name the file of refused items in errors of the system."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


def _send(
    client: RetrievalClient, columns: "ItemFileColumns", part: list[NumberedRow], mode: Mode, patience: float
) -> Written:
    """Send one batch; the client repeats it, with the same request id, for up to `patience` seconds."""
    items = [columns.item(row, number) for number, row in part]
    try:
        return client.upsert(items, mode, timeout=patience, strict=False)
    except InvalidInput as error:
        raise named_by_row(error, columns.path, part, "items") from None


class ItemFileColumns:
    """Makes items of the rows of a table, by the schema of the bundle that a service serves.

    Args:
        path: of the table, for errors.

    Attributes:
        ignored: columns that nothing reads.
    """

    def __init__(self, path: Path, served: Info) -> None:
        self.path = path
        self.ignored: set[str] = set()
        schema: Any = served.manifest["schema"]
        filters: Any = served.manifest.get("filters") or {}
        # A value of a kind that only a newer service knows is read by its own type.
        self._kinds = {name: KINDS[kind].read_as if kind in KINDS else "" for name, kind in filters.items()}
        self._sources: dict[str, str] = {}
        for name, spec in schema["item"].items():
            if spec["kind"] != "id":
                self._kinds[name] = "strings" if spec.get("multi") else spec["kind"]
                self._sources[name] = spec.get("catalogue_column") or spec.get("column") or name
        self._fields = frozenset(served.display_fields)

    def item(self, row: Row, number: int) -> Item:
        """The item of a row.

        Raises:
            DataError: it has no id, or a cell of another type.
        """
        id_column = _id_column(row)
        if not id_column:
            raise DataError(f"{self.path}: row {number}: expected an id in column {' or '.join(ID_COLUMNS)}")
        if isinstance(row[id_column], bool) or not isinstance(row[id_column], str | int):
            raise self._error(number, id_column, f"expected a string, got {row[id_column]!r}")
        item_id, expected = str(row[id_column]), self._expected(row, number)
        if WHOLE.issuperset(row) and isinstance(row.get("features"), Mapping):
            if (origin := row.get("origin")) in ("deleted", "unknown"):
                raise self._error(number, "origin", f"the item is {origin}, so there is nothing to write")
            if not isinstance(row.get("fields") or {}, Mapping):
                raise self._error(number, "fields", f"expected an object, got {row['fields']!r}")
            cells, fed, shown = _whole(row)
        else:
            cells, fed, shown = self._table_row(row, id_column)

        def read(column: str, kind: str) -> Any:
            try:
                return _value(cells[column], kind)
            except (ValueError, OverflowError) as error:
                raise self._error(number, column, str(error)) from None

        features = {name: read(column, kind) for name, (column, kind) in fed.items()}
        fields = {name: read(column, "field") for name, column in shown.items()}
        return Item(item_id, _present(features), _present(fields), expected)

    def _table_row(self, row: Row, id_column: str) -> tuple[Row, dict[str, tuple[str, str]], dict[str, str]]:
        """The cells of a row, the column and the kind of each feature, and the column of each field."""
        cells = {
            column: cell
            for column, cell in row.items()
            if column not in (id_column, EXPECTED) and not (column in ID_COLUMNS and _is_absent(cell))
        }
        fed = {}
        for name, kind in self._kinds.items():
            column = self._sources.get(name, name)
            column = column if column in cells else name
            if column in cells:
                fed[name] = column, kind
        shown = {name: name for name in self._fields & cells.keys()}
        self.ignored |= cells.keys() - {column for column, _ in fed.values()} - shown.keys()
        return cells, fed, shown

    def _expected(self, row: Row, number: int) -> int | None:
        cell = row.get(EXPECTED)
        if _is_absent(cell):
            return None
        if isinstance(cell, float) and cell.is_integer():  # pandas writes integers so if some are missing
            cell = int(cell)
        try:
            return int(str(cell))
        except ValueError:
            raise self._error(number, EXPECTED, f"expected a whole number, got {cell!r}") from None

    def _error(self, number: int, column: str, reason: str) -> DataError:
        return DataError(f"{self.path}: row {number}, column {column!r}: {reason}")


def _whole(row: Row) -> tuple[Row, dict[str, tuple[str, str]], dict[str, str]]:
    """As `_table_row`, of a row that has its features under `features`, and its fields under `fields`."""
    given = {key: dict(row.get(key) or {}) for key in ("features", "fields")}
    cells = {f"{key}.{name}": cell for key, values in given.items() for name, cell in values.items()}
    fed = {name: (f"features.{name}", "") for name in given["features"]}
    return cells, fed, {name: f"fields.{name}" for name in given["fields"]}


def _id_column(row: Row) -> str:
    """The column that holds the id of a row; empty if there is none."""
    return next((each for each in ID_COLUMNS if not _is_absent(row.get(each))), "")


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _is_absent(cell: Any) -> bool:
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _value(cell: Any, kind: str) -> Value | None:
    """A cell as a feature or a display field takes it; None where it is absent.

    The service refuses values of another type than the feature's.

    Args:
        kind: of the feature; empty for that of the cell's own type, "field" for a display field.

    Raises:
        ValueError: there is no such value.
    """
    if _is_absent(cell):
        return None
    if isinstance(cell, Mapping):
        raise ValueError(f"expected a text, a number or a list of strings, got {cell!r}")
    if isinstance(cell, list):
        texts = [_text(each) for each in cell]
        return ", ".join(texts) if kind == "field" else texts
    if kind in ("strings", "history") and isinstance(cell, str):
        return [each for each in cell.split(LIST_SEPARATOR) if each]
    if kind == "number" and isinstance(cell, str):
        return float(cell) if cell.strip() else None
    if kind in ("", "number", "time") and isinstance(cell, int | float) and not isinstance(cell, bool):
        return float(cell)
    if (
        isinstance(cell, float) and kind != "field"
    ):  # whole numbers of which some are missing have become floats
        raise ValueError(f"expected a string, got {cell!r}")
    return _text(cell)


def _text(cell: Any) -> str:
    """A cell as a text: a boolean as true or false, a time in ISO 8601."""
    if isinstance(cell, list | Mapping) or _is_absent(cell):
        raise ValueError(f"expected a string, got {cell!r}")
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return str(cell.isoformat() if hasattr(cell, "isoformat") else cell)
