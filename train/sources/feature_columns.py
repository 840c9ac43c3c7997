"""The columns that features read, each by the kind of its feature; roles and items likewise."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from protos.errors import DataError
from protos.features import CategoryFeature, FeatureSpec, HistoryFeature, IdFeature, TextFeature
from train.sources.columns import Columns
from train.sources.table_files import read_table


def names_of(features: Mapping[str, FeatureSpec]) -> list[str]:
    """The columns that features read, served texts included; a history is in no column."""
    read = [spec for spec in features.values() if not isinstance(spec, HistoryFeature)]
    served = [spec.catalogue_column for spec in read if isinstance(spec, TextFeature)]
    return [*(spec.column for spec in read), *(name for name in served if name)]


def read_columns(path: Path, names: Iterable[str]) -> Columns:
    """The named columns of the table at `path`, each once.

    Raises:
        DataError: the file is at fault, or lacks a column.
    """
    return Columns(path, read_table(path, list(dict.fromkeys(names))))


def features_of(columns: Columns, features: Mapping[str, FeatureSpec]) -> dict[str, pl.Series]:
    """The columns of one tower's features.

    Raises:
        DataError: a value does not fit its feature.
    """
    read: dict[str, pl.Series] = {}
    for name, spec in features.items():
        for column in names_of({name: spec}):
            values = _values(columns, column, spec)
            if column in read and read[column].dtype != values.dtype:
                raise DataError(
                    f"{columns.path}: column {column!r} is read by two features as "
                    f"{read[column].dtype} and as {values.dtype}"
                )
            read[column] = values
    return read


def _values(columns: Columns, column: str, spec: FeatureSpec) -> pl.Series:
    if isinstance(spec, TextFeature):
        return columns.required(column, "text")
    if isinstance(spec, CategoryFeature):
        return columns.categories(column) if spec.multi else columns.strings(column)
    if isinstance(spec, IdFeature):
        return columns.required(column, "an id")
    return columns.numbers(column)


def items_of(
    columns: Columns, id_column: str, features: Mapping[str, FeatureSpec], display: Iterable[str]
) -> pl.DataFrame:
    """Items: `item_id`, then features, then what is only shown.

    Raises:
        DataError: a value does not fit, an id stands twice, or `item_id` is another column of the table.
    """
    id_features = {name: spec for name, spec in features.items() if names_of({name: spec}) == ["item_id"]}
    others = {name: spec for name, spec in features.items() if name not in id_features}
    if id_column != "item_id" and (
        "item_id" in display or any(not isinstance(spec, IdFeature) for spec in id_features.values())
    ):
        raise DataError(
            f"{columns.path}: column 'item_id' is a feature or a display field, but the ids are in "
            f"{id_column!r}: rename it"
        )
    read = features_of(columns, others)
    shown = {
        name: columns.strings(name, "a string to show").fill_null("")
        for name in display
        if name not in read and name != "item_id"
    }
    return pl.DataFrame({"item_id": columns.unique_ids(id_column), **read, **shown})


def weights_of(columns: Columns, column: str) -> pl.Series:
    """Float32 weights, 1 each where there is no column of them."""
    if not column:
        return pl.repeat(1.0, columns.frame.height, dtype=pl.Float32, eager=True)
    expected = "a number of at least 0"
    weights = columns.numbers(column, expected)
    columns.refuse(column, weights.is_null() | (weights < 0), expected)
    return weights.cast(pl.Float32)


def rows_of(columns: Columns, column: str, item_ids: pl.Series, table: str) -> pl.Series:
    """UInt32 rows of the items that a column of ids names.

    Raises:
        DataError: an id is absent, or not among `item_ids`, which are those of `table`.
    """
    wanted = columns.required(column, "an item id")
    rows = pl.DataFrame({"id": item_ids}).with_row_index("item_row")
    joined = pl.DataFrame({"id": wanted}).join(rows, on="id", how="left", maintain_order="left")
    columns.refuse(column, joined["item_row"].is_null(), f"the id of an item in {table}")
    return joined["item_row"]
