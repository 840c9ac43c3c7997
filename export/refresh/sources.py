"""Where a refreshed catalogue comes from: the store of live items, and a table of items.

The store belongs to the service, which this stage does not import, so a process of `serving.catalogue` reads
it. The table is read by the readers of training data.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from twinspire.export.bundle_files import display_text
from twinspire.protos import entry_points
from twinspire.protos.bundle import Manifest, Snapshot
from twinspire.protos.errors import DataError, TwinspireError
from twinspire.protos.features import TextFeature
from twinspire.protos.filter_kinds import Parsed
from twinspire.train.config.data import FilterConfig
from twinspire.train.data.columns import column_names, items_of, read_columns
from twinspire.train.data.filters import PREFIX, filter_columns
from twinspire.train.data.item_table import ItemTable
from twinspire.train.data.table_files import identity_of
from twinspire.train.data.training_data import values_of
from twinspire.train.paths import CACHE


class ItemChange(NamedTuple):
    """The latest state of an item in the store, as `serving.live.store.records.Change` has it."""

    sequence: int
    item_id: str
    deleted: bool
    features: Mapping[str, Any]
    fields: Mapping[str, str]


class TableItem(NamedTuple):
    """An item of a table.

    Args:
        values: feature of the item tower -> raw value, as it is served.
        fields: display field -> text, None where it is absent.
        filters: filter field -> value, as `parse_value` returns it.
    """

    values: Mapping[str, Any]
    fields: Mapping[str, str | None]
    filters: Mapping[str, Parsed]


def take_snapshot(url: str, output: Path, known: Snapshot | None) -> bool:
    """Write one state of the store to a file; False if there is no store at the default URL.

    Args:
        url: of the store; empty for that of the service.
        output: the file, written atomically.
        known: the changes up to this state are not wanted, if it is of the same store.

    Raises:
        MissingStage, TwinspireError: the store cannot be read; the text says why.
    """
    arguments = ["snapshot", str(output), "--catalogue", url]
    if known is not None:
        arguments += ["--after", str(known.sequence), "--mark", str(known.mark), "--store", known.store]
    return _catalogue(*arguments) is not None


def compact(url: str, keep: Sequence[str]) -> dict[str, Any]:
    """Remove from the store, and from what was derived from it on this host, what no bundle needs.

    Args:
        url: of the store; empty for that of the service.
        keep: versions of bundles that may be served again soon.

    Raises:
        TwinspireError: the store cannot be written.
    """
    kept = [f"--keep={version}" for version in keep]
    return _catalogue("compact", "--catalogue", url, "--place", str(CACHE / "live"), *kept) or {}


def _catalogue(*arguments: str) -> dict[str, Any] | None:
    """Run `serving.catalogue`, whose default places are those of this process."""
    done = subprocess.run(
        entry_points.command(entry_points.CATALOGUE, *arguments),
        env={**os.environ, "TWINSPIRE_CACHE": str(CACHE)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        errors = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise TwinspireError(errors[-1].removeprefix("error: "))
    found: dict[str, Any] | None = json.loads(done.stdout)
    return found


def read_snapshot(path: Path) -> tuple[Snapshot, list[ItemChange]]:
    """What `take_snapshot` has written.

    Returns:
        Which state of the store it is; and the latest state of each item that has changed, lowest sequence
        first: of all items, or of those that changed after the champion's snapshot.
    """
    with path.open(encoding="utf-8") as file:
        head = json.loads(next(file))
        changes = [ItemChange(**json.loads(line)) for line in file]
    return Snapshot(head["store"], head["sequence"], head.get("mark", 0)), changes


def table_identity(path: Path) -> str:
    """sha256 of a table's content.

    Raises:
        DataError: it cannot be read.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file")
    return identity_of([path])


def read_items(path: Path, table: ItemTable, manifest: Manifest) -> dict[str, TableItem]:
    """The items of a table, by id and in the order of the table.

    Args:
        path: of the table; its columns are those of the training data; a feature with a
            `catalogue_column` is read from that one.
        table: how the experiment reads tables of items.
        manifest: of the bundle whose features, display fields and filter fields are read.

    Raises:
        DataError: the file or a value is invalid; the text names file, row and column.
    """
    served = {
        name: spec.as_served() if isinstance(spec, TextFeature) else spec
        for name, spec in manifest.schema.item.items()
    }
    filters = FilterConfig(tuple(manifest.filters), dict(manifest.filters))
    others = [name for name in (*column_names(served), *manifest.display_fields) if name != "item_id"]
    id_column = table.id_column
    names = [id_column, *others, *filters.fields]
    columns = table.cast(read_columns(path, names, *table.as_file(path), table.casts_key))
    items = items_of(columns, id_column, served, manifest.display_fields)
    if items.is_empty():
        raise DataError(f"{path}: expected at least one row, got an empty table")
    ids = items["item_id"].to_list()
    values = values_of(items, served)
    shown = {name: [display_text(each) for each in items[name]] for name in manifest.display_fields}
    found = filter_columns(columns, filters, served)
    passed = {name: found[PREFIX + name].to_list() for name in manifest.filters}
    return {
        item_id: TableItem(
            {name: column[row] for name, column in values.items()},
            {name: column[row] for name, column in shown.items()},
            {name: column[row] for name, column in passed.items()},
        )
        for row, item_id in enumerate(ids)
    }
