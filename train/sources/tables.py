"""The two tables that every source turns its rows into, and the account of what did not get in.

`items` opens with `item_id`, unique strings; the other columns are features and display fields.
`pairs` holds the query's columns and `item_row` (row of `items`), `weight`, `group`, maybe `time`.
Sources of events give more, see `train/sources/interactions.py`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from protos.features import normalise
from train.sources.interactions import lay_out

RESERVED = ("item_row", "weight", "group", "time", "part", "in_test_file")
"""Columns of `pairs` that the source and the split own; no query feature may bear their names."""
RESERVED_OF_EVENTS = (*RESERVED, "label", "position", "session", "user_start", "begin", "end")
"""The same where pairs are events of users."""


@dataclass(frozen=True)
class Tables:
    """What a source hands over.

    Args:
        items: `item_id` first, then features and display fields.
        pairs: query columns, `item_row`, `weight`, `group`, maybe `time`; where a test file was read,
            `in_test_file`.
        display: columns of `items` that an answer shows beside an id.
        dropped: reason -> number of rows that were left out or merged.
        changed: reason -> number of rows that are not as they were found.
        origin: where the rows come from and on what terms; goes into the report as it is.
        history: of events, UInt32 rows of items: what each user dealt with, in order, one user after
            another.
        order: of events, what they are in order of.
    """

    items: pl.DataFrame
    pairs: pl.DataFrame
    display: tuple[str, ...]
    dropped: Mapping[str, int]
    changed: Mapping[str, int] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    history: pl.Series | None = None
    order: str = ""

    @property
    def reserved(self) -> tuple[str, ...]:
        """Columns of `pairs` that no query feature reads."""
        return RESERVED if self.history is None else RESERVED_OF_EVENTS


def one_query_each(
    rows: Iterable[Sequence[str]], columns: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Items and pairs from rows of `columns`, all strings, that hold one `query` and one `group`."""
    table = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
    pairs = table.select(
        "query",
        pl.int_range(pl.len(), dtype=pl.UInt32).alias("item_row"),
        pl.lit(1.0, pl.Float32).alias("weight"),
        "group",
    )
    return table.drop("query", "group"), pairs


def sample_groups(tables: Tables, max_items: int, seed: int) -> Tables:
    """A seeded sample of whole groups with about `max_items` items; everything if that is 0.

    Groups are drawn until they hold that many items. Items without a drawn pair go. A group of events is
    a user, who keeps the whole history.
    """
    if max_items == 0 or tables.items.height <= max_items:
        return tables
    rows_of = dict(tables.pairs.group_by("group").agg(pl.col("item_row").unique()).iter_rows())
    groups = sorted(rows_of)
    kept: set[int] = set()
    drawn: list[str] = []
    for position in np.random.default_rng(seed).permutation(len(groups)):
        if len(kept) >= max_items:
            break
        drawn.append(groups[position])
        kept.update(rows_of[drawn[-1]])
    old_rows = pl.Series("item_row", sorted(kept), dtype=pl.UInt32)
    new_rows = pl.DataFrame({"item_row": old_rows}).with_row_index("new_row")
    pairs = tables.pairs.filter(pl.col("group").is_in(drawn)).join(
        new_rows, on="item_row", how="left", maintain_order="left"
    )
    pairs = pairs.with_columns(item_row=pl.col("new_row")).drop("new_row")
    dropped = Counter(tables.dropped)
    dropped["item outside the sample of max_items"] += tables.items.height - len(kept)
    dropped["pair outside the sample of max_items"] += tables.pairs.height - pairs.height
    history = None
    if tables.history is not None:
        pairs, history = lay_out(pairs)
    sampled = replace(tables, items=tables.items[old_rows], pairs=pairs, history=history)
    return replace(sampled, dropped=dict(dropped))


def collapse(text: str) -> str:
    """Every run of white space as one space, none at the ends."""
    return " ".join(text.split())


def without(text: str, query: str) -> str:
    """`text` with every mention of `query` as whole words taken out, whatever its case.

    A query that is part of a longer word stays, because cutting it out would leave a torn word: see
    `holds`.
    """
    if not holds(text, query):
        return text
    words = r"\s+".join(map(re.escape, query.split()))
    phrase = re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
    return collapse(phrase.sub(" ", text))


def holds(text: str, query: str) -> bool:
    """`text` mentions `query` as a tower reads both: normalised, and even inside a word."""
    return normalise(query) in normalise(text)
