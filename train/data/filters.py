"""Columns of the items that a search can filter by, checked and typed.

A data set's table of items holds them beside its other columns under a name of their own, because a column
may also be a feature or a display field, with other types. The type of such a column tells the kind of the
field.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import polars as pl

from twinspire.protos.errors import DataError, InvalidInput
from twinspire.protos.features import CategoryFeature, FeatureSpec, NumberFeature
from twinspire.protos.filter_kinds import KINDS, FilterKind, parse_value
from twinspire.train.config.data import FilterConfig
from twinspire.train.data.columns import Columns

PREFIX = "__filter."  # of the columns' names
TYPES: dict[FilterKind, Any] = {
    kind: pl.List(getattr(pl, KINDS[kind].series)) if KINDS[kind].is_list else getattr(pl, KINDS[kind].series)
    for kind in get_args(FilterKind)
}


def filter_columns(
    columns: Columns, config: FilterConfig, features: Mapping[str, FeatureSpec]
) -> dict[str, pl.Series]:
    """The columns of the filter fields: name with `PREFIX` -> values as `parse_value` returns them.

    Raises:
        DataError: a value is of another type than its field; the text names file, row and column.
    """
    found = {}
    for name in config.fields:
        kind = config.types.get(name) or _kind(columns.frame[name], name, features)
        found[PREFIX + name] = _parsed(columns, name, kind)
    return found


def with_filter_columns(
    items: pl.DataFrame, source: str, config: FilterConfig, features: Mapping[str, FeatureSpec]
) -> pl.DataFrame:
    """The items with the columns of all filter fields.

    Args:
        items: of a source that may have made these columns; if not, they are made of its columns.
        source: its kind, for errors.
        config: `[filter]`.

    Raises:
        DataError: a field is no column of the items.
    """
    made = [name for name in config.fields if PREFIX + name in items.columns]
    if len(made) == len(config.fields):
        return items
    columns = Columns(Path(source), items)
    for name in config.fields:
        if name not in items.columns:
            present = ", ".join(each for each in items.columns if not each.startswith(PREFIX))
            raise DataError(
                f"{source}: filter.fields: {name!r} is no column of the items; they have {present}"
            )
    return items.with_columns(
        values.alias(name) for name, values in filter_columns(columns, config, features).items()
    )


def filter_kinds(items: pl.DataFrame) -> dict[str, FilterKind]:
    """The filter fields of a data set and their types."""
    kinds = [(dtype, kind) for kind, dtype in TYPES.items()]
    return {
        name.removeprefix(PREFIX): next(kind for dtype, kind in kinds if items[name].dtype == dtype)
        for name in items.columns
        if name.startswith(PREFIX)
    }


def filter_values(items: pl.DataFrame, field: str) -> list[Any]:
    """The values of a field, as `build_column` takes them."""
    return items[PREFIX + field].to_list()


def _kind(values: pl.Series, column: str, features: Mapping[str, FeatureSpec]) -> FilterKind:
    """The type of a field that `types` does not name."""
    for spec in features.values():
        if isinstance(spec, NumberFeature) and spec.column == column:
            return "number"
        if isinstance(spec, CategoryFeature) and spec.column == column:
            return "strings" if spec.multi else "string"
    if isinstance(values.dtype, pl.List):
        return "strings"
    if values.dtype == pl.Boolean:
        return "boolean"
    if values.dtype in (pl.Date, pl.Datetime):
        return "time"
    return "number" if values.dtype.is_numeric() else "string"


def _parsed(columns: Columns, column: str, kind: FilterKind) -> pl.Series:
    parsed = []
    for row, value in enumerate(columns.frame[column]):
        raw = value.to_list() if isinstance(value, pl.Series) else value
        try:
            parsed.append(parse_value(kind, raw, column))
        except InvalidInput as error:
            raise columns.refusal(column, row, error.reason) from None
    return pl.Series(column, parsed, dtype=TYPES[kind])
