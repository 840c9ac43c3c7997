"""Rows to items and back: ids, popularity and display fields of the bundle's catalogue."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from twinspire.protos.bundle import ITEMS, Manifest
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.features import LARGEST


class Catalogue:
    """Ids, popularity and display fields of N items, in the order of the vectors.

    Args:
        folder: of a bundle whose files have been verified.

    Raises:
        BundleDamaged: the file is not the one that the manifest describes.
    """

    ranking: Sequence[int]  # rows, the most popular first, and among equals the lower one
    shares: Sequence[float]  # popularity by row

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        path = folder / ITEMS
        table = _read(path)
        self.ids: list[str] = table["ids"]
        self._columns: dict[str, list[str | None]] = table["fields"]
        rows = {item_id: row for row, item_id in enumerate(self.ids)}
        popularity = table["popularity"]
        lengths = {"ids": self.ids, "popularity": popularity, **self._columns}
        for name, values in lengths.items():
            if len(values) != manifest.count:
                raise BundleDamaged(
                    f"{path}: {len(values)} {name}, but the manifest counts {manifest.count} items"
                )
        if len(rows) != len(self.ids):
            raise BundleDamaged(f"{path}: an item id stands in it twice")
        if set(self._columns) != set(manifest.display_fields):
            raise BundleDamaged(
                f"{path}: holds {sorted(self._columns)}, but the manifest's display fields are "
                f"{sorted(manifest.display_fields)}"
            )

        shares = np.array(popularity, np.float64)
        self._rows = rows
        self.ranking = np.argsort(-shares, kind="stable").data
        self.shares = shares.astype(np.float32).data

    def __len__(self) -> int:
        return len(self.ids)

    def item_id(self, row: int) -> str:
        """The id of the item in a row."""
        return self.ids[row]

    def find(self, item_id: str) -> int | None:
        """The row of an item; None if there is no such item."""
        return self._rows.get(item_id)

    def rows(self, item_ids: Iterable[str]) -> set[int]:
        """The rows of items; ids that the catalogue does not hold are skipped."""
        return {row for row in map(self.find, item_ids) if row is not None}

    @cached_property
    def knows_popular(self) -> bool:
        """Whether some items with interactions are more popular than others.

        If each item has one interaction, for example because each is one document, the "most popular" items
        would be the first rows.
        """
        shares = np.asarray(self.shares)
        positive = shares[shares > 0]
        return bool(positive.size and positive.max() > positive.min())

    def fields(self, row: int) -> dict[str, str]:
        """The display fields of an item; one that it lacks is left out."""
        columns = self._columns.items()
        return {name: value for name, column in columns if (value := column[row]) is not None}


def _read(path: Path) -> dict[str, Any]:
    try:
        table = parse_json(path.read_bytes())
        columns = {"ids": table["ids"], **table["fields"]}
        wrong = next((name for name, values in columns.items() if not _is_strings(values)), None)
        shares = table["popularity"]
    except (ValueError, TypeError, KeyError):
        raise BundleDamaged(f"{path}: expected JSON with ids, popularity and fields") from None
    if wrong is not None or None in table["ids"]:
        raise BundleDamaged(f"{path}: {wrong or 'ids'}: expected a list of strings")
    if not isinstance(shares, list) or not all(type(n) in (int, float) and 0 <= n <= LARGEST for n in shares):
        raise BundleDamaged(f"{path}: popularity: expected a list of numbers, 0 or more")
    return dict(table)


def _is_strings(values: Any) -> bool:
    return isinstance(values, list) and all(value is None or type(value) is str for value in values)
