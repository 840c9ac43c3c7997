"""A log of the user's own: who dealt with which item.

    [data]
    kind = "events"
    events = "clicks.csv"     # user_id,item_id,at
    time = "at"
    items = "items.csv"       # item_id,title; left out, items are what the log names

What is wrong (an unknown item, a rating that is no number, a time before 1970) is an error that says
where it is; what is left out on purpose (filters, repeats, users with few events) is counted.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from rich.console import Console

from protos.errors import DataError
from protos.features import FeatureSpec
from train.config import EventsData
from train.sources.cleaning import clean
from train.sources.columns import Columns
from train.sources.feature_columns import features_of, items_of, names_of, read_columns, rows_of, weights_of
from train.sources.interactions import SEEN, lay_out, settle
from train.sources.locate import identity_of, locate
from train.sources.made_items import make_items
from train.sources.tables import RESERVED_OF_EVENTS, Tables

BY_TIME = "time"
BY_FILE = "file order, for want of a time column"


@dataclass(frozen=True)
class EventsSource:
    """The log, maybe a table of items, and what the features read from them.

    Args:
        data: the TOML's section.
        base: the folder of the TOML.
        query: features of the query tower; all but the history are what an event says beside the item.
        item: features of the item tower.
        test_file: a second log, of the same columns, to be tested on.
    """

    data: EventsData
    base: Path
    query: Mapping[str, FeatureSpec]
    item: Mapping[str, FeatureSpec]
    test_file: str = ""

    def identity(self) -> str:
        """sha256 over the sha256 of the files.

        Raises:
            DataError: a file is missing.
        """
        names = (self.data.events, self.data.items, self.test_file)
        return identity_of(locate(self.base, name) for name in names if name)

    def read(self, console: Console | None = None) -> Tables:
        """Items, events in order, and the history of all.

        Raises:
            DataError: a value is at fault; the text names file, row and column.
        """
        self._check_names()
        dropped: Counter[str] = Counter()
        logs = []
        for name in filter(None, (self.data.events, self.test_file)):
            columns, gone = clean(read_columns(locate(self.base, name), self._names()), self.data)
            logs.append(columns)
            dropped.update(gone)
        items, table = self._items(logs)
        events = pl.concat([self._events(log, n > 0, items, table) for n, log in enumerate(logs)])
        events, gone = settle(events, self.data.repeats, self.data.min_user_events)
        dropped.update(gone)
        if events.filter(SEEN).is_empty():
            raise DataError(f"{logs[0].path}: no positive event is left; dropped: {dict(dropped)}")
        if not self.data.items:
            items, events = _mentioned(items, events)
        pairs, history = lay_out(events)
        if not self.data.time and console:
            console.print(f"{self.data.events}: no time column is named, so the order of the file stands in")
        origin = {"events_file": self.data.events}
        origin |= {"items_file": self.data.items} if self.data.items else {}
        origin |= {"test_file": self.test_file} if self.test_file else {}
        order = BY_TIME if self.data.time else BY_FILE
        return Tables(items, pairs, self.data.display, dropped, origin=origin, history=history, order=order)

    def _check_names(self) -> None:
        for name in names_of(self.query):
            if name in RESERVED_OF_EVENTS:
                raise DataError(f"{self.data.events}: a query feature cannot read {name!r}: rename it")
        if self.data.items:
            return
        for name in names_of(self.item):
            if name != "item_id" and name not in self.data.item_columns:
                raise DataError(
                    f"{self.data.events}: column {name!r} of the items: without an items table, "
                    "data.item_columns must say how the values of its events become one"
                )

    def _names(self) -> list[str]:
        """The columns of a log that are read, each once."""
        data = self.data
        roles = [data.user, data.item, data.time, data.session, data.label, data.weight]
        cleaned = [*data.casts, *(each.of for each in data.derive.values())]
        tested = [each.column for each in data.filters]
        wanted = [*roles, *cleaned, *tested, *names_of(self.query), *data.item_columns]
        return [name for name in dict.fromkeys(wanted) if name and name not in data.derive]

    def _items(self, logs: list[Columns]) -> tuple[pl.DataFrame, str]:
        """The items, and what an error calls the table of them."""
        data = self.data
        features = names_of(self.item)
        if data.items:
            path = locate(self.base, data.items)
            others = [name for name in (*features, *data.display) if name != "item_id"]
            columns = read_columns(path, [data.item_id, *others])
            return items_of(columns, data.item_id, self.item, data.display), f"{path} ({data.item_id!r})"
        # What the log says of an item stands; what only a test file knows comes after it.
        made = [
            items_of(
                make_items(log, data.item, data.item_columns, data.time), "item_id", self.item, data.display
            )
            for log in logs
        ]
        return pl.concat(made).unique("item_id", keep="first", maintain_order=True), data.events

    def _events(self, log: Columns, tested: bool, items: pl.DataFrame, table: str) -> pl.DataFrame:
        """One log as `train.sources.interactions` takes it."""
        data = self.data
        read = features_of(log, self.query)
        read["item_row"] = rows_of(log, data.item, items["item_id"], table)
        read["weight"] = weights_of(log, data.weight)
        read["label"] = _labels(log, data)
        read["group"] = log.required(data.user, "a user")
        if data.time:
            read["time"] = log.times(data.time)
            log.refuse(data.time, read["time"] < 0, "a time of at least 0 (1970-01-01)")
        if data.session:
            read["session"] = log.required(data.session, "a session")
        if self.test_file:
            read["in_test_file"] = pl.repeat(tested, log.frame.height, dtype=pl.Boolean, eager=True)
        return pl.DataFrame(read)


def _labels(log: Columns, data: EventsData) -> pl.Series:
    """Float32: 1 for a positive event, 0 for another."""
    if data.positive_from is None:
        return pl.repeat(1.0, log.frame.height, dtype=pl.Float32, eager=True)
    labels = log.numbers(data.label, "a number")
    log.refuse(data.label, labels.is_null(), "a number")
    return (labels >= data.positive_from).cast(pl.Float32)


def _mentioned(items: pl.DataFrame, events: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The items that an event is left of, and the events with their new rows."""
    old = events["item_row"].unique().sort()
    rows = pl.DataFrame({"item_row": old}).with_row_index("__row")
    moved = events.join(rows, on="item_row", how="left", maintain_order="left")
    return items[old], moved.with_columns(item_row=pl.col("__row")).drop("__row")
