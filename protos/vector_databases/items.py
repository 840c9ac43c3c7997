"""The items of a bundle as a collection holds them, and what an engine can hold of an item."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import ITEMS, Manifest
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import DataError
from twinspire.protos.filter_kinds import KINDS
from twinspire.protos.filters import column_values, read_filters
from twinspire.protos.nearest.vectors import vectors_of

Vectors = npt.NDArray[np.float32]


class ItemRow(NamedTuple):
    """What a collection holds of an item beside its vector.

    Args:
        display: the display fields as JSON: {"<field>": "<text>"}, without those that it lacks.
        values: of the filter fields in ascending order of their names: a string, list of strings, float,
            bool, or microseconds since 1970; None where the item has none.
    """

    item_id: str
    display: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Limits:
    """What a collection of an engine can hold.

    Args:
        fields: filter fields.
        string_bytes: of an id, or of a string of a filter field, in UTF-8.
        display_bytes: of the display fields as JSON.
        strings: of an item in a field.
        strings_bytes: of all strings of an item in a field.
        refused: a character that no string may have; `refused_name` names such characters.
    """

    engine: str
    fields: int
    string_bytes: int
    display_bytes: int
    strings: int
    strings_bytes: int
    refused: re.Pattern[str]
    refused_name: str

    def holds(self, text: str) -> bool:
        """Whether a collection can hold a string; none holds lone surrogates."""
        if self.refused.search(text):
            return False
        try:
            return len(text.encode()) <= self.string_bytes
        except UnicodeEncodeError:
            return False


class CollectionItems:
    """What the collection of a bundle holds of its N items.

    Args:
        limits: of the engine.
        vectors: float32 (N, D).
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
        vectors: Vectors,
        kinds: Sequence[str],
        ids: Sequence[str],
        fields: dict[str, Sequence[str | None]],
        filters: Sequence[Sequence[Any]],
    ) -> None:
        self.vectors, self.kinds = vectors, kinds
        self._ids, self._fields, self._filters = ids, fields, filters
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
            vectors_of(folder, manifest),
            [manifest.filters[name] for name, _ in columns],
            table["ids"],
            table["fields"],
            [column_values(column, manifest.count) for _, column in columns],
        )

    def row(self, n: int) -> ItemRow:
        """What a collection holds of an item beside its vector.

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
