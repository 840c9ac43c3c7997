"""A log of interactions: user, item, and optionally time, session, label and weight.

    [data]
    kind = "events"
    events = "clicks.csv"     # user_id,item_id,at
    time = "at"
    items = "items.csv"       # item_id,title; without it, items are built from the events

Where items are built from the events, their values come from the training part alone, so no event of
validation or test is in a category or number; `EventsSource.items_from_events` says what an item gets that
has no training event. Give such items a table, `items`, if more is known about them.

Events are positive unless `label` says otherwise. A user's earlier positive events are the history with
which the next one is predicted. An invalid value (an unknown item, a rating that is no number, a time before
1970) is an error that names file, row and column. Rows that the settings exclude are counted in the report:
filtered events, repeats, users with few events.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import polars as pl

from twinspire.protos.errors import DataError
from twinspire.protos.features import Side, TextFeature
from twinspire.train.config.checks import at_least
from twinspire.train.data.cleaning import Derived, clean, condition, reads_other_events
from twinspire.train.data.columns import Columns, column_names, features_of, labels_of, rows_of, weights_of
from twinspire.train.data.item_table import ItemTable
from twinspire.train.data.source import (
    BY_FILE,
    BY_TIME,
    LOG_ROW,
    RESERVED_OF_EVENTS,
    Source,
    SourceContext,
    Tables,
    filter_events,
    has_positive,
    keep_items,
    share_of_repeats,
    sort_events,
)
from twinspire.train.data.table_data import TableData
from twinspire.train.data.table_files import find_data_file
from twinspire.train.progress import progress_bar

Rule = Literal["first", "last", "most_common", "mean", "median", "min", "max"]

# `repeats = "auto"` is "first" if at most this share of the positive events repeat an item of their user.
FEW_REPEATS = 0.05


@dataclass(frozen=True)
class EventsData(TableData):
    """`[data]` of kind `events`. Without `time`, events are in the order of the file. `TableData` has the
    other keys.

    Args:
        events: path of the table of events.
        user: column of events with the user's id.
        item: column of events with the item's id.
        session: column of events with an id of the visit or order that the event belongs to.
        items: path of the table of items; if empty, items are built from the events.
        item_columns: without an items table: column of events -> rule that gives an item's one value, from
            its training events.
        repeats: of a user's events with the same item, `keep` keeps all, and `first` those up to the first
            positive one. With `first`, items of the history are no answers in training and evaluation.
            `auto` is `first` if at most `FEW_REPEATS` of the positive events repeat an item, else `keep`,
            and prints the share.
        min_user_events: users with fewer events than this are dropped.
        derive: name of a new column -> how it is computed.
        filters: conditions in SQL, such as "seconds >= 30"; events for which one is not true are dropped and
            counted.
    """

    kind: Literal["events"]
    events: str
    user: str = "user_id"
    item: str = "item_id"
    session: str = ""
    items: str = ""
    item_columns: dict[str, Rule] = field(default_factory=dict)
    repeats: Literal["auto", "keep", "first"] = "auto"
    min_user_events: int = 2
    derive: dict[str, Derived] = field(default_factory=dict)
    filters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "min_user_events")
        for name in ("events", "user", "item"):
            if not getattr(self, name):
                raise ValueError(f"{name}: expected a name, got an empty one")
        if self.items and self.item_columns:
            raise ValueError("item_columns: the items table has the columns of items; leave one of them out")
        if not self.items and (self.item_casts or self.unknown_items == "drop"):
            name = "item_casts" if self.item_casts else "unknown_items"
            raise ValueError(f"{name}: goes with items, the table of items")
        for name in self.display:
            if not self.items and name not in self.item_columns:
                raise ValueError(f"display: without an items table, {name!r} must be one of item_columns")
        if "item_id" in self.item_columns:
            raise ValueError("item_columns.item_id: this is what the ids of items are called")
        self._check_derived()
        for n, text in enumerate(self.filters):
            try:
                condition(text)
            except ValueError as error:
                raise ValueError(f"filters[{n}]: {error}") from None

    def _check_derived(self) -> None:
        for name in self.casts:
            if name in self.derive:
                raise ValueError(f"casts.{name}: derived columns come after the casts")
        for name, derived in self.derive.items():
            if derived.of in self.derive:
                raise ValueError(f"derive.{name}.of: expected a column of the events, got a derived one")
            if derived.of == self.label:
                raise ValueError(f"derive.{name}.of: expected another column than that of data.label")

    def target_columns(self, side: Side) -> Mapping[str, str]:
        """The label, also where the values of items are built from it, and of a query the event's item."""
        label = {self.label: "data.label"} if self.label else {}
        if side == "item":
            return {} if self.items else label
        return {**label, self.item: "data.item"}

    def open(self, context: SourceContext) -> Source:
        """The tables of the log."""
        return EventsSource(self, context)

    def item_table(self) -> ItemTable:
        """How `items` is read; without it, a table with the casts of the columns that make its items."""
        if self.items:
            layout = self.layouts.get(self.items)
            return ItemTable(self.item_id, self.item_casts, "item_casts", self.items, layout)
        casts = {name: cast for name, cast in self.casts.items() if name in self.item_columns}
        if self.item in self.casts:
            casts[self.item_id] = self.casts[self.item]
        return ItemTable(self.item_id, casts, "casts" if self.item == self.item_id else "")


@dataclass(frozen=True)
class EventsSource:
    """The events, and either a table of items or items that are built from the events.

    Query features other than the history are read from columns of the events.
    """

    data: EventsData
    context: SourceContext

    def identity(self) -> str:
        """sha256 of the files.

        Raises:
            DataError: a file is missing.
        """
        return self.context.identity_of(self.data.events, self.data.items)

    def read(self) -> Tables:
        """Items, and events in order.

        Raises:
            DataError: a value is invalid; the text names file, row and column.
        """
        data = self.data
        self._check_names()
        data.check_layouts(data.events, data.items)
        log = _Log(data, self.context)
        with progress_bar(self.context.console, transient=True) as progress:
            task = progress.add_task(f"{data.events}: rows", total=None, note="")
            events, users = sort_events(log.slices(lambda count: progress.advance(task, count)))
        share = share_of_repeats(events)
        repeats = self._repeats(share)
        events, left_out = filter_events(events, repeats, data.min_user_events)
        dropped = {**log.dropped, **left_out}
        if not has_positive(events):
            path = find_data_file(self.context.base, data.events)
            raise DataError(f"{path}: no positive event is left; dropped: {dropped}")
        items = log.items()
        if not data.items:
            rows = pl.concat(each["item_row"].unique() for each in events.select("item_row"))
            items, events = keep_items(items, events, rows.unique().sort())
        if not data.time:
            self.context.console.print(f"{data.events}: data.time is not set; events are in file order")
        origin = {"events_file": data.events}
        origin |= {"items_file": data.items} if data.items else {}
        order = BY_TIME if data.time else BY_FILE
        return Tables(
            items,
            events,
            data.display,
            dropped,
            origin=origin,
            users=users,
            order=order,
            repeats=repeats,
            share_of_repeats=share,
            items_from_events=None if log.whole is None else partial(self.items_from_events, log.whole),
        )

    def items_from_events(self, log: Columns, rows: pl.Series) -> tuple[pl.DataFrame, dict[str, int]]:
        """The items with values from some events alone, those of training; and reason -> number of changes.

        Each item has one value in training and in the catalogue, so it cannot be that of the moment of each
        event. An item without a value in these events has none if a category or number reads the column,
        because that of a tested event would reveal it; a text of that column is empty, too. A column that is
        only text, shown or filtered by is taken to be known of the item, and has the value of its other
        events: without it, items kept out of training would have no content to be found by.

        Args:
            rows: `LOG_ROW` of the events to use.
        """
        data, item = self.data, self.context.item
        hidden = column_names({k: spec for k, spec in item.items() if not isinstance(spec, TextFeature)})
        every = build_items(log, data.item, data.item_columns, data.time).frame
        kept = log.keep(log.frame[LOG_ROW].is_in(rows.implode()))
        given = build_items(kept, data.item, data.item_columns, data.time, absent=True).frame
        joined = every.select("item_id").join(given, on="item_id", how="left", maintain_order="left")
        columns, changed = [joined["item_id"]], {}
        for name in data.item_columns:
            lacking = int(joined[name].is_null().sum())
            source = "has none" if name in hidden else "has that of its other events"
            changed[f"item without {name!r} in training events, which {source}"] = lacking
            columns.append(joined[name] if name in hidden else joined[name].fill_null(every[name]))
        table = Columns(log.path, pl.DataFrame(columns))
        found = self.context.items_of(table, "item_id", data.display)
        return found, {reason: count for reason, count in changed.items() if count}

    def _repeats(self, share: float) -> str:
        """`data.repeats`, or what takes the place of `auto`."""
        data = self.data
        if data.repeats != "auto":
            return data.repeats
        if share <= FEW_REPEATS:
            repeats, bound = "first", "at most"
            meaning = "events after the first are left out, and items of a history are no answers"
        else:
            repeats, bound = "keep", "more than"
            meaning = "all events are kept, and items of a history may be answers"
        self.context.console.print(
            f'{data.events}: data.repeats = "{repeats}": {share:.1%} repeats, {bound} {FEW_REPEATS:.0%}; '
            f"{meaning}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return repeats

    def _check_names(self) -> None:
        for name in column_names(self.context.query):
            if name in RESERVED_OF_EVENTS:
                raise DataError(f"{self.data.events}: a query feature cannot read {name!r}: rename it")
        if self.data.items:
            return
        for name in column_names(self.context.item):
            if name != "item_id" and name not in self.data.item_columns:
                raise DataError(
                    f"{self.data.events}: column {name!r} of the items: without an items table, "
                    "data.item_columns must name the rule that gives an item one value"
                )
        for name in self.context.filter.fields:
            if name != "item_id" and name not in self.data.item_columns:
                raise DataError(
                    f"{self.data.events}: filter.fields: without an items table, {name!r} must be one of "
                    "data.item_columns"
                )


class _Log:
    """The table of events, which is read once, some events at a time, and its items.

    Events are in memory together where values of items are built from them, or a filter compares them.

    Args:
        dropped: reason -> number of events that were left out, of those that have been read.
        whole: the events that pass the filters, where items are built from them; known once they are read.
    """

    def __init__(self, data: EventsData, context: SourceContext) -> None:
        self.dropped = Counter[str]()
        self.whole: Columns | None = None
        self._data, self._context = data, context
        self._items: pl.DataFrame | None = None
        self._table = data.events  # the items' table, for error texts
        self._ids = pl.Series("item_id", [], pl.String)  # of known items; without a table they become more
        self._first_rows = pl.Series([], dtype=pl.Int64)  # without a table: of each item's first event
        if data.items:
            self._items, self._table = context.read_items(data.item_table(), data.display)
            self._ids = self._items["item_id"]

    def slices(self, on_read: Callable[[int], None]) -> Iterator[pl.DataFrame]:
        """The columns that `sort_events` takes, and those of query features; of some events at a time.

        Args:
            on_read: called with the number of rows that have just been read.

        Raises:
            DataError: a value is invalid, or no event passes the filters.
        """
        data, passed = self._data, 0
        for read, blank in self._read():
            rows, filtered = clean(read, data.casts, data.derive, data.filters)
            self.dropped.update({**blank, **filtered})
            on_read(read.frame.height)
            passed += rows.frame.height
            if data.filters and rows.frame.is_empty():
                continue
            if data.item_columns:
                rows = rows.with_columns(
                    pl.int_range(rows.frame.height, dtype=pl.UInt32, eager=True).alias(LOG_ROW)
                )
                self.whole = rows
                built = build_items(rows, data.item, data.item_columns, data.time)
                self._items = self._context.items_of(built, "item_id", data.display)
                self._ids = self._items["item_id"]
            elif not data.items:
                found = rows.required(data.item, "an item id")
                is_new = found.is_first_distinct() & ~found.is_in(self._ids.implode())
                self._ids = self._ids.append(found.filter(is_new))
                self._first_rows = self._first_rows.append(rows.row_numbers.filter(is_new).cast(pl.Int64))
            rows, unknown = data.of_known_items(rows, data.item, self._ids, "event of an unknown item")
            self.dropped.update(unknown)
            yield self._events(rows)
        if data.filters and not passed:
            path = find_data_file(self._context.base, data.events)
            raise DataError(f"{path}: no event passes the filters; dropped: {dict(self.dropped)}")

    def items(self) -> pl.DataFrame:
        """The items, once all events have been read."""
        if self._items is None:
            path = find_data_file(self._context.base, self._data.events)
            ids = Columns(path, self._ids.alias("item_id").to_frame(), self._first_rows)
            self._items = self._context.items_of(ids, "item_id", self._data.display)
        return self._items

    def _read(self) -> Iterator[tuple[Columns, dict[str, int]]]:
        """Slices of the table, or all of it, and the number of rows left out by reason."""
        data = self._data
        required = [[name] for name in (data.user, data.item, data.time) if name and name not in data.derive]
        arguments = (self._context, data.events, self._names(), required)
        if data.item_columns or any(map(reads_other_events, data.filters)):
            yield data.read_rows(*arguments)
        else:
            yield from data.read_row_slices(*arguments)

    def _names(self) -> list[str]:
        """The distinct columns that are read from a log."""
        data = self._data
        roles = [data.user, data.item, data.time, data.session, data.label, data.weight]
        cleaned = [*data.casts, *(each.of for each in data.derive.values())]
        tested = [name for text in data.filters for name in condition(text).meta.root_names()]
        needed = [*roles, *cleaned, *tested, *column_names(self._context.query), *data.item_columns]
        return [name for name in dict.fromkeys(needed) if name and name not in data.derive]

    def _events(self, log: Columns) -> pl.DataFrame:
        """The columns of some events that `train.data.source` describes, and those of query features."""
        data = self._data
        read = features_of(log, self._context.query)
        if data.item_columns:
            read[LOG_ROW] = log.frame[LOG_ROW]
        read["item_row"] = rows_of(log, data.item, self._ids, self._table)
        read["weight"] = weights_of(log, data.weight)
        read["label"] = labels_of(log, data.label, data.positive_from)
        read["group"] = log.required(data.user, "a user")
        if data.time:
            read["time"] = log.times(data.time)
            log.refuse(data.time, read["time"] < 0, "a time of at least 0 (1970-01-01)")
        if data.session:
            read["session"] = log.required(data.session, "a session")
        return pl.DataFrame(read)


def build_items(
    events: Columns, item: str, rules: Mapping[str, Rule], time: str = "", absent: bool = False
) -> Columns:
    """One row for each item of a log, in the order of first appearance: `item_id`, and a value by each rule.

    Args:
        rules: column -> rule that gives an item's one value; absent and blank values are ignored.
        time: column of times, which defines `first`, `last` and ties; if empty, the order of the file does.
        absent: items may lack values, which are null.

    Raises:
        DataError: a value is no number where the rule needs one, or an item has no value and needs one.
    """
    ids = events.required(item, "an item id")
    table = pl.DataFrame({"item_id": ids, "__row_number": events.row_numbers.cast(pl.Int64)})
    for name, rule in rules.items():
        numeric = rule in ("mean", "median", "min", "max")
        values = events.numbers(name) if numeric else _not_blank(events.strings(name))
        table = table.with_columns(values.alias(name))
    if time:
        table = table.with_columns(events.times(time).alias("__time"))
        table = table.sort("__time", maintain_order=True)
    made = table.group_by("item_id").agg(pl.col("__row_number").min()).sort("__row_number")
    for name, rule in rules.items():
        made = made.join(_one_each(table, name, rule), on="item_id", how="left", maintain_order="left")
        lacking = made[name].is_null()
        if lacking.any() and not absent:
            found, quoted = made["item_id"][lacking.arg_max() or 0], '"' + name.replace('"', '""') + '"'
            is_text = events.frame[name].dtype == pl.String
            advised = f"TRIM({quoted}) <> ''" if is_text else f"{quoted} IS NOT NULL"
            raise DataError(
                f"{events.path}: column {name!r}: item {found!r} has no value in any of its events; "
                f"data.filters = [{json.dumps(advised, ensure_ascii=False)}] drops such events"
            )
    return Columns(events.path, made.drop("__row_number"), made["__row_number"])


def _not_blank(strings: pl.Series) -> pl.Series:
    return strings.to_frame("s").select(pl.when(pl.col("s").str.strip_chars() != "").then("s"))["s"]


def _one_each(table: pl.DataFrame, name: str, rule: Rule) -> pl.DataFrame:
    """`item_id` and the one value of each item; items without a value are left out."""
    present = table.filter(pl.col(name).is_not_null()).select("item_id", name)
    if rule == "most_common":
        counts = (
            present.with_row_index("__first").group_by("item_id", name).agg(pl.len(), pl.col("__first").min())
        )
        ranked = counts.sort(["len", "__first"], descending=[True, False])
        return ranked.unique("item_id", keep="first", maintain_order=True).select("item_id", name)
    return present.group_by("item_id", maintain_order=True).agg(getattr(pl.col(name), rule)())
