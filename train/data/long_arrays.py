"""Arrays that are as long as the data: made piece by piece, and kept in a file where they are large.

    writer = ArrayWriter(np.int32)
    for piece in pieces(numbers):
        writer.append(piece + 1)
    found = writer.finish()

A large array is a mapped file in the cache, without a name. The system takes its memory back where it needs
it, and the disk's space is free again once the array is gone.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from twinspire.protos.errors import DataError
from twinspire.train import paths

LARGE = 64 << 20  # bytes; a larger array is in a file
PIECE = 1 << 20  # numbers

Rows = npt.NDArray[np.int64]


class ArrayWriter:
    """Collects the pieces of one array."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self._pieces: list[npt.NDArray[Any]] = []
        self._size = 0  # numbers in `_pieces` and in the file
        self._file: BinaryIO | None = None

    def append(self, values: npt.NDArray[Any]) -> None:
        """Add some numbers at the end.

        Raises:
            DataError: there is no room for the file.
        """
        self._pieces.append(values.astype(self._dtype))
        self._size += len(values)
        if self._size * self._dtype.itemsize <= LARGE:
            return
        with told_as_data_error():
            self._file = self._file or temporary_file()
            for piece in self._pieces:
                self._file.write(piece.data)
            self._file.flush()
        self._pieces.clear()

    def finish(self) -> npt.NDArray[Any]:
        """The array, which can be changed."""
        if self._file is None:
            return np.concatenate([np.empty(0, self._dtype), *self._pieces])
        with self._file as file:
            return np.memmap(file, self._dtype, "r+").view(np.ndarray)


def temporary_file() -> BinaryIO:
    """A new file in the cache without a name, whose space is free once nothing has it open or mapped."""
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=paths.CACHE)


@contextmanager
def told_as_data_error() -> Iterator[None]:
    """Raise a `DataError` where a temporary file cannot be written."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{paths.CACHE}: data cannot be kept there for now: {error.strerror}") from None


def pieces(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Views of `PIECE` numbers, one after another."""
    for at in range(0, len(values), PIECE):
        yield values[at : at + PIECE]


def gather(values: npt.NDArray[Any], places: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
    """The values at some places."""
    writer = ArrayWriter(values.dtype)
    for piece in pieces(places):
        writer.append(values[piece])
    return writer.finish()


def bincount(numbers: npt.NDArray[np.integer], size: int) -> Rows:
    """int64 (size,): how often each number occurs; as `np.bincount`, with memory for a piece."""
    found = np.zeros(size, np.int64)
    for piece in pieces(numbers):
        found += np.bincount(piece, minlength=size)
    return found


def is_ascending(numbers: npt.NDArray[np.integer], strictly: bool = False) -> bool:
    """Whether no number is smaller than the one before it; with `strictly`, whether each is larger."""
    least = 1 if strictly else 0
    first = np.array([each[0] for each in pieces(numbers)])
    last = np.array([each[-1] for each in pieces(numbers)])
    return bool((first[1:] - last[:-1] >= least).all()) and all(
        (np.diff(each) >= least).all() for each in pieces(numbers)
    )
