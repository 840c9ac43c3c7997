r"""`[data]` of logged events: which column is what, and how the log is cleaned.

    casts = { Quantity = "integer", InvoiceDate = "time" }
    derive.month = { of = "InvoiceDate", take = "month" }
    filters = [{ column = "Quantity", above = 0 }, { column = "StockCode", matches = '^\d{5}' }]
    item_columns = { Description = "most_common" }

Cleaning goes in that order: casts, then derived columns, then filters.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from train.config.checks import at_least

Cast = Literal["string", "integer", "number", "time", "lower", "strip"]
Rule = Literal["first", "last", "most_common", "mean", "median", "min", "max"]


@dataclass(frozen=True)
class Derived:
    """A column made of a time: the hour of the day, say, as a string.

    Args:
        of: the column of times; a time without a zone is read as UTC.
        take: `hour` is "0" to "23", `weekday` "1" (Monday) to "7", `day` "1" to "31", `month` "1" to "12".
    """

    of: str
    take: Literal["hour", "weekday", "day", "month", "year"]


@dataclass(frozen=True)
class Filter:
    """Events that stay: those whose `column` passes the one test that is given.

    An absent value passes none but `not_matches` and `not_in`.

    Args:
        present: true; the value is there and not blank.
        matches: a regular expression, found anywhere in the value.
        not_matches: a regular expression, found nowhere in it.
        above: the value is a number greater than this; the three after it likewise.
        is_in: the value, as a string, is one of these.
        not_in: the value, as a string, is none of these.
    """

    column: str
    present: Literal[True] | None = None
    matches: str | None = None
    not_matches: str | None = None
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    is_in: tuple[str, ...] | None = None
    not_in: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        given = [name for name in _TESTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"column: expected exactly one of {', '.join(_TESTS)} beside it, got {given}")
        if given[0] in ("matches", "not_matches"):
            try:
                re.compile(self.value)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"{given[0]}: not a regular expression: {error}") from None

    @property
    def test(self) -> str:
        """Which test is given."""
        return next(name for name in _TESTS if getattr(self, name) is not None)

    @property
    def value(self) -> Any:
        """What the value is tested against."""
        return getattr(self, self.test)

    @property
    def reason(self) -> str:
        """Why an event went, as the report says it: `Quantity not above 0`."""
        if self.test == "present":
            return f"{self.column} absent"
        value = self.value
        if isinstance(value, tuple):
            value = ", ".join(value) if len(value) <= 5 else f"the {len(value)} given"
        elif isinstance(value, float):
            value = f"{value:g}"
        return f"{self.column} {_REASONS[self.test]} {value}"


_TESTS = tuple(each.name for each in dataclasses.fields(Filter) if each.name != "column")
_REASONS = {
    "matches": "does not match",
    "not_matches": "matches",
    "above": "not above",
    "at_least": "not at least",
    "below": "not below",
    "at_most": "not at most",
    "is_in": "not in",
    "not_in": "in",
}


@dataclass(frozen=True)
class EventsData:
    """A log of the user's own: who dealt with which item, and when.

    Paths are relative to the TOML file; a file that is not there is looked for in the folder that the
    environment variable TWINSPIRE_DATA names. CSV, TSV, JSONL or Parquet.

    Args:
        events: the table of events.
        user: column of events, the user's id.
        item: column of events, the item's id.
        time: column of events, numbers or ISO dates; without it the order of the file stands in.
        session: column of events; what a user does in one visit or order.
        label: column of events, a number; without it every event is positive.
        positive_from: an event is positive if its label is at least this.
        weight: column of events; an event counts this much in the loss.
        items: the table of items; if empty, items are what the events name.
        item_id: the items table's column of unique ids.
        item_columns: without an items table: column of events -> how its values become one an item.
        display: columns of the items that an answer shows beside an id.
        repeats: `keep` keeps what a user does again; `first` only the first event with an item.
        min_user_events: users with fewer events than this go.
        max_items: keep a seeded sample of whole users with about this many items; 0 keeps all.
        casts: column of events -> what it is read as.
        derive: name of a new column -> what it is made of.
        filters: events that fail one go, and are counted.
    """

    kind: Literal["events"]
    events: str
    user: str = "user_id"
    item: str = "item_id"
    time: str = ""
    session: str = ""
    label: str = ""
    positive_from: float | None = None
    weight: str = ""
    items: str = ""
    item_id: str = "item_id"
    item_columns: dict[str, Rule] = field(default_factory=dict)
    display: tuple[str, ...] = ()
    repeats: Literal["keep", "first"] = "keep"
    min_user_events: int = 2
    max_items: int = 0
    casts: dict[str, Cast] = field(default_factory=dict)
    derive: dict[str, Derived] = field(default_factory=dict)
    filters: tuple[Filter, ...] = ()

    def __post_init__(self) -> None:
        at_least(0, self, "max_items")
        at_least(1, self, "min_user_events")
        for name in ("events", "user", "item"):
            if not getattr(self, name):
                raise ValueError(f"{name}: expected a name, got an empty one")
        if (self.positive_from is None) != (not self.label):
            raise ValueError("positive_from: goes with label, the column of numbers that it is held against")
        if self.items and self.item_columns:
            raise ValueError("item_columns: the items table has the columns of items; leave one of them out")
        for name in self.display:
            if not self.items and name not in self.item_columns:
                raise ValueError(f"display: without an items table, {name!r} must be one of item_columns")
        if "item_id" in self.item_columns:
            raise ValueError("item_columns.item_id: this is what the ids of items are called")
        for name in self.casts:
            if name in self.derive:
                raise ValueError(f"casts.{name}: derived columns come after the casts")
        for name, derived in self.derive.items():
            if derived.of in self.derive:
                raise ValueError(f"derive.{name}.of: expected a column of the events, got a derived one")
