"""Two tables: items, and (query, item) pairs.

    [data]
    kind = "files"
    items = "items.csv"       # item_id,title,price
    pairs = "pairs.jsonl"     # {"query": "...", "item_id": "007"}

Only the columns that the TOML file names are read. An invalid value is an error that names file, row and
column. Repeated pairs and, with `unknown_items = "drop"`, pairs of items that are not in the table are left
out and counted in the report. With `label` each row is an impression: negative and repeated pairs stay.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from twinspire.protos.cli import show_warnings
from twinspire.protos.errors import DataError
from twinspire.protos.features import Side
from twinspire.train.data.cleaning import Cast, cast_columns
from twinspire.train.data.columns import (
    column_names,
    features_of,
    labels_of,
    rows_of,
    weights_of,
)
from twinspire.train.data.item_table import ItemTable
from twinspire.train.data.layouts import Layout
from twinspire.train.data.source import RESERVED, Source, SourceConfig, SourceContext, Tables, check_layouts

MERGED = "pair merged with an equal one"
WARN_MERGED_ABOVE = 0.05  # share of the pairs


@dataclass(frozen=True)
class FilesData(SourceConfig):
    """`[data]` of kind `files`.

    Tables are CSV, TSV, JSONL, Parquet, or what `layouts` describes. Paths are
    relative to the TOML file; a file that is not there is looked for in the folder that the environment
    variable TWINSPIRE_DATA names. A feature names its columns.

    Args:
        items: path of the table of items.
        pairs: path of the table of (query, item) pairs.
        item_id: the items table's column of unique ids.
        pair_item_id: the pairs table's column of item ids; if empty, it has the name of `item_id`.
        display: columns of the items table that an answer shows beside an id.
        label: column of the pairs table with a number; without it, every pair is positive.
        positive_from: with `label`, a pair is positive if its label is at least this; without it, if its
            label is above 0.
        weight: column of the pairs table with the pair's weight in the loss.
        group: column of the pairs table; a split by group keeps all pairs of a group in one part.
        time: column of the pairs table with numbers or ISO dates; a split by time needs it.
        unknown_items: what becomes of a pair whose item is not in the items table, such as one that was
            withdrawn: `refuse` is an error, `drop` leaves the pair out and counts it.
        blank_rows: what becomes of a pair without an item id, a time or any value of its query: `refuse` is
            an error, `drop` leaves the pair out and counts it.
        casts: column of the pairs table -> type that it is read as; see `train/data/cleaning.py`.
        item_casts: the same of the items table.
        layouts: file -> how it is written, where its suffix does not say it; see `train/data/layouts.py`.
    """

    kind: Literal["files"]
    items: str
    pairs: str
    item_id: str = "item_id"
    pair_item_id: str = ""
    display: tuple[str, ...] = ()
    label: str = ""
    positive_from: float | None = None
    weight: str = ""
    group: str = ""
    time: str = ""
    unknown_items: Literal["refuse", "drop"] = "refuse"
    blank_rows: Literal["refuse", "drop"] = "refuse"
    casts: dict[str, Cast] = field(default_factory=dict)
    item_casts: dict[str, Cast] = field(default_factory=dict)
    layouts: dict[str, Layout] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positive_from is not None and not self.label:
            raise ValueError("positive_from: goes with label, the column of numbers that it is held against")

    def target_columns(self, side: Side) -> Mapping[str, str]:
        """The label, and the item of a pair."""
        if side == "item":
            return {}
        item = "pair_item_id" if self.pair_item_id else "item_id"
        keys = [item, *(["label"] if self.label else [])]
        return {getattr(self, key): f"data.{key}" for key in keys}

    def open(self, context: SourceContext) -> Source:
        """The two tables."""
        return FilesSource(self, context)

    def item_table(self) -> ItemTable:
        """The layout, the casts and the column of ids with which `items` is read."""
        layout = self.layouts.get(self.items)
        return ItemTable(self.item_id, self.item_casts, "item_casts", self.items, layout)


@dataclass(frozen=True)
class FilesSource:
    """The table of items, the table of pairs, and maybe a second table of pairs for test."""

    data: FilesData
    context: SourceContext

    def identity(self) -> str:
        """sha256 of the files.

        Raises:
            DataError: a file is missing.
        """
        return self.context.identity_of(self.data.items, self.data.pairs)

    def read(self) -> Tables:
        """Items and pairs.

        Raises:
            DataError: a value is invalid; the text names file, row and column.
        """
        data, test_file = self.data, self.context.test_file
        check_layouts(data.layouts, (data.items, data.pairs, test_file))
        items, table = self.context.read_items(data.item_table(), data.display)
        if not (data.group or data.time or test_file):
            self._warn(
                "neither data.group nor data.time is set, so a split holds out whole items: test asks for "
                'items without training pairs. Set data.time and split.by = "time", or set data.group'
            )
        pairs, dropped = self._pairs(data.pairs, items["item_id"], table)
        merged = dropped.get(MERGED, 0)
        share = merged / max(1, pairs.height + merged)
        if share > WARN_MERGED_ABOVE:
            coarse, absent = (
                f"the times in {data.time!r} are coarse",
                "set data.time, and clicks at different times count",
            )
            self._warn(
                f"{share:.0%} of the pairs repeat an earlier one and are dropped, so how often a query led "
                f"to an item is partly lost: {coarse if data.time else absent}"
            )
        if test_file:
            tested, counts = self._pairs(test_file, items["item_id"], table)
            pairs, both = _with_test_file(pairs, tested, column_names(self.context.query))
            dropped = dict(Counter(dropped) + Counter(counts) + Counter(both))
        origin = {"items_file": data.items, "pairs_file": data.pairs}
        origin |= {"test_file": test_file} if test_file else {}
        unit = "groups" if data.group else "items"
        return Tables(items, pairs, data.display, dropped, origin=origin, unit=unit)

    def _warn(self, text: str) -> None:
        show_warnings([f"{self.data.pairs}: {text}"], self.context.console)

    def _pairs(self, file: str, item_ids: pl.Series, table: str) -> tuple[pl.DataFrame, dict[str, int]]:
        data, query = self.data, self.context.query
        id_column = data.pair_item_id or data.item_id
        roles = [each for each in (data.label, data.weight, data.group, data.time) if each]
        names = [*column_names(query), id_column, *roles, *data.casts]
        raw = self.context.columns_of(file, names, data.layouts, "casts")
        rows = raw.frame.height
        if data.blank_rows == "drop":
            required = [[name] for name in (id_column, data.time) if name]
            raw = raw.without_blank(column_names(query), *required)
        left_out = {"blank row": rows - raw.frame.height}
        columns = cast_columns(raw, data.casts)
        for name in column_names(query):
            if name in RESERVED or (name == "label" and data.label):
                raise DataError(f"{columns.path}: a query feature cannot read {name!r}: rename it")
        read_rows = columns.frame.height
        if data.unknown_items == "drop":
            columns = columns.keep(columns.required(id_column, "an item id").is_in(item_ids.to_list()))
        left_out["pair of an unknown item"] = read_rows - columns.frame.height
        left_out = {reason: count for reason, count in left_out.items() if count}
        can_drop = len(column_names(query)) == 1  # `blank_rows` keeps a pair with another value of its query
        advice = 'blank_rows = "drop" in [data] leaves such pairs out' if can_drop else ""
        read = features_of(columns, query, advice=advice)
        read["item_row"] = rows_of(columns, id_column, item_ids, table)
        read["weight"] = weights_of(columns, data.weight)
        read["group"] = columns.required(data.group or id_column, "a group" if data.group else "an item id")
        if data.time:
            read["time"] = columns.times(data.time)
        if data.label:
            read["label"] = labels_of(columns, data.label, data.positive_from)
            if not (read["label"] > 0).any():
                rule = "above 0" if data.positive_from is None else f"at least {data.positive_from:g}"
                raise DataError(
                    f"{columns.path}: column {data.label!r}: expected a pair with a positive label ({rule}), "
                    f"got none in {columns.frame.height:,} pairs"
                )
            return pl.DataFrame(read), left_out
        pairs, dropped = _distinct(pl.DataFrame(read))  # with labels, equal pairs are several impressions
        return pairs, dropped | left_out


def _distinct(pairs: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """The distinct pairs, and the number of dropped pairs by reason."""
    once = pairs.unique(maintain_order=True, keep="first")
    count = pairs.height - once.height
    return once, {MERGED: count} if count else {}


def _with_test_file(
    pairs: pl.DataFrame, tested: pl.DataFrame, query_columns: Sequence[str]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Both tables in one, with `in_test_file`; a pair that is in both stays in the test file only.

    With labels each row is an impression of its own, and an equal one may come again: all of them stay.
    """
    before = tested.height + pairs.height
    others = pairs
    if "label" not in pairs.columns:
        columns = [*query_columns, "item_row"]
        tested = tested.unique(columns, keep="first", maintain_order=True)
        others = pairs.unique(columns, keep="first", maintain_order=True)
        others = others.join(tested, on=columns, how="anti", nulls_equal=True, maintain_order="left")
    kept = pl.concat(
        [tested.with_columns(in_test_file=pl.lit(True)), others.with_columns(in_test_file=pl.lit(False))]
    )
    count = before - kept.height
    return kept, {"pair that the test file holds too": count} if count else {}
