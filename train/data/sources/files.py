"""Two tables: items, and (query, item) pairs.

    [data]
    kind = "files"
    items = "items.csv"       # item_id,title,price
    pairs = "pairs.jsonl"     # {"query": "...", "item_id": "007"}

Only the columns that the TOML file names are read. An invalid value is an error that names file, row and
column. Repeated pairs and, with `unknown_items = "drop"`, pairs of items that are not in the table are left
out and counted in the report. With `label` each row is an impression: negative and repeated pairs stay.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from twinspire.protos.cli import show_warnings
from twinspire.protos.errors import DataError
from twinspire.protos.features import Side
from twinspire.train.data.cleaning import cast_columns
from twinspire.train.data.columns import column_names, features_of, labels_of, rows_of, weights_of
from twinspire.train.data.item_table import ItemTable
from twinspire.train.data.partitions import Partitions
from twinspire.train.data.source import RESERVED, Source, SourceContext, Tables
from twinspire.train.data.table_data import TableData

MERGED = "pair merged with an equal one"
WARN_MERGED_ABOVE = 0.05  # share of the pairs


@dataclass(frozen=True)
class FilesData(TableData):
    """`[data]` of kind `files`; a feature names its columns. `TableData` has the other keys.

    Args:
        items: path of the table of items.
        pairs: path of the table of (query, item) pairs.
        pair_item_id: the pairs table's column of item ids; if empty, it has the name of `item_id`.
        group: column of the pairs table; a split by group keeps all pairs of a group in one part.
    """

    kind: Literal["files"]
    items: str
    pairs: str
    pair_item_id: str = ""
    group: str = ""

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
    """The table of items and the table of pairs."""

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
        data = self.data
        data.check_layouts(data.items, data.pairs)
        items, table = self.context.read_items(data.item_table(), data.display)
        if not (data.group or data.time):
            self._warn(
                "neither data.group nor data.time is set, so a split holds out whole items: test asks for "
                'items without training pairs. Set data.time and split.by = "time", or set data.group'
            )
        pairs, dropped = self._pairs(items["item_id"], table)
        merged = dropped.get(MERGED, 0)
        share = merged / max(1, pairs.height + merged)
        if share > WARN_MERGED_ABOVE:
            self._warn(
                f"{share:.0%} of the pairs repeat an earlier one and are dropped, so how often a query led "
                "to an item is partly lost; clicks at different times of a column data.time all count"
            )
        origin = {"items_file": data.items, "pairs_file": data.pairs}
        unit = "groups" if data.group else "items"
        return Tables(items, Partitions.of(pairs), data.display, dropped, origin=origin, unit=unit)

    def _warn(self, text: str) -> None:
        show_warnings([f"{self.data.pairs}: {text}"], self.context.console)

    def _pairs(self, item_ids: pl.Series, table: str) -> tuple[pl.DataFrame, dict[str, int]]:
        data, query = self.data, self.context.query
        id_column = data.pair_item_id or data.item_id
        roles = [each for each in (data.label, data.weight, data.group, data.time) if each]
        names = [*column_names(query), id_column, *roles, *data.casts]
        required = [column_names(query), *([name] for name in (id_column, data.time) if name)]
        raw, blank = data.read_rows(self.context, data.pairs, names, required)
        columns = cast_columns(raw, data.casts)
        for name in column_names(query):
            if name in RESERVED or (name == "label" and data.label):
                raise DataError(f"{columns.path}: a query feature cannot read {name!r}: rename it")
        columns, unknown = data.of_known_items(columns, id_column, item_ids, "pair of an unknown item")
        left_out = blank | unknown
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
        pairs = pl.DataFrame(read)  # with labels, equal pairs are several impressions
        once = pairs.unique(maintain_order=True, keep="first")
        merged = {MERGED: pairs.height - once.height} if once.height < pairs.height else {}
        return once, merged | left_out
