"""The two tables that every source turns its rows into, and the account of what did not get in.

`items` opens with `item_id`, unique strings; the other columns are features and display fields.
`pairs` holds the query's columns and `item_row` (row of `items`), `weight`, `group`, maybe `time`.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

RESERVED = ("item_row", "weight", "group", "time", "part")
"""Columns of `pairs` that the source and the split own; no query feature may bear their names."""


@dataclass(frozen=True)
class Tables:
    """What a source hands over.

    Args:
        items: `item_id` first, then features and display fields.
        pairs: query columns, `item_row`, `weight`, `group`, maybe `time`.
        display: columns of `items` that an answer shows beside an id.
        dropped: reason -> number of rows that were left out or merged.
        origin: where the rows come from and on what terms; goes into the report as it is.
    """

    items: pl.DataFrame
    pairs: pl.DataFrame
    display: tuple[str, ...]
    dropped: Mapping[str, int]
    origin: Mapping[str, Any] = field(default_factory=dict)


def sample_groups(tables: Tables, max_items: int, seed: int) -> Tables:
    """A seeded sample of whole groups with about `max_items` items; all of them if that is 0.

    Groups are taken in random order until they hold that many items. Items without a pair go.
    """
    if max_items == 0 or tables.items.height <= max_items:
        return tables
    groups = tables.pairs["group"].unique().sort()
    order = np.random.default_rng(seed).permutation(len(groups))
    rows_of = dict(tables.pairs.group_by("group").agg(pl.col("item_row").unique()).iter_rows())
    kept: set[int] = set()
    drawn: list[str] = []
    for position in order:
        if len(kept) >= max_items:
            break
        drawn.append(groups[int(position)])
        kept.update(rows_of[drawn[-1]])
    rows = pl.DataFrame({"item_row": sorted(kept)}, schema={"item_row": pl.UInt32})
    pairs = (
        tables.pairs.filter(pl.col("group").is_in(drawn))
        .join(rows.with_row_index("new_row"), on="item_row", how="left", maintain_order="left")
        .with_columns(pl.col("new_row").alias("item_row"))
        .drop("new_row")
    )
    dropped = Counter(tables.dropped)
    dropped["items outside the sample of max_items"] += tables.items.height - len(kept)
    dropped["pairs outside the sample of max_items"] += tables.pairs.height - pairs.height
    return Tables(
        tables.items[rows["item_row"]], pairs, tables.display, dict(dropped), tables.origin
    )


def collapse(text: str) -> str:
    """Every run of white space as one space, none at the ends."""
    return " ".join(text.split())


def without(text: str, query: str) -> str | None:
    """`text` with every mention of `query` taken out, whatever its case; None if one stays.

    Only whole words are cut out. A query that is part of a longer word cannot be: that would leave
    a torn word behind, and the caller drops the item instead.
    """
    folded = query.casefold()
    if folded not in text.casefold():
        return text
    phrase = re.compile(rf"(?<!\w){re.escape(query)}(?!\w)", re.IGNORECASE)
    cut = collapse(phrase.sub(" ", text))
    return None if folded in cut.casefold() else cut
