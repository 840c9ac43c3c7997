"""A whole table from a CSV, TSV, JSONL or Parquet file; `table_slices` says what is in one."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from protos.errors import DataError
from train.sources.table_slices import read_slices

SLICE = 65_536  # rows whose cells are held as Python's objects at a time


def read_table(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """The named columns of the table at `path`, in that order.

    Raises:
        DataError: the file is missing, has another ending, is damaged or empty, or lacks a column.
    """
    slices = list(read_slices(path, columns, SLICE))
    if not slices:
        raise DataError(f"{path}: expected at least one row, got an empty table")
    try:
        return pl.concat(slices, how="vertical_relaxed")  # a slice may hold whole numbers, or nulls, alone
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: values of a column are of different types: {error}") from None
