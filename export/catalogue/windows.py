"""Vectors a window at a time: in it, records of like length go together, so that padding costs little."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from export.backends import Encode
from export.catalogue.records import WINDOW, Records, Values
from protos.errors import DataError, InvalidInput
from protos.features import Arrays, TowerInputs

BATCH = 64

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


def encoded_windows(
    encode: Encode,
    inputs: TowerInputs,
    records: Records,
    advance: Callable[[int], None],
    first: int = 0,
) -> Iterator[Vectors]:
    """Vectors (n, D) of `WINDOW` records at a time, the last time maybe fewer, each in its record's place.

    Args:
        advance: told after each batch how many records it had.
        first: where to begin, a multiple of `WINDOW`, so that batches are those of a run from 0.

    Raises:
        InvalidInput: a value does not fit its feature; the text names the record's row, from 1.
        DataError: there are not as many records as there were to be.
    """
    begin = first
    for values in records.slices(WINDOW, first):
        size = len(next(iter(values.values())))
        vectors: Vectors | None = None
        for rows in _batches(inputs, values, size):
            encoded = encode(_arrays(inputs, values, rows, begin, records.name))
            if vectors is None:
                vectors = np.empty((size, encoded.shape[1]), np.float32)
            vectors[rows] = encoded
            advance(len(rows))
        assert vectors is not None  # no slice is empty
        yield vectors
        begin += size
    if begin != len(records):
        raise DataError(f"{records.name}: expected {len(records)} records, got {begin}")


def _batches(inputs: TowerInputs, values: Values, size: int) -> Iterator[Rows]:
    """Rows of a window, the shortest first, up to `BATCH` of them at a time."""
    order = np.argsort(inputs.lengths(values, size), kind="stable")
    for at in range(0, size, BATCH):
        yield order[at : at + BATCH]


def _arrays(inputs: TowerInputs, values: Values, rows: Rows, begin: int, name: str) -> Arrays:
    try:
        return inputs.to_arrays(_of(values, rows))
    except InvalidInput:
        for row in sorted(rows):
            try:
                inputs.to_arrays(_of(values, [row]))
            except InvalidInput as error:
                place = f"row {begin + row + 1} of {name}"
                raise InvalidInput(error.field, f"{place}: {error.reason}") from None
        raise


def _of(values: Values, rows: Sequence[int] | Rows) -> dict[str, list[Any]]:
    return {name: [column[row] for row in rows] for name, column in values.items()}
