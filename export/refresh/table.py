"""The catalogue as it stands, as a table that training reads: items of a data set with the store's changes.

The columns are those that the experiment reads. An item that was written has its features' values in the
columns of these features, the text of a field in its column, and filter values in theirs.
"""

import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from twinspire.export.refresh import sources
from twinspire.export.refresh.sources import ItemChange
from twinspire.protos.bundle import Snapshot, whole_file
from twinspire.protos.errors import DataError, InvalidInput, MissingStage
from twinspire.protos.features import FeatureSpec
from twinspire.protos.filter_kinds import KINDS, parse_value
from twinspire.train.config import Experiment
from twinspire.train.data.columns import column_names
from twinspire.train.data.dataset import prepare
from twinspire.train.data.filters import PREFIX, filter_kinds
from twinspire.train.progress import PROGRESS

ID = "item_id"
_MISFITS = TypeError, ValueError, OverflowError, pl.exceptions.PolarsError


def command(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """The command `catalogue`: write the items of the data set with the changes of the store."""
    dataset = prepare(experiment, arguments.config.parent, console=PROGRESS)
    snapshot, changes = store_changes(arguments.catalogue)
    display = dataset.report["display"]
    items = catalogue_table(dataset.items, experiment.item, display, changes)
    write_table(items, arguments.output)
    return {
        "output": str(arguments.output),
        "items": items.height,
        "written": sum(not each.deleted for each in changes),
        "deletes": sum(each.deleted for each in changes),
        "catalogue": asdict(snapshot),
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print the number of items, and the state of the store that is in them."""
    console.print(
        f"{result['items']:,} items, of sequence {result['catalogue']['sequence']:,}: {result['output']}",
        soft_wrap=True,
    )


def catalogue_table(
    items: pl.DataFrame,
    features: Mapping[str, FeatureSpec],
    display: Sequence[str],
    changes: Sequence[ItemChange],
) -> pl.DataFrame:
    """Items with changes applied.

    Args:
        items: of a data set: `item_id`, columns of features and display fields, and of filter fields.
        features: of the items.
        display: columns that are display fields.
        changes: of all items that were written, lowest sequence first.

    Raises:
        DataError: a value that was written does not fit its column; the text names item and column.
    """
    kinds = filter_kinds(items)
    read = {column: name for name, spec in features.items() for column in column_names({name: spec})}
    read.pop(ID, None)
    raw = _without_prefixes(items)
    latest = {each.item_id: each for each in changes}
    kept = raw.filter(~pl.col(ID).is_in([*latest]))
    rows = [each for each in changes if not each.deleted]
    columns: dict[str, pl.Series] = {ID: pl.Series(ID, [each.item_id for each in rows], pl.String)}
    for column, dtype in raw.schema.items():
        if column == ID:
            continue
        if column in read:
            values: list[Any] = [each.features.get(read[column]) for each in rows]
        elif column in display:
            values = [each.fields.get(column) for each in rows]
        else:
            kind = kinds[column]
            values = [_filter_value(kind, each, column) for each in rows]
        columns[column] = _series(column, values, dtype, [each.item_id for each in rows])
    return pl.concat([kept, pl.DataFrame(columns, schema=raw.schema)])


def write_table(items: pl.DataFrame, output: Path) -> None:
    """Write a table as Parquet, atomically."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output) as file:
        items.write_parquet(file)


def store_changes(url: str) -> tuple[Snapshot, list[ItemChange]]:
    """All changes of the store of live items.

    Raises:
        MissingStage: there is no store.
    """
    with tempfile.TemporaryDirectory(prefix="twinspire-catalogue-") as folder:
        path = Path(folder) / "changes.jsonl"
        if not sources.take_snapshot(url, path, None):
            raise MissingStage(
                "no store of live items is where the service keeps it; name one with --catalogue, such as "
                "sqlite:///items.db"
            )
        return sources.read_snapshot(path)


def _without_prefixes(items: pl.DataFrame) -> pl.DataFrame:
    """The items with their filter fields under their own names, where no other column has it."""
    kinds = filter_kinds(items)
    found = items.drop([PREFIX + name for name in kinds])
    added = []
    for name, kind in kinds.items():
        if name not in found.columns:
            column = pl.col(PREFIX + name)
            shown = KINDS[kind].table
            added.append((column.cast(shown) if shown else column).alias(name))
    return items.select([*found.columns, *added])


def _filter_value(kind: str, change: ItemChange, column: str) -> Any:
    """The value of an item that was written, as it is in a table's column.

    Raises:
        DataError: it is of another type.
    """
    try:
        value = parse_value(kind, change.features.get(column), column)
    except InvalidInput as error:
        raise DataError(f"item {change.item_id!r}, column {column!r}: {error.reason}") from None
    return None if value is None else KINDS[kind].cell(value)


def _series(column: str, values: list[Any], dtype: Any, ids: Sequence[str]) -> pl.Series:
    """A column of the items that were written.

    Raises:
        DataError: a value does not fit; the text names the first item that has one.
    """
    is_text = dtype != pl.String and any(isinstance(value, str) for value in values)

    def made(some: list[Any]) -> pl.Series:
        if is_text:
            return pl.Series(column, [None if each is None else str(each) for each in some]).cast(dtype)
        return pl.Series(column, some, dtype)

    try:
        return made(values)
    except _MISFITS as whole:
        for item_id, value in zip(ids, values, strict=True):
            try:
                made([value])
            except _MISFITS as error:
                raise DataError(f"item {item_id!r}, column {column!r}: expected {dtype}: {error}") from None
        raise DataError(f"column {column!r}: expected {dtype}: {whole}") from None
