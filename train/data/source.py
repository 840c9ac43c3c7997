"""The interface of a data source, the tables that it returns, and functions that several sources share.

Each module of `train/data/sources/` is one source, see `train/data/sources/README.md`.

Sources of events call two functions, in this order. `sort_events` sorts them by user, then by time; events at
the same time are in the order of the file. `filter_events` drops duplicates and users with few events. A
partition of their pairs holds whole users. Beside those of the query's features, `pairs` has these columns:

| column         | content                                                                          |
|----------------|----------------------------------------------------------------------------------|
| `group`        | UInt32; the user's row in `users`                                                |
| `item_row`     | row of the items                                                                 |
| `label`        | Float32; above 0 for a positive event; only positive events enter the history,   |
|                | the others the negative history                                                  |
| `weight`       | Float32; weight in the loss                                                      |
| `time`         | Float64; only if the source has times                                            |
| `session`      | String; only if the source has sessions                                          |

Pairs that are no events may have a `label`, too.
"""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from rich.console import Console

from twinspire.protos.features import FeatureSpec
from twinspire.protos.inputs.texts import normalise
from twinspire.train.config.data import DataConfig, FilterConfig, JudgedConfig, RecordedEventsConfig
from twinspire.train.data.cleaning import cast_columns
from twinspire.train.data.columns import Columns, column_names, items_of, read_columns
from twinspire.train.data.filters import filter_columns
from twinspire.train.data.item_table import ItemTable
from twinspire.train.data.partitions import Partitions, PartitionWriter
from twinspire.train.data.table_files import find_data_file, identity_of

RESERVED = ("item_row", "weight", "group", "time", "part")
"""Columns of `pairs` that the source and the split write; no query feature may read them."""
SPANS = ("begin", "end", "negative_begin", "negative_end")
"""Columns of events that the split writes: the ranges of their history and of their negative history."""
LOG_ROW = "log_row"
"""Column of events whose items are built from them: the event's number, which `items_from_events` takes."""
RESERVED_OF_EVENTS = (*RESERVED, "label", "position", "session", "user_start", LOG_ROW, *SPANS)
"""The same where pairs are events of users."""

BY_TIME = "time"
BY_FILE = "file order, for want of a time column"
"""What defines the order of events, as the report of a data set says it."""

POSITIVE = pl.col("label") > 0
BY_RANKING = "__by_ranking"
"""Column of pairs of a service, bool: whether the click is on an item that a ranking alone chose to show."""
EVENTS_AT_ONCE = 1_000_000  # in a partition, about; more where one user has more
EARLY = 1990  # times before this year have probably been read in a wrong unit


@dataclass(frozen=True)
class Tables:
    """Items and (query, item) pairs, as a source returns them.

    Args:
        items: `item_id` first (unique strings), then columns of features, display fields and filter fields.
        pairs: query columns, `item_row` (row of `items`), `weight`, `group`, maybe `time` and `label`; of a
            service maybe `BY_RANKING`. Pairs that are events of users have the columns listed above. Other
            pairs are one partition.
        display: columns of `items` that an answer shows beside an id.
        dropped: reason -> number of rows that were left out or merged.
        changed: reason -> number of rows whose values were changed.
        origin: where the rows come from, and their licence; part of the data set's report.
        users: of events, the ids of users, sorted; there may be some without an event. None of other pairs.
        order: of events, what defines their order.
        repeats: of events, `keep` if a user's history may hold an item several times, `first` if not.
        unit: what a group of pairs is, in the plural; of events it is a user.
        share_of_repeats: of events, as `share_of_repeats` counts them before any is left out; None if it is
            not known.
        items_from_events: where values of items are built from events: `LOG_ROW` of the training events ->
            items (unique `item_id`, at least those of `items`) with values from these events alone, and
            reason -> number of changes; None if `items` does not depend on events.
    """

    items: pl.DataFrame
    pairs: Partitions
    display: tuple[str, ...]
    dropped: Mapping[str, int]
    changed: Mapping[str, int] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    users: pl.Series | None = None
    order: str = ""
    repeats: str = "first"
    share_of_repeats: float | None = None
    unit: str = "groups"
    items_from_events: Callable[[pl.Series], tuple[pl.DataFrame, dict[str, int]]] | None = None

    @property
    def reserved(self) -> tuple[str, ...]:
        """Columns of `pairs` that no query feature reads."""
        if self.users is not None:
            return RESERVED_OF_EVENTS
        return (*RESERVED, "label") if "label" in self.pairs.columns else RESERVED


class Source(Protocol):
    """Rows that can be read, and their identity."""

    def identity(self) -> str:
        """Hash of the data, or of all that determines them; the data set is built again when it changes.

        Raises:
            DataError: the data cannot be read.
        """

    def read(self) -> Tables:
        """Items and pairs.

        Raises:
            DataError: a value is invalid; the text names file, row and column.
        """


@dataclass(frozen=True)
class SourceContext:
    """What a source may need beside its own section of the TOML file.

    Args:
        base: folder of the TOML file; paths in it are relative to this folder.
        cache: folder for downloads; each source uses a subfolder of its own.
        filter: columns of the items that a search can filter by.
        events: what recorded events of users mean.
        learns_from_negatives: whether the loss reads negative pairs; a source may leave them out otherwise.
    """

    base: Path
    cache: Path
    query: Mapping[str, FeatureSpec]
    item: Mapping[str, FeatureSpec]
    filter: FilterConfig
    refresh: bool
    console: Console
    events: RecordedEventsConfig = field(default_factory=RecordedEventsConfig)
    learns_from_negatives: bool = False

    def identity_of(self, *names: str) -> str:
        """sha256 of the user's files; empty names are left out.

        Raises:
            DataError: a file is missing.
        """
        return identity_of(find_data_file(self.base, name) for name in names if name)

    def read_items(self, table: ItemTable, display: Sequence[str]) -> tuple[pl.DataFrame, str]:
        """The items of the experiment's table, and the name of the table for error texts.

        Raises:
            DataError: the file or a value is invalid.
        """
        path = find_data_file(self.base, table.file)
        others = [name for name in (*column_names(self.item), *display) if name != "item_id"]
        names = [table.id_column, *others, *self.filter.fields, *table.casts]
        read = read_columns(path, names, table.layout, table.file, table.casts_key)
        items = self.items_of(cast_columns(read, table.casts), table.id_column, display)
        return items, f"{path} ({table.id_column!r})"

    def items_of(self, columns: Columns, id_column: str, display: Sequence[str]) -> pl.DataFrame:
        """The items of a table, with the columns of features, display fields and filter fields."""
        items = items_of(columns, id_column, self.item, display)
        return items.with_columns(**filter_columns(columns, self.filter, self.item))


@dataclass(frozen=True)
class SourceConfig(DataConfig, ABC):
    """Base class of the `[data]` section of every kind.

    A source is one module in `train/data/sources/`. The module's name is the kind, and the module defines one
    subclass of this class, with `kind: Literal["<name of the module>"]`. Its other fields are the TOML keys.
    """

    @abstractmethod
    def open(self, context: SourceContext) -> Source:
        """The source that these settings describe; downloads what is not in the cache.

        Raises:
            DataError: the data cannot be downloaded.
        """

    def item_table(self) -> ItemTable:
        """How a table of items is read that takes the place of those of this source."""
        return ItemTable()

    def judged_of(self, base: Path) -> JudgedConfig | None:
        """The judged queries that come with these data; None if there are none."""
        return None


def source_config(data: DataConfig) -> SourceConfig:
    """The `[data]` of an experiment, as the type that all sources derive theirs from."""
    if not isinstance(data, SourceConfig):
        raise TypeError(f"{type(data).__qualname__}: expected a subclass of SourceConfig")
    return data


def sort_events(slices: Iterable[pl.DataFrame]) -> tuple[Partitions, pl.Series]:
    """Events by user, then by time, at the same time in the order of the file; and the sorted ids of users.

    Args:
        slices: at least one, with the columns listed above, but `group` is the id of the user.
    """
    writer, counts = PartitionWriter(), pl.DataFrame(schema={"group": pl.String, "count": pl.Int64})
    for each in slices:
        counted = each.group_by("group").agg(pl.len().cast(pl.Int64).alias("count"))
        counts = pl.concat([counts, counted]).group_by("group").agg(pl.col("count").sum())
        writer.append(each)
    unsorted, counts = writer.finish(), counts.sort("group")
    number = (pl.col("count").cum_sum() - pl.col("count")) // EVENTS_AT_ONCE
    numbers = counts.select("group", __partition=number.rle_id()).with_row_index("__user")
    writer = PartitionWriter()
    for each in unsorted:
        joined = each.join(numbers, on="group", how="left", maintain_order="left")
        writer.distribute(joined.with_columns(group=pl.col("__user")).drop("__user"), "__partition")
    timed = ["time"] if "time" in unsorted.columns else []
    del unsorted  # its file need not be there beside the next two
    sorted_ = writer.finish().map(lambda events: events.sort("group", *timed, maintain_order=True))
    return sorted_, counts["group"]


def filter_events(
    events: Partitions, repeats: str = "keep", min_user_events: int = 1
) -> tuple[Partitions, dict[str, int]]:
    """Events without duplicates and users with few events, and the number of dropped events by reason.

    Args:
        events: as `sort_events` returns them.
        repeats: `first` keeps no event with an item after the user's first positive one; `keep` keeps all.
        min_user_events: users with fewer events are dropped.
    """
    dropped = Counter[str]()

    def kept(part: pl.DataFrame) -> pl.DataFrame:
        found, counts = _filter(part, repeats, min_user_events)
        dropped.update(counts)
        return found

    return events.map(kept), {reason: count for reason, count in dropped.items() if count}


def _filter(events: pl.DataFrame, repeats: str, min_user_events: int) -> tuple[pl.DataFrame, dict[str, int]]:
    """`filter_events` of a partition; also counts of 0."""
    dropped: dict[str, int] = {}
    if "time" in events.columns:
        count, key = events.height, ["group", "item_row", "time"]
        has_positive = POSITIVE.any().over(key)
        events = events.filter(POSITIVE | ~has_positive).unique(key, keep="first", maintain_order=True)
        dropped["event of the same user, item and time as another"] = count - events.height
    count = events.height
    if repeats == "first":
        positives_before = (POSITIVE.cast(pl.Int64).cum_sum() - POSITIVE).over("group", "item_row")
        events = events.filter(positives_before == 0)
        dropped["event with an item of which the user had a positive event before"] = count - events.height
    count = events.height
    events = events.filter(pl.len().over("group") >= min_user_events)
    dropped[f"event of a user with fewer than {min_user_events} events"] = count - events.height
    return events, dropped


def share_of_repeats(events: Partitions) -> float:
    """Share of the positive events whose user had an earlier one with the same item; 0 without any.

    Args:
        events: as `sort_events` returns them. Of events with the same user, item and time only one counts.
    """
    count = repeated = 0
    for each in events.select("label", "group", "item_row", "^time$"):
        positives = each.filter(POSITIVE).drop("label")
        if "time" in positives.columns:
            positives = positives.unique()
        count += positives.height
        repeated += positives.height - positives.select("group", "item_row").n_unique()
    return repeated / max(1, count)


def has_positive(pairs: Partitions) -> bool:
    """Whether an event is positive."""
    return any(each["label"].gt(0).any() for each in pairs.select("label"))


def sample_groups(tables: Tables, max_items: int, seed: int) -> Tables:
    """A seeded sample of whole groups with about `max_items` items; everything if that is 0.

    Groups are drawn until they hold that many items. Items without a drawn pair are left out. A group of
    events is a user, whose whole history is kept.
    """
    if max_items == 0 or tables.items.height <= max_items:
        return tables
    groups = pl.concat(each.unique() for each in tables.pairs.select("group")).sort("group")
    drawn = np.random.default_rng(seed).permutation(groups.height)
    places = groups[drawn].with_row_index("__place")  # of each group among those that are drawn
    firsts = pl.DataFrame(schema={"item_row": pl.UInt32, "__place": pl.UInt32})
    for each in tables.pairs.select("group", "item_row"):
        found = each.unique().join(places, on="group").select("item_row", "__place")
        firsts = pl.concat([firsts, found]).group_by("item_row").agg(pl.col("__place").min())
    firsts = firsts.sort("__place")
    last = firsts["__place"][max_items - 1] if firsts.height >= max_items else groups.height
    kept = firsts.filter(pl.col("__place") <= last)["item_row"].sort()
    sample = places.filter(pl.col("__place") <= last)["group"].implode()
    pairs = tables.pairs.map(lambda each: each.filter(pl.col("group").is_in(sample)))
    dropped = Counter(tables.dropped)
    dropped["item outside the sample of max_items"] += tables.items.height - len(kept)
    dropped["pair outside the sample of max_items"] += tables.pairs.height - pairs.height
    items, pairs = keep_items(tables.items, pairs, kept)
    return replace(tables, items=items, pairs=pairs, dropped=dict(dropped))


def keep_items(items: pl.DataFrame, pairs: Partitions, rows: pl.Series) -> tuple[pl.DataFrame, Partitions]:
    """Some rows of the items, and the pairs with `item_row` pointing to the new rows.

    Args:
        rows: sorted; holds every `item_row` of the pairs.
    """
    new_rows = pl.DataFrame({"item_row": rows}).with_row_index("__row")

    def moved(part: pl.DataFrame) -> pl.DataFrame:
        joined = part.join(new_rows, on="item_row", how="left", maintain_order="left")
        return joined.with_columns(item_row=pl.col("__row")).drop("__row")

    return items[rows], pairs.map(moved)


def one_query_each(rows: Iterable[Sequence[str]], columns: Sequence[str]) -> tuple[pl.DataFrame, Partitions]:
    """Items and pairs from rows of strings, each an item with one query.

    Args:
        columns: names of the columns, `query` and `group` among them.
    """
    table = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
    pairs = table.select(
        "query",
        pl.int_range(pl.len(), dtype=pl.UInt32).alias("item_row"),
        pl.lit(1.0, pl.Float32).alias("weight"),
        "group",
    )
    return table.drop("query", "group"), Partitions.of(pairs)


def collapse_spaces(text: str) -> str:
    """`text` with each run of white space replaced by one space, and none at the ends."""
    return " ".join(text.split())


def without_query(text: str, query: str) -> str:
    """`text` without the occurrences of `query` as whole words, in any case.

    An occurrence inside a longer word stays, because removing it would leave a torn word. `contains_query`
    finds those.
    """
    if not contains_query(text, query):
        return text
    words = r"\s+".join(map(re.escape, query.split()))
    phrase = re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
    return collapse_spaces(phrase.sub(" ", text))


def contains_query(text: str, query: str) -> bool:
    """Whether `text` contains `query` after the normalisation that towers apply, even inside a word."""
    return normalise(query) in normalise(text)
