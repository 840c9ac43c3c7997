"""Which pairs are learned from, which choose the best epoch, and which are looked at once.

    pairs = assign(tables.pairs, SplitConfig(by="group", seed=0))

Pairs of a query and an item are divided by `train.pair_split`, events of users, which have an order, by
`train.sequence_split`.
"""

import hashlib
import json
from collections.abc import Collection

import polars as pl

from protos.errors import DataError
from train import pair_split, sequence_split
from train.config import SplitConfig

PARTS = ("train", "validation", "test")
COLD = sequence_split.COLD


def assign(pairs: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    """`pairs` with a column `part`: train, validation or test.

    Events of users (they have a `position`) may also be `cold`, and come with `begin` and `end`, the
    bounds of a record's history in that of all, see `train.sequence_split`.

    Raises:
        DataError: a part would be empty, or the split is by something that the pairs do not have.
    """
    _check(pairs, config)
    if "position" in pairs.columns:
        divided = sequence_split.divide(pairs, config)
    else:
        ways = {"time": pair_split.by_time, "file": pair_split.by_file, "group": pair_split.by_group}
        parts = ways[config.by](pairs, config)
        divided = pairs.with_columns(pl.Series("part", parts, dtype=pl.String))
    for part in (*PARTS, COLD) if config.cold_items else PARTS:
        if part not in divided["part"]:
            raise DataError(
                f"the {part} part of the split is empty: {pairs.height} pairs in "
                f"{pairs['group'].n_unique()} groups are too few for a split by {config.by}"
            )
    return divided.drop("in_test_file", strict=False)


def split_hash(pairs: pl.DataFrame, item_ids: pl.Series, query_columns: Collection[str]) -> str:
    """sha256 over (part, item id, query) of every pair, whatever the order of the rows.

    Args:
        query_columns: what a query is; of events, `group` and `position`, so the hash follows the order
            of what a user did.
    """
    columns = [pairs["part"], item_ids.gather(pairs["item_row"])]
    columns += [pairs[name] for name in sorted(query_columns)]
    rows = zip(*(column.to_list() for column in columns), strict=True)
    lines = sorted(json.dumps(row, ensure_ascii=False) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _check(pairs: pl.DataFrame, config: SplitConfig) -> None:
    """Whether there is what the split goes by."""
    by = config.by
    if by == "time" and "time" not in pairs.columns:
        raise DataError('split.by = "time" needs data.time, the column of the pairs that holds it')
    if by == "last_session" and "session" not in pairs.columns:
        raise DataError('split.by = "last_session" needs data.session, the column of events that holds it')
    if by == "file" and "in_test_file" not in pairs.columns:
        raise DataError('split.by = "file" needs data of kind "events" or "files"')
    if "position" not in pairs.columns and (by in ("last", "last_session") or config.cold_items):
        what = "split.cold_items" if config.cold_items else f'split.by = "{by}"'
        raise DataError(f'{what} needs events of users: data of kind "events" or "movielens"')
