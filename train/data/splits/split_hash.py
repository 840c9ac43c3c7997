"""The hash of a split, by which two data sets are told to have the same parts."""

import hashlib
import json
from collections.abc import Collection

import polars as pl

from twinspire.train.data.partitions import Partitions, PartitionWriter
from twinspire.train.data.splits.parts import PART

HASHED_AT_ONCE = 1_000_000  # pairs in memory; more where one item has more

_encode = json.JSONEncoder(ensure_ascii=False).encode


def split_hash(
    pairs: Partitions, item_ids: pl.Series, query_columns: Collection[str], users: pl.Series | None = None
) -> str:
    """sha256 over (part, item id, query) of every pair; the order of the rows does not matter.

    It is the hash of the sorted lines of JSON, one for each pair. Memory holds those of some items at a time.

    Args:
        query_columns: columns that identify a query; of events, `group` and `position`, so the hash depends
            on the order of a user's events.
        users: of events, the ids of users, which take the place of `group`.
    """
    ids = _json(item_ids)
    groups = None if users is None else _json(users)
    places = ids.rank("ordinal")
    counts = pl.DataFrame(schema={"part": PART, "item_row": pl.UInt32, "count": pl.Int64})
    for each in pairs.select("part", "item_row"):
        counted = each.group_by("part", "item_row").agg(pl.len().cast(pl.Int64).alias("count"))
        counts = pl.concat([counts, counted]).group_by("part", "item_row").agg(pl.col("count").sum())
    ordered = counts.with_columns(place=places.gather(counts["item_row"])).sort("part", "place")
    before = pl.col("count").cum_sum() - pl.col("count")
    number = pl.struct("part", before.over("part") // HASHED_AT_ONCE).rle_id()
    numbers = ordered.select("part", "item_row", __partition=number)
    writer = PartitionWriter()
    for each in pairs.select("part", "item_row", *query_columns):
        joined = each.join(numbers, on=["part", "item_row"], how="left", maintain_order="left")
        writer.distribute(joined, "__partition")
    digest, separator = hashlib.sha256(), ""
    for rows in writer.finish():
        columns = [ids.gather(rows["item_row"])]
        for name in sorted(query_columns):
            if groups is not None and name == "group":
                columns.append(groups.gather(rows[name]))
            else:
                columns.append(_json(rows[name]))
        part = pl.lit(f"[{_encode(rows['part'][0])}")
        lines = pl.concat_str(part, *columns, separator=", ") + "]"
        text = pl.select(lines.alias("line"))["line"].sort().str.join("\n").item()
        digest.update((separator + text).encode())
        separator = "\n"
    return digest.hexdigest()


def _json(values: pl.Series) -> pl.Series:
    """Each value as JSON."""
    if values.dtype.is_integer():
        return values.cast(pl.String).fill_null("null")
    return pl.Series([_encode(each) for each in values.to_list()], dtype=pl.String)
