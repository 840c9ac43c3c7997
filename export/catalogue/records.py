"""Where records come from: columns in memory, or a file that need not fit into it."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from protos.errors import DataError
from protos.features import FeatureSpec, IdFeature, TextFeature
from train.fingerprint import fingerprint
from train.sources.columns import Columns
from train.sources.feature_columns import features_of, names_of
from train.sources.locate import identity_of
from train.sources.table_slices import read_slices

WINDOW = 16_384  # records that are held at a time, and that are put in order of length

Values = Mapping[str, Sequence[Any]]


class Records(Protocol):
    """Raw values of N records, in an order that stays."""

    @property
    def name(self) -> str:
        """What an error calls them."""

    def __len__(self) -> int:
        """N."""

    def identity(self) -> str:
        """sha256 of all that their values follow from."""

    def slices(self, size: int, first: int = 0) -> Iterator[Values]:
        """Feature name -> raw values, of `size` records at a time, from record `first` on."""


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
        """Feature name -> raw values, of `size` records at a time, from record `first` on."""
        for begin in range(first, len(self), size):
            rows = range(begin, min(begin + size, len(self)))
            yield {name: [column[row] for row in rows] for name, column in self.values.items()}


@dataclass(frozen=True)
class TableRecords:
    """Items in a CSV, TSV, JSONL or Parquet file, as a catalogue is served; made by `open`.

    Args:
        path: of the file.
        features: of the item tower; a text is read from its `catalogue_column` where it has one.
        id_column: of the file, where a feature of ids is read from.
        count: rows of the file.
        content: sha256 of the file.
        state: of the file when it was checked, as `_state` gives it.
    """

    path: Path
    features: Mapping[str, FeatureSpec]
    id_column: str
    count: int
    content: str
    state: tuple[int, ...]

    @classmethod
    def open(
        cls, path: Path, features: Mapping[str, FeatureSpec], id_column: str = "item_id"
    ) -> "TableRecords":
        """Read the file once and check every value, so that no fault ends an encoding after hours.

        Raises:
            DataError: the file or a value is at fault; the text names file, row and column.
        """
        served = {name: _served(spec) for name, spec in features.items()}
        unread = cls(path, served, id_column, 0, "", _state(path))
        count = sum(len(next(iter(each.values()))) for each in unread._columns(WINDOW, 0))
        if count == 0:
            raise DataError(f"{path}: expected at least one row, got an empty table")
        return replace(unread, count=count, content=identity_of([path]))

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def __len__(self) -> int:
        return self.count

    def identity(self) -> str:
        """sha256 of the file and of what is read from it."""
        read = {name: [self._column(name), spec.kind] for name, spec in self.features.items()}
        return fingerprint(self.content, read)

    def slices(self, size: int, first: int = 0) -> Iterator[Values]:
        """Feature name -> raw values, of `size` rows at a time, from row `first` on.

        Raises:
            DataError: the file is not as it was when it was opened.
        """
        for columns in self._columns(size, first):
            yield {name: column.to_list() for name, column in columns.items()}
        if _state(self.path) != self.state:
            raise DataError(f"{self.path}: changed while it was read")

    def _columns(self, size: int, first: int) -> Iterator[dict[str, pl.Series]]:
        """Feature name -> checked column, of `size` rows at a time."""
        names = dict.fromkeys(map(self._column, self.features))
        begin = first
        for frame in read_slices(self.path, list(names), size, first):
            places = pl.int_range(begin, begin + frame.height, eager=True)
            columns = Columns(self.path, frame, places)
            yield {name: self._checked(columns, name) for name in self.features}
            begin += frame.height

    def _checked(self, columns: Columns, name: str) -> pl.Series:
        spec = self.features[name]
        if isinstance(spec, IdFeature):
            return columns.required(self.id_column, "an id")
        return features_of(columns, {name: spec})[self._column(name)]

    def _column(self, name: str) -> str:
        spec = self.features[name]
        return self.id_column if isinstance(spec, IdFeature) else names_of({name: spec})[0]


def _served(spec: FeatureSpec) -> FeatureSpec:
    """The feature as a served catalogue is read for it."""
    if isinstance(spec, TextFeature) and spec.catalogue_column:
        return replace(spec, column=spec.catalogue_column, catalogue_column="")
    return spec


def _state(path: Path) -> tuple[int, ...]:
    """What differs after a file was written or replaced, even if its size and time were set back."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
