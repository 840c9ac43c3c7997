"""Sources of records: columns in memory, or a file that may be larger than memory."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import DataError
from twinspire.protos.features import FeatureSpec, IdFeature, TextFeature
from twinspire.train.data.columns import Columns, column_names, features_of
from twinspire.train.data.item_table import ItemTable
from twinspire.train.data.table_files import identity_of, read_slices, table_parts
from twinspire.train.fingerprint import fingerprint

AS_NAMED = ItemTable()  # ids in `item_id`, no casts, written as the suffix says
WINDOW = 16_384  # records that are read at a time and sorted by length

Values = Mapping[str, Sequence[Any]]


def rows_of(values: Values, rows: Iterable[int]) -> dict[str, list[Any]]:
    """Some records: feature name -> raw values."""
    return {name: [column[row] for row in rows] for name, column in values.items()}


def example_queries(manifest: Manifest) -> dict[str, list[Any]]:
    """Feature name -> raw values of the examples; blank where an example lacks the feature.

    A bundle without examples has a single query, which is blank.
    """
    examples = manifest.examples or ({},)
    return {
        name: [each.get(name, "" if isinstance(spec, TextFeature) else None) for each in examples]
        for name, spec in manifest.schema.query.items()
    }


class Records(Protocol):
    """Raw values of N records in a fixed order."""

    @property
    def name(self) -> str:
        """Name for error messages."""

    def __len__(self) -> int:
        """N."""

    def identity(self) -> str:
        """sha256 of everything that determines the values."""

    def slices(self, size: int, first: int = 0) -> Iterator[Values]:
        """Feature name -> raw values, `size` records at a time, from record `first` on."""


@dataclass(frozen=True)
class ColumnRecords:
    """Columns in memory: feature name -> raw values of all records."""

    values: Values
    name: str = "items"

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def identity(self) -> str:
        """sha256 of the values."""
        digest = hashlib.sha256(json.dumps(list(self.values)).encode())
        for part in self.slices(WINDOW):
            digest.update(json.dumps(list(part.values())).encode())
        return digest.hexdigest()

    def slices(self, size: int, first: int = 0) -> Iterator[Values]:
        """Feature name -> raw values, `size` records at a time, from record `first` on."""
        for begin in range(first, len(self), size):
            rows = range(begin, min(begin + size, len(self)))
            yield rows_of(self.values, rows)


class TableRecords:
    """Items of a catalogue in a file.

    The file is read once to check every value, so that an encoding cannot fail after hours.

    Args:
        path: of the file.
        features: of the item tower; a text is read from its `catalogue_column` if it has one.
        table: how the experiment reads tables of items.

    Raises:
        DataError: the file or a value is invalid; the text names file, row and column.
    """

    def __init__(self, path: Path, features: Mapping[str, FeatureSpec], table: ItemTable = AS_NAMED) -> None:
        self.path, self.table = path, table
        self.features = {
            name: spec.as_served() if isinstance(spec, TextFeature) else spec
            for name, spec in features.items()
        }
        self._state = _state(path)
        self._count = sum(len(next(iter(each.values()))) for each in self._columns(WINDOW, 0))
        if self._count == 0:
            raise DataError(f"{path}: expected at least one row, got an empty table")
        self._content = identity_of([path])

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def __len__(self) -> int:
        return self._count

    def identity(self) -> str:
        """sha256 of the file, of the columns that are read from it, and of how they are read."""
        read = {name: [self._column(name), spec.kind] for name, spec in self.features.items()}
        return fingerprint(self._content, read, self.table)

    def slices(self, size: int, first: int = 0) -> Iterator[Values]:
        """Feature name -> raw values, `size` rows at a time, from row `first` on.

        Raises:
            DataError: the file has changed since it was opened.
        """
        for columns in self._columns(size, first):
            yield {name: column.to_list() for name, column in columns.items()}
        if _state(self.path) != self._state:
            raise DataError(f"{self.path}: changed while it was read")

    def _columns(self, size: int, first: int) -> Iterator[dict[str, pl.Series]]:
        """Feature name -> checked column, `size` rows at a time."""
        names = dict.fromkeys(map(self._column, self.features))
        begin = first
        for frame in read_slices(self.path, list(names), size, first, *self.table.as_file(self.path)):
            places = pl.int_range(begin, begin + frame.height, eager=True)
            columns = self.table.cast(Columns(self.path, frame, places, self.table.casts_key))
            yield {name: self._checked(columns, name) for name in self.features}
            begin += frame.height

    def _checked(self, columns: Columns, name: str) -> pl.Series:
        spec = self.features[name]
        if isinstance(spec, IdFeature):
            return columns.required(self.table.id_column, "an id")
        has_id = any(isinstance(each, IdFeature) for each in self.features.values())
        return features_of(columns, {name: spec}, may_lack_texts=has_id)[self._column(name)]

    def _column(self, name: str) -> str:
        spec = self.features[name]
        return self.table.id_column if isinstance(spec, IdFeature) else column_names({name: spec})[0]


def _state(path: Path) -> list[tuple[int, ...]]:
    """Properties that change when a file is written or replaced, even if its size and time were restored."""
    try:
        found = [part.stat() for part in table_parts(path)]
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    return [(each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found]
