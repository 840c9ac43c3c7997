"""Rows to items and back: ids, popularity and display fields of the bundle's catalogue."""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt

from protos.bundle import ITEMS, Manifest
from protos.documents import parse_json
from protos.errors import BundleDamaged, UnknownItem
from protos.features import LARGEST

RANKING_STEP = 4096  # items of the ranking that are compared with a filter at once


class Rows(Protocol):
    """Maps item ids to rows, as a dictionary does."""

    def get(self, item_id: str, /) -> int | None:
        """The row of an item; None if there is no such item."""


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
        manifest: of that bundle.

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

    @property
    def sequence(self) -> int:
        """All changes of live items up to this sequence are in the catalogue; 0 without live items."""
        return 0

    @property
    def bundle(self) -> "Catalogue":
        """The bundle's items alone, without live items; it never changes."""
        return self

    def find(self, item_id: str) -> int | None:
        """The row of an item; None if there is no such item."""
        return self._rows.get(item_id)

    def row(self, item_id: str, field: str) -> int:
        """The row of an item.

        Raises:
            UnknownItem: the catalogue does not hold it; `field` is the request's field with the id.
        """
        row = self._rows.get(item_id)
        if row is None:
            raise UnknownItem(field, f"the catalogue holds no item {item_id!r}")
        return row

    def rows(self, item_ids: Iterable[str]) -> set[int]:
        """The rows of items; ids that the catalogue does not hold are skipped."""
        found = map(self._rows.get, item_ids)
        return {row for row in found if row is not None}

    def current(self, rows: frozenset[int]) -> frozenset[int]:
        """The rows that hold the items of `rows` now, after live items have replaced or deleted some."""
        return rows

    @cached_property
    def knows_popular(self) -> bool:
        """Whether some items with interactions are more popular than others.

        If each item has one interaction, for example because each is one document, the "most popular" items
        would be the first rows.
        """
        shares = np.asarray(self.shares)
        positive = shares[shares > 0]
        return bool(positive.size and positive.max() > positive.min())

    def popular(self, k: int, excluded: Collection[int]) -> tuple[list[int], list[float]]:
        """The `k` most popular items without the `excluded` rows: their rows and popularities.

        The most popular item is first; of equally popular items, the one with the lower row.
        """
        rows = [row for row in self.ranking[: k + len(excluded)] if row not in excluded]
        return rows[:k], [self.shares[row] for row in rows[:k]]

    def popular_passing(
        self, k: int, excluded: Collection[int], mask: npt.NDArray[np.bool_]
    ) -> tuple[list[int], list[float]]:
        """As `popular`, among the items that pass a filter.

        Args:
            k: items wanted.
            excluded: rows to leave out.
            mask: whether each item passes (N,).
        """
        ranking = np.asarray(self.ranking)
        rows: list[int] = []
        for start in range(0, len(ranking), RANKING_STEP):
            block = ranking[start : start + RANKING_STEP]
            rows += [row for row in block[mask[block]].tolist() if row not in excluded]
            if len(rows) >= k:
                break
        return rows[:k], [self.shares[row] for row in rows[:k]]

    def fields(self, row: int) -> dict[str, str]:
        """The display fields of an item; one that it lacks is left out."""
        columns = self._columns.items()
        return {name: value for name, column in columns if (value := column[row]) is not None}


class Fields(Mapping[str, str]):
    """The display fields of an item, read on access, because few hits of a query are looked at.

    Args:
        catalogue: that holds the item.
        row: of the item.
    """

    __slots__ = ("_catalogue", "_row", "_values")
    _values: dict[str, str]  # set on first access

    def __init__(self, catalogue: Catalogue, row: int) -> None:
        self._catalogue, self._row = catalogue, row

    def __getitem__(self, name: str) -> str:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return repr(self._read())

    def __reduce__(self) -> tuple[type[dict[str, str]], tuple[dict[str, str]]]:
        return dict, (self._read(),)  # a pickled copy does not hold the catalogue

    def _read(self) -> dict[str, str]:
        try:
            return self._values
        except AttributeError:
            self._values = self._catalogue.fields(self._row)
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
