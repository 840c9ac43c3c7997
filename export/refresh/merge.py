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
from twinspire.export.encoding.digests import SIZE, digest, read_digests
from twinspire.export.refresh.sources import ItemChange, TableItem
from twinspire.protos import bundle
from twinspire.protos.bundle import Manifest
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import DataError, InvalidInput
from twinspire.protos.features import IdFeature
from twinspire.protos.filter_kinds import parse_value
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
    changes: Sequence[ItemChange],
    refused: Mapping[str, str] | None = None,
) -> Merged:
    """The catalogue as it stands.

    Args:
        champion: the bundle that is refreshed.
        table: items that take the place of the champion's; None to keep those.
        changes: of the store of live items, if there is one, lowest sequence first.
        refused: id -> why an item is left out.

    Raises:
        DataError: no item is left.
    """
    failed = dict(refused or {})
    wanted: dict[str, int | TableItem] = (
        {item_id: row for row, item_id in enumerate(champion.items.ids)} if table is None else {**table}
    )
    for change in changes:
        if change.deleted:
            wanted.pop(change.item_id, None)
            continue
        try:
            wanted[change.item_id] = _written(change, champion.manifest)
        except InvalidInput as error:
            failed[change.item_id] = str(error)
    for item_id in failed:
        wanted.pop(item_id, None)
    return _merged(champion, wanted, failed)


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


def _merged(champion: Champion, wanted: Mapping[str, int | TableItem], failed: dict[str, str]) -> Merged:
    """The catalogue of the wanted items: a row of the champion, or an item of the table or the store.

    The vector of the latter is the champion's if the content is the same. What fails is added to `failed`.
    """
    own, manifest = champion.items, champion.manifest
    inputs, known = manifest.schema.side("item"), own.digests.tobytes()
    rows = {item_id: row for row, item_id in enumerate(own.ids)}
    taken: list[tuple[str, int | TableItem]] = []
    origin: list[int] = []
    digests: list[bytes] = []
    updated = 0
    for item_id, item in wanted.items():
        row = rows.get(item_id, FRESH)
        found = before = known[row * SIZE : (row + 1) * SIZE] if row != FRESH else b""
        if not isinstance(item, int):
            try:
                found = digest(inputs, item.values, manifest.hybrid is not None)
            except InvalidInput as error:
                failed[item_id] = str(error)
                continue
            row = row if found == before else FRESH
            updated += row != FRESH and _is_updated(own, row, item)
        taken.append((item_id, item))
        origin.append(row)
        digests.append(found)
    if not taken:
        raise DataError("no item is left in the catalogue, so there is nothing to make a bundle of")
    ids, new = [item_id for item_id, _ in taken], sum(item_id not in rows for item_id, _ in taken)

    def columns(part: str) -> dict[str, list[Any]]:
        return {
            name: [own[item] if isinstance(item, int) else getattr(item, part)[name] for _, item in taken]
            for name, own in getattr(champion.items, part).items()
        }

    items = ItemColumns(
        ids,
        [own.popularity[rows[item_id]] if item_id in rows else 0.0 for item_id in ids],
        columns("fields"),
        np.frombuffer(b"".join(digests), np.uint8).reshape(-1, SIZE),
        manifest.filters,
        columns("filters"),
    )
    to_encode = [
        item
        for (_, item), row in zip(taken, origin, strict=True)
        if row == FRESH and not isinstance(item, int)
    ]
    fresh = {name: [item.values.get(name) for item in to_encode] for name in inputs.features}
    gone = len(rows.keys() - {*ids})
    return Merged(items, np.array(origin, np.int64), fresh, failed, new, updated, gone)


def _is_updated(own: ItemColumns, row: int, item: TableItem) -> bool:
    """Whether an item of the same content as the champion's has another display field or filter value."""
    return any(own.fields[name][row] != text for name, text in item.fields.items()) or any(
        _comparable(own.filters[name][row]) != _comparable(value) for name, value in item.filters.items()
    )


def _comparable(value: Any) -> Any:
    """A filter value in a form that does not depend on where it was read: strings as a sorted tuple."""
    if isinstance(value, str):
        return (value,)
    return tuple(sorted(value)) if isinstance(value, list | tuple) else value
