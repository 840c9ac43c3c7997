"""Tables of the user's own: one of items, one of (query, item) pairs.

    [data]
    kind = "files"
    items = "items.csv"       # item_id,title,price
    pairs = "pairs.jsonl"     # {"query": "...", "item_id": "007"}

Only the columns that the TOML names are read. A fault in a file is an error that says where it is; what
is left out on purpose (labels that are not positive, repeated pairs) is counted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from protos.errors import DataError
from protos.features import FeatureSpec
from train.config import FilesData
from train.sources.columns import Columns
from train.sources.feature_columns import features_of, items_of, names_of, read_columns, rows_of, weights_of
from train.sources.locate import identity_of, locate
from train.sources.tables import RESERVED, Tables


@dataclass(frozen=True)
class FilesSource:
    """The two files, and what the features read from them.

    Args:
        data: the TOML's section.
        base: the folder of the TOML.
        query: features of the query tower.
        item: features of the item tower.
        test_file: a second table of pairs, to be tested on.
    """

    data: FilesData
    base: Path
    query: Mapping[str, FeatureSpec]
    item: Mapping[str, FeatureSpec]
    test_file: str = ""

    def identity(self) -> str:
        """sha256 over the sha256 of the files.

        Raises:
            DataError: a file is missing.
        """
        paths = (self.data.items, self.data.pairs, self.test_file)
        return identity_of(locate(self.base, name) for name in paths if name)

    def read(self) -> Tables:
        """Items and pairs.

        Raises:
            DataError: a value is at fault; the text names file, row and column.
        """
        path = locate(self.base, self.data.items)
        others = [name for name in (*names_of(self.item), *self.data.display) if name != "item_id"]
        columns = read_columns(path, [self.data.item_id, *others])
        items = items_of(columns, self.data.item_id, self.item, self.data.display)
        table = f"{path} ({self.data.item_id!r})"
        pairs, dropped = self._pairs(self.data.pairs, items["item_id"], table)
        if self.test_file:
            tested, gone = self._pairs(self.test_file, items["item_id"], table)
            pairs, both = _with_test_file(pairs, tested, names_of(self.query))
            dropped = dict(Counter(dropped) + Counter(gone) + Counter(both))
        origin = {"items_file": self.data.items, "pairs_file": self.data.pairs}
        origin |= {"test_file": self.test_file} if self.test_file else {}
        return Tables(items, pairs, self.data.display, dropped, origin=origin)

    def _pairs(self, file: str, item_ids: pl.Series, table: str) -> tuple[pl.DataFrame, dict[str, int]]:
        data = self.data
        id_column = data.pair_item_id or data.item_id
        roles = [each for each in (data.label, data.weight, data.group, data.time) if each]
        columns = read_columns(locate(self.base, file), [*names_of(self.query), id_column, *roles])
        for name in names_of(self.query):
            if name in RESERVED:
                raise DataError(f"{columns.path}: a query feature cannot read {name!r}: rename it")
        read = features_of(columns, self.query)
        read["item_row"] = rows_of(columns, id_column, item_ids, table)
        read["weight"] = weights_of(columns, data.weight)
        read["group"] = columns.required(data.group or id_column, "a group" if data.group else "an item id")
        if data.time:
            read["time"] = columns.times(data.time)
        positive = _positive(columns, data.label)
        return _distinct(pl.DataFrame(read), positive, columns.path)


def _positive(columns: Columns, column: str) -> pl.Series:
    if not column:
        return pl.repeat(True, columns.frame.height, eager=True)
    labels = columns.numbers(column, "a number")
    columns.refuse(column, labels.is_null(), "a number")
    return labels > 0


def _distinct(pairs: pl.DataFrame, positive: pl.Series, path: Path) -> tuple[pl.DataFrame, dict[str, int]]:
    """The positive pairs, each once, and how many went."""
    kept = pairs.filter(positive)
    if kept.is_empty():
        raise DataError(f"{path}: expected a pair with a positive label, got none in {pairs.height}")
    once = kept.unique(maintain_order=True, keep="first")
    dropped = {
        "label not positive": pairs.height - kept.height,
        "pair merged with an equal one": kept.height - once.height,
    }
    return once, {reason: count for reason, count in dropped.items() if count}


def _with_test_file(
    pairs: pl.DataFrame, tested: pl.DataFrame, query_columns: Sequence[str]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Both tables, told apart by `in_test_file`; what both hold is only tested on."""
    both = pl.concat(
        [tested.with_columns(in_test_file=pl.lit(True)), pairs.with_columns(in_test_file=pl.lit(False))]
    )
    kept = both.unique([*query_columns, "item_row"], keep="first", maintain_order=True)
    gone = both.height - kept.height
    return kept, {"pair that the test file holds too": gone} if gone else {}
