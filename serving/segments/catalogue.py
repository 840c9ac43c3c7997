"""Rows to items and back: ids, popularity and display fields of the bundle's catalogue."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np

from twinspire.protos.bundle import ITEMS, Manifest
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.features import LARGEST


class Rows(Protocol):
    """Maps item ids to rows, as a dictionary does."""

    def get(self, item_id: str, /) -> int | None:
        """The row of an item; None if there is no such item."""


class HasFields(Protocol):
    """Items with display fields."""

    def fields(self, row: int) -> dict[str, str]:
        """The display fields of an item; one that it lacks is left out."""


class IdsByRow(Sequence[str]):
    """Ids that are made on access; a subclass gives their number and `_id` of a row."""

    @abstractmethod
    def _id(self, row: int) -> str:
        """The id of a row, 0 to `len(self)` - 1."""

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        rows = range(len(self))[row]
        return self._id(rows) if isinstance(rows, int) else [self._id(each) for each in rows]


class Catalogue:
    """Ids, popularity and display fields of N items, in the order of the vectors.

    Args:
        folder: of a bundle whose files have been verified.

    Raises:
        BundleDamaged: the file is not the one that the manifest describes.
    """

    ids: Sequence[str]  # by row
    ranking: Sequence[int]  # rows, the most popular first, and among equals the lower one
    shares: Sequence[float]  # popularity by row
    _rows: Rows

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        path = folder / ITEMS
        table = _read(path)
        self.ids = table["ids"]
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

    def find(self, item_id: str) -> int | None:
        """The row of an item; None if there is no such item."""
        return self._rows.get(item_id)

    def rows(self, item_ids: Iterable[str]) -> set[int]:
        """The rows of items; ids that the catalogue does not hold are skipped."""
        found = map(self._rows.get, item_ids)
        return {row for row in found if row is not None}

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


class Fields(Mapping[str, str]):
    """The display fields of an item, read on access, because few hits of a query are looked at.

    Args:
        items: the items with their fields.
    """

    __slots__ = ("_items", "_row", "_values")
    _values: dict[str, str]  # set on first access

    def __init__(self, items: HasFields, row: int) -> None:
        self._items, self._row = items, row

    def __getitem__(self, name: str) -> str:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return repr(self._read())

    def __reduce__(self) -> tuple[type[dict[str, str]], tuple[dict[str, str]]]:
        return dict, (self._read(),)  # a pickled copy does not hold the items

    def _read(self) -> dict[str, str]:
        try:
            return self._values
        except AttributeError:
            self._values = self._items.fields(self._row)
            return self._values


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
    if not isinstance(shares, list) or not all(map(_is_popularity, shares)):
        raise BundleDamaged(f"{path}: popularity: expected a list of numbers, 0 or more")
    return dict(table)


def _is_popularity(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= LARGEST


def _is_strings(values: Any) -> bool:
    return isinstance(values, list) and all(value is None or type(value) is str for value in values)
