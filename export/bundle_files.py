"""The files of a bundle that do not depend on how it was made: its items, its reports, and its folder.

Both `bundle_builder.py`, which exports a training run, and `refresh/`, which makes a new bundle of a released
one, write bundles through this module.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from twinspire.export.bundles import BUNDLES
from twinspire.export.encoding.digests import Digests
from twinspire.protos import bundle
from twinspire.protos.files import atomic_directory
from twinspire.protos.filter_kinds import FilterKind, Parsed
from twinspire.protos.filters import build_column, write_filters
from twinspire.protos.vector_databases.collection import write_collection
from twinspire.protos.vector_databases.database import database_of

Reports = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class ItemColumns:
    """What a bundle holds of its N items beside their vectors, in the order of the vectors.

    Args:
        ids: of the items.
        popularity: share of the training interactions of each.
        fields: display field -> text of each item, None where it is absent.
        digests: of what the item tower reads, uint8 (N, 16).
        kinds: filter field -> type.
        filters: filter field -> value of each item, as `parse_value` returns it.
    """

    ids: Sequence[str]
    popularity: Sequence[float]
    fields: Mapping[str, Sequence[str | None]]
    digests: Digests
    kinds: Mapping[str, FilterKind] = field(default_factory=dict)
    filters: Mapping[str, Sequence[Parsed]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write `items.json`, `item_digests.npy` and, if there are filter fields, `filters.npz`."""
        content = {"ids": self.ids, "popularity": self.popularity, "fields": self.fields}
        (folder / bundle.ITEMS).write_text(json.dumps(content, ensure_ascii=False))
        np.save(folder / bundle.DIGESTS, self.digests, allow_pickle=False)
        if self.kinds:
            columns = {name: build_column(kind, self.filters[name]) for name, kind in self.kinds.items()}
            write_filters(folder, columns)


def write_bundle(make: Callable[[Path, Path], bundle.Manifest]) -> Path:
    """Write a bundle into the cache, atomically; returns its folder.

    Args:
        make: fills the first folder with all files but the manifest, which it returns; the second one is for
            its own files, and is removed.
    """
    with atomic_directory.draft(BUNDLES, ".making-") as made:
        folder, scratch = made / "bundle", made / "variants"
        for each in (folder, scratch, folder / bundle.REPORTS):
            each.mkdir()
        manifest = make(folder, scratch)
        if manifest.is_remote:  # otherwise the files need not be read for their hashes
            _publish(folder, manifest.sealed(bundle.records(folder)))

        def fill(draft: Path) -> None:
            for path in folder.iterdir():
                path.rename(draft / path.name)

        return bundle.write(BUNDLES, manifest, fill)


def publish(folder: Path) -> None:
    """Write what the index of a bundle keeps outside of it, if it is not there; otherwise compare it.

    Args:
        folder: of a bundle that has been verified.

    Raises:
        BundleDamaged: what is there is not the bundle's.
        Unavailable: a server of the index does not answer.
    """
    manifest = bundle.read_manifest(folder)
    if manifest.is_remote:
        _publish(folder, manifest)


def _publish(folder: Path, manifest: bundle.Manifest) -> None:
    with closing(database_of(manifest.index.kind)()) as database:
        write_collection(database, folder, manifest)


def write_reports(reports: Reports, folder: Path) -> None:
    """Write each report as JSON into a bundle's folder."""
    for name, report in reports.items():
        text = json.dumps(report, indent=2, sort_keys=True)
        (folder / bundle.REPORTS / f"{name}.json").write_text(text + "\n")


def display_text(value: Any) -> str | None:
    """A value of a table as the text of a display field."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, pl.Series):
        return ", ".join(map(str, value))
    return None if value is None else str(value)
