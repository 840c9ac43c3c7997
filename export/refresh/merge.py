"""Champion's items, a table of items and the changes of the store as one catalogue.

An item whose content is the same as in the champion's bundle keeps its vector, byte for byte. All others are
encoded. The store has the last word: a delete removes an item that the table holds, and an item that was
written replaces the row of the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.export.bundle_files import ItemColumns
from twinspire.export.encoding.digests import SIZE, Digests, digest, read_digests
from twinspire.export.refresh.sources import ItemChange, SnapshotState, TableItem
from twinspire.protos import bundle
from twinspire.protos.bundle import Manifest
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import DataError, InvalidInput
from twinspire.protos.features import IdFeature
from twinspire.protos.filter_kinds import Parsed, parse_value
from twinspire.protos.filters import column_values, read_filters

NO_DIGEST = bytes(SIZE)  # of an item whose bundle tells none; no item has it
FRESH = -1

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Champion:
    """The bundle that is refreshed.

    Args:
        folder: of the bundle, which has been verified.
        items: what it holds of its items; the digests are zero where it tells none.
    """

    folder: Path
    manifest: Manifest
    items: ItemColumns

    @classmethod
    def read(cls, folder: Path, manifest: Manifest) -> "Champion":
        """Read a verified bundle.

        Raises:
            BundleDamaged: a file is not what the manifest says.
        """
        table = parse_json((folder / bundle.ITEMS).read_bytes())
        fields = {name: table["fields"][name] for name in manifest.display_fields}
        digests = read_digests(folder, manifest)
        if digests is None:
            digests = np.zeros((manifest.count, SIZE), np.uint8)
        columns = read_filters(folder, manifest)
        filters = {name: column_values(column, manifest.count) for name, column in columns.items()}
        stored = table["ids"], table["popularity"], fields, digests, manifest.filters, filters
        return cls(folder, manifest, ItemColumns(*stored))


@dataclass(frozen=True)
class Merged:
    """A catalogue of N items.

    Args:
        items: what the bundle holds of them beside the vectors.
        origin: int64 (N,), row of the champion's vector, or `FRESH`.
        fresh: feature of the item tower -> raw values of the items to encode, in their order.
        failed: id -> why the item tower cannot encode it; such items are left out, as the service does.
        new: number of items that the champion does not have.
        updated: items that keep their vector, but have other display fields or filter values.
        deleted: number of items that only the champion has, those that failed included.
    """

    items: ItemColumns
    origin: Rows
    fresh: Mapping[str, Sequence[Any]]
    failed: Mapping[str, str]
    new: int
    updated: int
    deleted: int

    @property
    def fresh_count(self) -> int:
        """n, the items to encode."""
        return int(np.count_nonzero(self.origin == FRESH))

    @property
    def is_unchanged(self) -> bool:
        """Whether it is the champion's catalogue."""
        return not (self.fresh_count or self.new or self.updated or self.deleted)

    def counts(self) -> dict[str, int]:
        """Numbers of items, for reports."""
        fresh = self.fresh_count
        return {
            "items": len(self.origin),
            "kept": len(self.origin) - fresh,
            "encoded": fresh,
            "new": self.new,
            "updated": self.updated,
            "deleted": self.deleted,
            "failed": len(self.failed),
        }


def merge(
    champion: Champion,
    table: Mapping[str, TableItem] | None,
    state: SnapshotState | None,
    refused: Mapping[str, str] | None = None,
) -> Merged:
    """The catalogue as it stands.

    Args:
        champion: the bundle that is refreshed.
        table: items that take the place of the champion's; None to keep those.
        state: of the store of live items, if there is one.
        refused: id -> why an item is left out.

    Raises:
        DataError: no item is left.
    """
    failed = dict(refused or {})
    wanted: dict[str, int | TableItem] = (
        {item_id: row for row, item_id in enumerate(champion.items.ids)} if table is None else {**table}
    )
    for change in state.changes if state is not None else ():
        if change.deleted:
            wanted.pop(change.item_id, None)
            continue
        try:
            wanted[change.item_id] = _written(change, champion.manifest)
        except InvalidInput as error:
            failed[change.item_id] = str(error)
    for item_id in failed:
        wanted.pop(item_id, None)
    return _Merge(champion, failed).run(wanted)


def _written(change: ItemChange, manifest: Manifest) -> TableItem:
    """An item as it was written.

    Raises:
        InvalidInput: a filter field has a value of another type.
    """
    values = {
        name: change.item_id if isinstance(spec, IdFeature) else change.features.get(name)
        for name, spec in manifest.schema.item.items()
    }
    filters = {
        name: parse_value(kind, change.features.get(name), f"features.{name}")
        for name, kind in manifest.filters.items()
    }
    return TableItem(values, {name: change.fields.get(name) for name in manifest.display_fields}, filters)


class _Merge:
    """Builds a `Merged`, item by item."""

    def __init__(self, champion: Champion, failed: dict[str, str]) -> None:
        self.champion, self.failed = champion, failed
        self.inputs = champion.manifest.schema.side("item")
        self.rows = {item_id: row for row, item_id in enumerate(champion.items.ids)}
        self.known = champion.items.digests.tobytes()
        self.ids: list[str] = []
        self.origin: list[int] = []
        self.digests: list[bytes] = []
        self.popularity: list[float] = []
        self.fields: dict[str, list[str | None]] = {name: [] for name in champion.manifest.display_fields}
        self.filters: dict[str, list[Parsed]] = {name: [] for name in champion.manifest.filters}
        self.fresh: dict[str, list[Any]] = {name: [] for name in self.inputs.features}
        self.new = self.updated = 0

    def run(self, wanted: Mapping[str, int | TableItem]) -> Merged:
        for item_id, item in wanted.items():
            if isinstance(item, int):
                self._keep(item_id, item)
            else:
                self._take(item_id, item)
        if not self.ids:
            raise DataError("no item is left in the catalogue, so there is nothing to make a bundle of")
        digests: Digests = np.frombuffer(b"".join(self.digests), np.uint8).reshape(-1, SIZE)
        kinds = self.champion.manifest.filters
        items = ItemColumns(self.ids, self.popularity, self.fields, digests, kinds, self.filters)
        gone = len(self.rows.keys() - set(self.ids))
        origin = np.array(self.origin, np.int64)
        return Merged(items, origin, self.fresh, self.failed, self.new, self.updated, gone)

    def _keep(self, item_id: str, row: int) -> None:
        """Take over an item of the champion."""
        items = self.champion.items
        self._add(item_id, row, self._digest_of(row), items.popularity[row])
        for name, column in self.fields.items():
            column.append(items.fields[name][row])
        for name, values in self.filters.items():
            values.append(items.filters[name][row])

    def _take(self, item_id: str, item: TableItem) -> None:
        """Take an item of the table or the store; its vector is the champion's if the content is the same."""
        try:
            found = digest(self.inputs, item.values, self.champion.manifest.hybrid is not None)
        except InvalidInput as error:
            self.failed[item_id] = str(error)
            return
        row = self.rows.get(item_id)
        if row is None:
            self.new += 1
        is_same = row is not None and self._digest_of(row) == found
        popularity = 0.0 if row is None else self.champion.items.popularity[row]
        self._add(item_id, row if row is not None and is_same else FRESH, found, popularity)
        for name, column in self.fields.items():
            column.append(item.fields[name])
        for name, values in self.filters.items():
            values.append(item.filters[name])
        if row is None or not is_same:
            for name, raw in self.fresh.items():
                raw.append(item.values.get(name))
        else:
            self.updated += self._is_updated(row, item)

    def _add(self, item_id: str, origin: int, found: bytes, popularity: float) -> None:
        self.ids.append(item_id)
        self.origin.append(origin)
        self.digests.append(found)
        self.popularity.append(popularity)

    def _digest_of(self, row: int) -> bytes:
        return self.known[row * SIZE : (row + 1) * SIZE]

    def _is_updated(self, row: int, item: TableItem) -> bool:
        items = self.champion.items
        return any(items.fields[name][row] != text for name, text in item.fields.items()) or any(
            _comparable(items.filters[name][row]) != _comparable(value)
            for name, value in item.filters.items()
        )


def _comparable(value: Any) -> Any:
    """A filter value in a form that does not depend on where it was read: strings as a sorted tuple."""
    if isinstance(value, str):
        return (value,)
    return tuple(sorted(value)) if isinstance(value, list | tuple) else value
