"""The columns of filter fields: the values of N items, in memory and on disk.

    filters.npz           arrays of each field n, counted from 0 in ascending order of the fields' names

    number, boolean, time   `<n>.values` ascending: float64, int8 (0 or 1), or int64 (microseconds since
                            1970), with `<n>.rows` uint32: the item of each value
    string, strings         `<n>.text` uint8: the distinct strings in UTF-8, ascending and joined, with
                            `<n>.ends` int64 (V,); `<n>.starts` int64 (V + 1,): the items that hold string v
                            are `<n>.rows`[starts[v]:starts[v + 1]], ascending

An item without a value is in no row. The file is neither compressed nor pickled.
"""

import itertools
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import FILTERS, Manifest
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.files.npy_file import stored_arrays
from twinspire.protos.filter_kinds import KINDS, FilterKind, Parsed, parse_value

FilterSchema = Mapping[str, FilterKind]
Rows = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class OrderedColumn:
    """A number, boolean or time of each item that has one.

    Args:
        values: ascending (M,).
        rows: of the items (M,).
    """

    values: npt.NDArray[Any]
    rows: Rows


@dataclass(frozen=True)
class StringColumn:
    """The strings of the items.

    Args:
        text: distinct strings in UTF-8, ascending and joined: uint8.
        ends: where each of them ends in `text` (V,).
        starts: where the items of each begin in `rows` (V + 1,).
        rows: of the items, ascending for each string.
    """

    text: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    rows: Rows


Column = OrderedColumn | StringColumn


def build_column(kind: FilterKind, values: Sequence[Parsed]) -> Column:
    """The column of N items.

    Args:
        values: for each item, what `parse_value` has returned.
    """
    if (dtype := KINDS[kind].dtype) is not None:
        rows = np.array([row for row, value in enumerate(values) if value is not None], np.uint32)
        present = np.array([value for value in values if value is not None], dtype)
        order = np.argsort(present, kind="stable")
        return OrderedColumn(present[order], rows[order])
    places: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        for text in (value,) if isinstance(value, str) else value or ():  # type: ignore[union-attr]
            places.setdefault(text, []).append(row)
    encoded = sorted((text.encode(), rows) for text, rows in places.items())
    lengths = np.array([len(rows) for _, rows in encoded], np.int64)
    return StringColumn(
        np.array(bytearray(b"".join(text for text, _ in encoded)), np.uint8),
        np.cumsum([len(text) for text, _ in encoded], dtype=np.int64),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array([row for _, rows in encoded for row in rows], np.uint32),
    )


def column_values(column: Column, count: int) -> list[Parsed]:
    """The value of each of N items, from their column; the strings of an item are in ascending order."""
    found: list[Any] = [None] * count
    if isinstance(column, OrderedColumn):
        for row, value in zip(column.rows.tolist(), column.values.tolist(), strict=True):
            found[row] = value
        return found
    begins = np.concatenate([[0], column.ends[:-1]]).tolist() if len(column.ends) else []
    for n, (begin, end) in enumerate(zip(begins, column.ends.tolist(), strict=True)):
        text = column.text[begin:end].tobytes().decode()
        for row in column.rows[column.starts[n] : column.starts[n + 1]].tolist():
            found[row] = (*(found[row] or ()), text)
    return found


def build_columns(schema: FilterSchema, items: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """The columns of items, by field.

    Args:
        schema: filter field -> type.
        items: for each item, field -> raw value, as `parse_value` takes it; a field may be missing.

    Raises:
        InvalidInput: a value is of another type; the text names item and field.
    """
    return {
        field: build_column(
            kind, [parse_value(kind, item.get(field), f"[{n}].{field}") for n, item in enumerate(items)]
        )
        for field, kind in schema.items()
    }


def write_filters(folder: Path, columns: Mapping[str, Column]) -> None:
    """Write the columns of a bundle, by field."""
    arrays: dict[str, Any] = {}
    for n, (_, column) in enumerate(sorted(columns.items())):
        arrays |= {f"{n}.{name}": array for name, array in vars(column).items()}
    with (folder / FILTERS).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_filters(folder: Path, manifest: Manifest) -> dict[str, Column]:
    """The columns of a bundle whose files have been verified, by field.

    Raises:
        BundleDamaged: the file does not hold the columns that the manifest describes.
    """
    if not manifest.filters:
        return {}
    path = folder / FILTERS
    try:
        arrays = stored_arrays(path)
        columns = {
            field: _column(f"{n}.", kind, arrays, manifest.count)
            for n, (field, kind) in enumerate(sorted(manifest.filters.items()))
        }
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise BundleDamaged(f"{path}: {error}") from None
    if arrays:
        raise BundleDamaged(f"{path}: holds {sorted(arrays)}, which the manifest's filters do not name")
    return columns


def _column(prefix: str, kind: FilterKind, arrays: dict[str, npt.NDArray[Any]], count: int) -> Column:
    """One column, taken out of `arrays`; it is checked here, and searches do not check it again.

    Raises:
        KeyError, ValueError: an array is missing or wrong.
    """

    def take(name: str, dtype: Any) -> npt.NDArray[Any]:
        array = arrays.pop(prefix + name)
        if array.dtype != dtype or array.ndim != 1:
            raise ValueError(
                f"{prefix}{name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} (n,)"
            )
        return array

    def expect(holds: Any, what: str) -> None:
        if not holds:
            raise ValueError(f"{prefix}{what}")

    rows = take("rows", np.uint32)
    expect(not len(rows) or rows.max() < count, f"rows: expected rows below {count}")
    if (stored := KINDS[kind].dtype) is not None:
        values = take("values", stored)
        expect(len(values) == len(rows), "values: expected one for each row")
        expect(np.isfinite(values).all() and (values[1:] >= values[:-1]).all(), "values: expected ascending")
        expect(kind != "boolean" or np.isin(values, (0, 1)).all(), "values: expected 0 or 1")
        expect(len(np.unique(rows)) == len(rows), "rows: an item stands in it twice")
        return OrderedColumn(values, rows)
    text, ends, starts = take("text", np.uint8), take("ends", np.int64), take("starts", np.int64)
    expect(len(starts) == len(ends) + 1, "starts: expected one more than ends")
    for name, array, last in (("ends", ends, len(text)), ("starts", starts, len(rows))):
        expect((np.diff(array, prepend=0) >= 0).all(), f"{name}: expected ascending")
        expect(not len(array) or array[-1] == last, f"{name}: expected {last} at its end")
    expect(starts[0] == 0, "starts: expected 0 first")
    begins = np.concatenate([[0], ends[:-1]]).tolist() if len(ends) else []
    strings = [text[a:b].tobytes() for a, b in zip(begins, ends.tolist(), strict=True)]
    expect(all(a < b for a, b in itertools.pairwise(strings)), "text: expected ascending strings")
    for each in strings:
        each.decode()  # a UnicodeDecodeError is a ValueError
    inside = np.ones(len(rows), np.bool_)  # whether a row must be above the one before it
    inside[starts[starts < len(rows)]] = False
    expect((np.diff(rows.astype(np.int64), prepend=-1)[inside] > 0).all(), "rows: expected ascending")
    if not KINDS[kind].is_list:
        expect(len(np.unique(rows)) == len(rows), "rows: an item stands in it twice")
    return StringColumn(text, ends, starts, rows)
