"""A catalogue as it lies in files: whoever maps them shares their memory, and makes no object per item.

The items are those of a `PackedCatalogue`. Their ids and display fields are read out of it when somebody asks
for them. The row of an id is found in a table of slots: an id's first slot follows from its CRC-32, and where
that is taken by another id, the next slot that is free is its own (open addressing, linear probing). A slot
holds the CRC-32 and the row, so an id that the catalogue lacks is hardly ever compared with one that it has.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from serving.catalogue import Catalogue
from serving.packed import PackedCatalogue

FREE = 2**64 - 1  # a slot that holds nothing; no row is that high
ROW = 2**32 - 1  # the part of a slot that is a row


class MappedCatalogue(Catalogue):
    """A `Catalogue` of items that have been packed.

    Args:
        packed: the N items.
        names: of the display fields, in their order.
        slots: as `slots_of` makes them, of the ids.
        ranking: rows (N,), the most popular first.
        shares: popularity (N,) by row.
    """

    def __init__(
        self,
        packed: PackedCatalogue,
        names: Sequence[str],
        slots: Sequence[int],
        ranking: Sequence[int],
        shares: Sequence[float],
    ) -> None:
        self.packed = packed
        self.ids = _Ids(packed)
        self.ranking, self.shares = ranking, shares
        self._rows = _Rows(self.ids, slots)
        self._names = names

    def fields(self, row: int) -> dict[str, str]:
        """The display fields of an item; one that it lacks is left out."""
        fields = self.packed.hit(row).fields
        return {name: fields[name] for name in self._names if name in fields}


def slot_count(count: int) -> int:
    """Slots for so many ids: a power of two of which they take a half at most."""
    return 1 << (2 * count - 1).bit_length()


def slots_of(ids: Iterable[str], count: int) -> npt.NDArray[np.uint64]:
    """The slots of `count` ids that differ, uint64 (`slot_count(count)`,)."""
    slots = np.full(slot_count(count), FREE, np.uint64)
    view, mask = slots.data, len(slots) - 1
    for row, item_id in enumerate(ids):
        code = _code(item_id)
        place = code & mask
        while view[place] != FREE:
            place = place + 1 & mask
        view[place] = code << 32 | row
    return slots


class _Ids(Sequence[str]):
    """Ids by row, read out of the items when they are asked for."""

    def __init__(self, packed: PackedCatalogue) -> None:
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        return str(self._packed.hit(range(len(self))[row]).id)


class _Rows:
    """Rows by id. One that was asked for is remembered, and then costs little more than in a dictionary."""

    def __init__(self, ids: Sequence[str], slots: Sequence[int]) -> None:
        self._ids, self._slots = ids, slots
        self._mask = len(slots) - 1
        self._known: dict[str, int] = {}

    def get(self, item_id: str, /) -> int | None:
        row = self._known.get(item_id)
        if row is None:
            row = self._find(item_id)
            if row is not None:
                self._known[item_id] = row
        return row

    def _find(self, item_id: str) -> int | None:
        code, slots = _code(item_id), self._slots
        place = code & self._mask
        while (slot := slots[place]) != FREE:
            if slot >> 32 == code and self._ids[slot & ROW] == item_id:
                return slot & ROW
            place = place + 1 & self._mask
        return None


def _code(item_id: str) -> int:
    return zlib.crc32(item_id.encode("utf-8", "surrogatepass"))  # a query's id may be no Unicode
