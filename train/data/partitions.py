"""Tables that may be larger than memory, in partitions: each is a frame, and one is in memory at a time.

    writer = PartitionWriter()
    for frame in frames:
        writer.append(frame)
    table = writer.finish()
    longer = table.map(lambda frame: frame.with_columns(...))

A small table is kept in memory. A large one is a file in the cache, without a name, which holds one Parquet
table after another; its space is free once the table is gone.
"""

import io
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO

import polars as pl
from polars.io.plugins import register_io_source

from twinspire.train.data.long_arrays import LARGE, temporary_file, told_as_data_error

Range = tuple[int, int]  # place of a Parquet table in the file, and its size in bytes


class _Frames:
    """Frames that are in memory until they are large, then all in one file."""

    def __init__(self) -> None:
        self._frames: list[pl.DataFrame] = []
        self._size = 0  # bytes of the frames in memory
        self._file: BinaryIO | None = None
        self._ranges: list[Range] = []

    def append(self, frame: pl.DataFrame) -> int:
        """Add a frame, and return its number.

        Raises:
            DataError: there is no room for the file.
        """
        self._frames.append(frame)
        self._size += int(frame.estimated_size())
        number = len(self._ranges) + len(self._frames) - 1
        if self._file is not None or self._size > LARGE:
            with told_as_data_error():
                if self._file is None:
                    self._file = temporary_file()
                    weakref.finalize(self, _close, self._file)
                for each in self._frames:
                    self._ranges.append(_append(self._file, each))
                self._file.flush()
            self._frames.clear()
        return number

    def read(self, number: int, columns: list[str] | None) -> pl.DataFrame:
        """Some columns of a frame; all if None."""
        if self._file is None:
            frame = self._frames[number]
            return frame if columns is None else frame.select(columns)
        at, size = self._ranges[number]
        return pl.read_parquet(_read(self._file, at, size), columns=columns)


def _close(file: BinaryIO) -> None:
    with suppress(OSError):  # of a full disk, which has been told
        file.close()


def _append(file: BinaryIO, frame: pl.DataFrame) -> Range:
    at = file.tell()
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="lz4", statistics=False)
    return at, file.write(buffer.getbuffer())


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    pieces = []
    while piece := os.pread(file.fileno(), size, at):  # Linux reads at most 2 GiB at once
        pieces.append(piece)
        at, size = at + len(piece), size - len(piece)
    return b"".join(pieces)


class Partitions:
    """A table in partitions, each a frame with the same columns. Its rows have an order."""

    def __init__(self, frames: _Frames, numbers: list[list[int]], schema: pl.Schema, height: int) -> None:
        self._frames = frames
        self._numbers = numbers  # of the frames of each partition
        self.schema = schema
        self.height = height

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "Partitions":
        """The one partition that is a frame."""
        writer = PartitionWriter()
        writer.append(frame)
        return writer.finish()

    def __len__(self) -> int:
        """The number of partitions."""
        return len(self._numbers)

    def __iter__(self) -> Iterator[pl.DataFrame]:
        return self._read(None)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return self.schema.names()

    def select(self, *names: str) -> Iterator[pl.DataFrame]:
        """Some columns of each partition; "^name$" is a column that may be missing."""
        return self._read(pl.DataFrame(schema=self.schema).select(names).columns)

    def collect(self) -> pl.DataFrame:
        """All partitions as one frame, in memory."""
        return pl.concat(self)

    def lazy(self) -> pl.LazyFrame:
        """The table as a query, whose result Polars can write as it is read."""

        def batches(
            columns: list[str] | None, predicate: pl.Expr | None, most: int | None, _size: int | None
        ) -> Iterator[pl.DataFrame]:
            for frame in self._read(columns):
                rows = frame if most is None else frame.head(most)
                most = None if most is None else most - rows.height
                yield rows if predicate is None else rows.filter(predicate)

        return register_io_source(batches, schema=self.schema)

    def map(self, function: Callable[[pl.DataFrame], pl.DataFrame]) -> "Partitions":
        """The results of a function for every partition, which is called for one after another, once."""
        writer = PartitionWriter()
        for frame in self:
            writer.append(function(frame))
        return writer.finish()

    def _read(self, columns: list[str] | None) -> Iterator[pl.DataFrame]:
        for numbers in self._numbers:
            yield pl.concat([self._frames.read(number, columns) for number in numbers])


class PartitionWriter:
    """Collects the partitions of a table, in order; or its rows, with the number of the partition of each."""

    def __init__(self) -> None:
        self._frames = _Frames()
        self._numbers: dict[int, list[int]] = {}
        self._schema: pl.Schema | None = None
        self._height = 0

    def append(self, frame: pl.DataFrame) -> None:
        """Add a partition at the end.

        Raises:
            DataError: there is no room for the file.
        """
        self._add(frame, len(self._numbers))

    def distribute(self, frame: pl.DataFrame, number: str) -> None:
        """Add each row at the end of its partition, the number of which, from 0, is in a column.

        This column is left out.

        Raises:
            DataError: there is no room for the file.
        """
        self._schema = self._schema or frame.drop(number).schema
        parts = frame.partition_by(number, maintain_order=True, include_key=False, as_dict=True)
        for (key,), rows in parts.items():
            self._add(rows, key)

    def finish(self) -> Partitions:
        """The table, after at least one frame; it has at least one partition."""
        assert self._schema is not None
        if not self._numbers:
            self._add(pl.DataFrame(schema=self._schema), 0)
        numbers = [self._numbers[key] for key in sorted(self._numbers)]
        return Partitions(self._frames, numbers, self._schema, self._height)

    def _add(self, frame: pl.DataFrame, number: int) -> None:
        self._numbers.setdefault(number, []).append(self._frames.append(frame))
        self._schema = self._schema or frame.schema
        self._height += frame.height
