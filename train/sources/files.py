"""Tables of the user's own: one of items, one of (query, item) pairs.

    [data]
    kind = "files"
    items = "items.csv"       # item_id,title,price
    pairs = "pairs.jsonl"     # {"query": "...", "item_id": "007"}

Only the columns that the TOML names are read. A fault in a file is an error that says where it is; what
is left out on purpose (labels that are not positive, repeated pairs) is counted.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from protos.bundle import record
from protos.errors import DataError
from protos.features import CategoryFeature, FeatureSpec, TextFeature
from train.config import FilesData
from train.sources.columns import Columns
from train.sources.table_files import read_table
from train.sources.tables import RESERVED, Tables


@dataclass(frozen=True)
class FilesSource:
    """The two files, and what the features read from them.

    Args:
        data: the TOML's section.
        base: the folder of the TOML.
        query: features of the query tower.
        item: features of the item tower.
    """

    data: FilesData
    base: Path
    query: Mapping[str, FeatureSpec]
    item: Mapping[str, FeatureSpec]

    def identity(self) -> str:
        """sha256 over the sha256 of both files.

        Raises:
            DataError: a file is missing.
        """
        digest = hashlib.sha256()
        for path in (self._items_path, self._pairs_path):
            try:
                digest.update(record(path).sha256.encode())
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
        return digest.hexdigest()

    def read(self) -> Tables:
        """Items and pairs.

        Raises:
            DataError: a value is at fault; the text names file, row and column.
        """
        items = self._items()
        pairs, dropped = self._pairs(items["item_id"])
        origin = {"items_file": self.data.items, "pairs_file": self.data.pairs}
        return Tables(items, pairs, self.data.display, dropped, origin=origin)

    @property
    def _items_path(self) -> Path:
        return self.base / self.data.items

    @property
    def _pairs_path(self) -> Path:
        return self.base / self.data.pairs

    def _items(self) -> pl.DataFrame:
        columns = _read(self._items_path, [self.data.item_id, *_names(self.item), *self.data.display])
        features = _features(columns, self.item)
        if self.data.item_id != "item_id" and "item_id" in {*features, *self.data.display}:
            raise DataError(
                f"{columns.path}: column 'item_id' is a feature or a display field, but the ids are in "
                f"{self.data.item_id!r}: rename it"
            )
        ids = columns.unique_ids(self.data.item_id)
        shown = {
            name: columns.strings(name, "a string to show").fill_null("")
            for name in self.data.display
            if name not in features
        }
        table = {**features, **shown}
        table.pop("item_id", None)
        return pl.DataFrame({"item_id": ids, **table})

    def _pairs(self, item_ids: pl.Series) -> tuple[pl.DataFrame, dict[str, int]]:
        data = self.data
        id_column = data.pair_item_id or data.item_id
        roles = [each for each in (data.label, data.weight, data.group, data.time) if each]
        columns = _read(self._pairs_path, [*_names(self.query), id_column, *roles])
        for name in _names(self.query):
            if name in RESERVED:
                raise DataError(f"{columns.path}: a query feature cannot read {name!r}: rename it")
        wanted = columns.required(id_column, "an item id")
        rows = pl.DataFrame({"id": item_ids}).with_row_index("item_row")
        item_row = pl.DataFrame({"id": wanted}).join(rows, on="id", how="left", maintain_order="left")[
            "item_row"
        ]
        expected = f"the id of an item in {self._items_path} ({data.item_id!r})"
        columns.refuse(id_column, item_row.is_null(), expected)
        table = {**_features(columns, self.query), "item_row": item_row}
        table["weight"] = _weights(columns, data.weight)
        table["group"] = columns.required(data.group, "a group") if data.group else wanted
        if data.time:
            table["time"] = columns.times(data.time)
        positive = _positive(columns, data.label)
        return _distinct(pl.DataFrame(table), positive, columns.path)


def _read(path: Path, names: Iterable[str]) -> Columns:
    return Columns(path, read_table(path, list(dict.fromkeys(names))))


def _names(features: Mapping[str, FeatureSpec]) -> list[str]:
    """The columns that features read, served texts included."""
    served = [spec.catalogue_column for spec in features.values() if isinstance(spec, TextFeature)]
    return [*(spec.column for spec in features.values()), *(name for name in served if name)]


def _features(columns: Columns, features: Mapping[str, FeatureSpec]) -> dict[str, pl.Series]:
    """The columns of one tower's features, each by its kind."""
    read: dict[str, pl.Series] = {}
    for name, spec in features.items():
        for column in _names({name: spec}):
            if isinstance(spec, TextFeature):
                values = columns.required(column, "text")
            elif isinstance(spec, CategoryFeature):
                values = columns.categories(column) if spec.multi else columns.strings(column)
            else:
                values = columns.numbers(column)
            if column in read and read[column].dtype != values.dtype:
                raise DataError(
                    f"{columns.path}: column {column!r} is read by two features as "
                    f"{read[column].dtype} and as {values.dtype}"
                )
            read[column] = values
    return read


def _weights(columns: Columns, column: str) -> pl.Series:
    if not column:
        return pl.repeat(1.0, columns.frame.height, dtype=pl.Float32, eager=True)
    expected = "a number of at least 0"
    weights = columns.numbers(column, expected)
    columns.refuse(column, weights.is_null() | (weights < 0), expected)
    return weights.cast(pl.Float32)


def _positive(columns: Columns, column: str) -> pl.Series:
    if not column:
        return pl.repeat(True, columns.frame.height, eager=True)
    labels = columns.numbers(column, "a number")
    columns.refuse(column, labels.is_null(), "a number")
    return labels > 0


def _distinct(pairs: pl.DataFrame, positive: pl.Series, path: Path) -> tuple[pl.DataFrame, dict[str, int]]:
    """The positive pairs, each once, and how many went."""
    kept = pairs.filter(positive)
    if kept.is_empty():
        raise DataError(f"{path}: expected a pair with a positive label, got none in {pairs.height}")
    once = kept.unique(maintain_order=True, keep="first")
    dropped = {
        "label not positive": pairs.height - kept.height,
        "pair merged with an equal one": kept.height - once.height,
    }
    return once, {reason: count for reason, count in dropped.items() if count}
