"""An invalid `[data]` or `[split]` is refused, and the error names the key."""

from typing import Any

import pytest

from twinspire.protos.toml_config import parse
from twinspire.train.config.data import SplitConfig
from twinspire.train.data.sources.events import EventsData
from twinspire.train.data.sources.movielens import MovielensData

EVENTS: list[tuple[dict[str, Any], str]] = [
    ({"user": ""}, "data.user: expected a name"),
    ({"positive_from": 4.0}, "data.positive_from: goes with label"),
    ({"items": "items.csv", "item_columns": {"a": "first"}}, "data.item_columns: the items table has"),
    ({"item_columns": {"item_id": "first"}}, "data.item_columns.item_id: "),
    ({"display": ["a"]}, "data.display: without an items table, 'a' must be one of item_columns"),
    (
        {"derive": {"h": {"of": "t", "take": "hour"}}, "casts": {"h": "lower"}},
        "data.casts.h: derived columns",
    ),
    (
        {"derive": {"h": {"of": "t", "take": "hour"}, "i": {"of": "h", "take": "hour"}}},
        "data.derive.i.of: expected a column of the events",
    ),
    ({"filters": ["a > 1", "a >"]}, r"data.filters\[1\]: expected a condition in SQL, .* got 'a >'"),
    *(
        ({"filters": [text]}, r"data.filters\[0\]: expected a condition in SQL")
        for text in ("a > 0, b > 0", "a > 0; b > 0", "a > 0 b < 5", "a > 0), (b > 0", "a > 5 EUR")
    ),
]


@pytest.mark.parametrize(("section", "message"), EVENTS)
def test_events_are_checked(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse({"kind": "events", "events": "log.csv", **section}, EventsData, "data")


SPLITS: list[tuple[dict[str, Any], str]] = [
    ({"by": "luck"}, "split.by: expected one of 'group', 'time', 'last', 'last_session', 'random'"),
    ({"by": "last", "test": 0.2}, 'split.test: goes with by = "group" or "time"'),
    ({"by": "last", "min_history": 3}, 'split.min_history: goes with by = "last_session"'),
    ({"cold_items": 1.0}, "split.cold_items: expected 0 to below 1"),
]


@pytest.mark.parametrize(("section", "message"), SPLITS)
def test_splits_are_checked(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(section, SplitConfig, "split")


def test_movielens_is_checked() -> None:
    with pytest.raises(ValueError, match=r"data\.positive_from: expected at least 0"):
        parse({"kind": "movielens", "positive_from": -1.0}, MovielensData, "data")
