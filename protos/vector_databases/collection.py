"""Writes the collection of a bundle to a vector database: whole or not at all.

A collection is written under another name, compared with the bundle and then renamed, so one that has its
final name is whole. What it cannot hold is refused before anything is written.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twinspire.protos.bundle import ITEMS, Manifest
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleDamaged, DataError
from twinspire.protos.filter_kinds import KINDS
from twinspire.protos.filters import column_values, read_filters
from twinspire.protos.nearest.vectors import vectors_of
from twinspire.protos.vector_databases.database import (
    ItemRow,
    Limits,
    VectorDatabase,
    Vectors,
    check_collection,
    collection_name,
    draft,
    draft_prefix,
)

SAMPLE = 16  # items whose vectors and fields are compared


class CollectionItems:
    """What the collection of a bundle holds of its N items beside their vectors.

    Args:
        limits: of the engine.
        kinds: types of the filter fields, in ascending order of the fields' names.
        ids: of the items.
        fields: display field -> text of each item, None where it is absent.
        filters: for each filter field the value of each item as `column_values` gives it, None where absent.

    Raises:
        DataError: a collection cannot hold an id, a field or a value; the text names it.
    """

    def __init__(
        self,
        limits: Limits,
        kinds: Sequence[str],
        ids: Sequence[str],
        fields: dict[str, Sequence[str | None]],
        filters: Sequence[Sequence[Any]],
    ) -> None:
        self.kinds, self._ids, self._fields, self._filters = kinds, ids, fields, filters
        self._limits = limits
        if len(kinds) > limits.fields:
            expected = f"at most {limits.fields} for {limits.engine}"
            raise DataError(f"filter.fields: expected {expected}, got {len(kinds)}")
        for row, item_id in enumerate(ids):
            self._check(row, "an id", item_id)
        for values in filters:
            for row, value in enumerate(values):
                if isinstance(value, tuple):
                    self._check_strings(row, value)

    @classmethod
    def of(cls, folder: Path, manifest: Manifest, limits: Limits) -> "CollectionItems":
        """The items of a bundle with all its files."""
        table = parse_json((folder / ITEMS).read_bytes())
        columns = sorted(read_filters(folder, manifest).items())
        return cls(
            limits,
            [manifest.filters[name] for name, _ in columns],
            table["ids"],
            table["fields"],
            [column_values(column, manifest.count) for _, column in columns],
        )

    def row(self, n: int) -> ItemRow:
        """What a collection holds of an item.

        Raises:
            DataError: the display fields are longer than a collection can hold.
        """
        shown = {name: texts[n] for name, texts in self._fields.items() if texts[n] is not None}
        display = json.dumps(shown, ensure_ascii=False)
        most = self._limits.display_bytes
        if len(display.encode()) > most:
            expected = f"display fields of at most {most} bytes for {self._limits.engine}"
            raise DataError(f"items, row {n}: expected {expected}")
        values = (
            None if column[n] is None else _value(kind, column[n])
            for kind, column in zip(self.kinds, self._filters, strict=True)
        )
        return ItemRow(self._ids[n], display, tuple(values))

    def rows(self) -> Iterator[ItemRow]:
        """All items, in the order of the bundle."""
        return map(self.row, range(len(self._ids)))

    def _check_strings(self, row: int, texts: Sequence[str]) -> None:
        limits = self._limits
        for text in texts:
            self._check(row, "a string of a filter field", text)
        if len(texts) > limits.strings or sum(len(text.encode()) for text in texts) > limits.strings_bytes:
            most = f"at most {limits.strings} strings and {limits.strings_bytes} bytes"
            raise DataError(f"items, row {row}: expected {most} in a filter field for {limits.engine}")

    def _check(self, row: int, what: str, text: str) -> None:
        limits = self._limits
        if not limits.holds(text):
            expected = f"{what} of at most {limits.string_bytes} bytes without {limits.refused_name}"
            raise DataError(f"items, row {row}: expected {expected} for {limits.engine}, got {text[:40]!r}")


def _value(kind: str, value: Any) -> Any:
    """A value of a column as `ItemRow` has it; `column_values` gives every string in a tuple."""
    if KINDS[kind].is_list:
        return list(value)
    if isinstance(value, tuple):
        return value[0]
    return bool(value) if KINDS[kind].dtype is np.int8 else value


def write_collection(database: VectorDatabase, folder: Path, manifest: Manifest) -> str:
    """Write the collection of a bundle, whole or not at all; returns its name. One that is there is checked.

    Args:
        folder: of the bundle with all its files.
        manifest: sealed.

    Raises:
        BundleDamaged: the server returns other items than were written.
        DataError: a collection cannot hold the items; the text says why.
        Unavailable: the server does not answer.
    """
    name, version = collection_name(manifest.bundle_version), manifest.bundle_version
    present = database.names()
    for each in present:
        if each.startswith(draft_prefix(version)):
            database.drop(each)  # of an export that was killed
    items, vectors = CollectionItems.of(folder, manifest, database.limits), vectors_of(folder, manifest)
    if name not in present:
        with draft(database, version) as made:
            database.create(made, vectors, manifest.index, items.kinds, items.rows(), version)
            check_collection(database, made, manifest)
            compare(database, made, vectors, items)
            database.rename(made, name)
    check_collection(database, name, manifest)
    compare(database, name, vectors, items)
    return name


def compare(database: VectorDatabase, name: str, vectors: Vectors, items: CollectionItems) -> None:
    """Compare a sample of the items of a collection with those of its bundle.

    Raises:
        BundleDamaged: the collection holds others.
        Unavailable: the server does not answer.
    """
    sample = np.unique(np.linspace(0, len(vectors) - 1, SAMPLE).astype(np.int64)).tolist()
    expected = [items.row(n) for n in sample]
    found = database.read(name, [row.item_id for row in expected], items.kinds)
    where = f"collection {name} in {database.title}"
    for n, row in zip(sample, expected, strict=True):
        held, vector = found.get(row.item_id, (None, None))
        if held != row:
            raise BundleDamaged(f"{where}: holds another item {n} than the bundle")
        if not np.array_equal(vector, vectors[n]):  # type: ignore[arg-type]  # found, as its row
            raise BundleDamaged(f"{where}: holds another vector of item {n} than the bundle")
