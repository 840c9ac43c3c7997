"""Writes the collection of a bundle to a vector database: whole or not at all.

A collection is written under another name, compared with the bundle and then renamed, so one that has its
final name is whole. What it cannot hold is refused before anything is written.
"""

from pathlib import Path

import numpy as np

from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.vector_databases.database import (
    VectorDatabase,
    check_collection,
    collection_name,
    draft,
    draft_prefix,
)
from twinspire.protos.vector_databases.items import CollectionItems

SAMPLE = 16  # items whose vectors and fields are compared


def write_collection(database: VectorDatabase, folder: Path, manifest: Manifest) -> str:
    """Write the collection of a bundle, whole or not at all; returns its name. One that is there is checked.

    Args:
        folder: of the bundle with all its files.
        manifest: sealed.

    Raises:
        BundleDamaged: the server returns other items than were written.
        ConfigError: the database lacks what collections need.
        DataError: a collection cannot hold the items; the text says why.
        Unavailable: the server does not answer.
    """
    name, version = collection_name(manifest.bundle_version), manifest.bundle_version
    present = database.names()
    for each in present:
        if each.startswith(draft_prefix(version)):
            database.drop(each)  # of an export that was killed
    items = CollectionItems.of(folder, manifest, database.limits)
    if name not in present:
        with draft(database, version) as made:
            database.create(made, items, manifest.index, version)
            _compare(database, made, items, manifest)
            database.rename(made, name)
    _compare(database, name, items, manifest)
    return name


def _compare(database: VectorDatabase, name: str, items: CollectionItems, manifest: Manifest) -> None:
    """Check a collection, and compare a sample of its items with those of its bundle.

    Raises:
        BundleDamaged: the collection holds others.
        Unavailable: the server does not answer.
    """
    check_collection(database, name, manifest)
    sample = np.unique(np.linspace(0, len(items.vectors) - 1, SAMPLE).astype(np.int64)).tolist()
    expected = [items.row(n) for n in sample]
    found = database.read(name, [row.item_id for row in expected], items.kinds)
    where = f"collection {name} in {database.title}"
    for n, row in zip(sample, expected, strict=True):
        held, vector = found.get(row.item_id, (None, None))
        if held != row:
            raise BundleDamaged(f"{where}: holds another item {n} than the bundle")
        if not np.array_equal(vector, items.vectors[n]):  # type: ignore[arg-type]  # found, as its row
            raise BundleDamaged(f"{where}: holds another vector of item {n} than the bundle")
