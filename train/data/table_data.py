"""The keys of `[data]` that the kinds `files` and `events` share: how their tables are read."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from twinspire.protos.errors import DataError
from twinspire.train.data.cleaning import Cast
from twinspire.train.data.columns import Columns, read_column_slices, read_columns
from twinspire.train.data.layouts import Layout
from twinspire.train.data.source import SourceConfig, SourceContext
from twinspire.train.data.table_files import find_data_file


@dataclass(frozen=True)
class TableData(SourceConfig):
    """A table of items, and a table of pairs or events, each row of which names an item.

    Tables are CSV, TSV, JSONL, Parquet, a folder of Parquet files, or what `layouts` describes. Paths are
    relative to the TOML file; a file that is not there is looked for in the folder that the environment
    variable TWINSPIRE_DATA names.

    Args:
        time: column of the rows with numbers or ISO dates.
        label: column of the rows with a number; without it, every row is positive.
        positive_from: with `label`, a row is positive if its label is at least this; without it, if its label
            is above 0.
        weight: column of the rows with the weight in the loss.
        unknown_items: what becomes of a row whose item is not in the items table, such as one that was
            withdrawn: `refuse` is an error, `drop` leaves the row out and counts it.
        blank_rows: what becomes of an event without a user, an item or a time, and of a pair without an item,
            a time or any value of its query: `refuse` is an error, `drop` leaves the row out and counts it.
        item_id: the items table's column of unique ids.
        display: columns of the items that an answer shows beside an id.
        casts: column of the rows -> type that it is read as; see `train/data/cleaning.py`.
        item_casts: the same of the items table.
        layouts: file -> how it is written, where its suffix does not say it; see `train/data/layouts.py`.
    """

    time: str = field(default="", kw_only=True)
    label: str = field(default="", kw_only=True)
    positive_from: float | None = field(default=None, kw_only=True)
    weight: str = field(default="", kw_only=True)
    unknown_items: Literal["refuse", "drop"] = field(default="refuse", kw_only=True)
    blank_rows: Literal["refuse", "drop"] = field(default="refuse", kw_only=True)
    item_id: str = field(default="item_id", kw_only=True)
    display: tuple[str, ...] = field(default=(), kw_only=True)
    casts: dict[str, Cast] = field(default_factory=dict, kw_only=True)
    item_casts: dict[str, Cast] = field(default_factory=dict, kw_only=True)
    layouts: dict[str, Layout] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positive_from is not None and not self.label:
            raise ValueError("positive_from: goes with label, the column of numbers that it is held against")

    def read_rows(
        self, context: SourceContext, file: str, names: Iterable[str], required: Iterable[Sequence[str]]
    ) -> tuple[Columns, dict[str, int]]:
        """The named columns of the table of pairs or events, and the number of rows left out by reason.

        Args:
            required: groups of columns; with `blank_rows = "drop"` a row is left out that has no value in one
                of them.

        Raises:
            DataError: as `read_columns`.
        """
        path, layout = find_data_file(context.base, file), self.layouts.get(file)
        return self._without_blank(read_columns(path, names, layout, file, casts="casts"), required)

    def read_row_slices(
        self, context: SourceContext, file: str, names: Iterable[str], required: Iterable[Sequence[str]]
    ) -> Iterator[tuple[Columns, dict[str, int]]]:
        """The same, some rows of a large table at a time; at least one slice."""
        path, layout = find_data_file(context.base, file), self.layouts.get(file)
        for slice_ in read_column_slices(path, names, layout, file, casts="casts"):
            yield self._without_blank(slice_, required)

    def _without_blank(
        self, read: Columns, required: Iterable[Sequence[str]]
    ) -> tuple[Columns, dict[str, int]]:
        kept = read.without_blank(*required) if self.blank_rows == "drop" else read
        return kept, _left_out("blank row", read, kept)

    def of_known_items(
        self, rows: Columns, column: str, item_ids: pl.Series, reason: str
    ) -> tuple[Columns, dict[str, int]]:
        """The rows whose item is in the items table, and the number of others; all with `refuse`."""
        if self.unknown_items == "refuse":
            return rows, {}
        kept = rows.keep(rows.required(column, "an item id").is_in(item_ids.implode()))
        return kept, _left_out(reason, rows, kept)

    def check_layouts(self, *files: str) -> None:
        """Refuse a layout of a file that is not read.

        Raises:
            DataError: there is one.
        """
        for name in self.layouts:
            if name not in files:
                read = ", ".join(filter(None, files))
                raise DataError(f"data.layouts: no such file is read: {name!r}; those that are: {read}")


def _left_out(reason: str, before: Columns, after: Columns) -> dict[str, int]:
    count = before.frame.height - after.frame.height
    return {reason: count} if count else {}
