"""A log is read in order; an error names its place, and dropped events are counted."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from tests.helpers.sources import source_context
from twinspire.protos.errors import DataError
from twinspire.protos.features import (
    CategoryFeature,
    FeatureSpec,
    HistoryFeature,
    IdFeature,
    NumberFeature,
    TextFeature,
)
from twinspire.protos.toml_config import parse
from twinspire.train.config.data import FilterConfig
from twinspire.train.data import columns
from twinspire.train.data.source import Tables, sample_groups, share_of_repeats
from twinspire.train.data.sources.events import EventsData, EventsSource

HISTORY: dict[str, FeatureSpec] = {"history": HistoryFeature("history")}
ID: dict[str, FeatureSpec] = {"id": IdFeature("id")}
LOG = "user_id,item_id,at\nb,x,5\na,y,3\nb,y,1\na,x,3\na,z,1\n"
ITEMS = "item_id,title\nz,Zed\ny,Why\nx,Ex\nw,Double\n"


def source(
    folder: Path,
    log: str | bytes = LOG,
    items: str = "",
    query: dict[str, FeatureSpec] = HISTORY,
    item: dict[str, FeatureSpec] = ID,
    name: str = "log.csv",
    filter_by: FilterConfig | None = None,
    **data: Any,
) -> EventsSource:
    (folder / name).write_bytes(log if isinstance(log, bytes) else log.encode())
    if items:
        (folder / "items.csv").write_text(items)
        data["items"] = "items.csv"
    section = parse({"kind": "events", "events": name, **data}, EventsData)
    return EventsSource(section, source_context(folder, query, item, filter_by))


def read(folder: Path, log: str = LOG, items: str = "", **others: Any) -> Tables:
    return source(folder, log, items, **others).read()


def rows(tables: Tables, *columns: str) -> list[tuple[Any, ...]]:
    """User and item of every event, and other columns."""
    pairs, users = tables.pairs.collect(), tables.users
    assert users is not None
    ids = tables.items["item_id"].gather(pairs["item_row"])
    return pairs.select(users.gather(pairs["group"]).alias("user"), ids.alias("id"), *columns).rows()


def history(tables: Tables) -> list[str]:
    """The items of positive events."""
    return [item for _, item, label in rows(tables, "label") if label > 0]


def test_events_are_sorted_by_user_and_time(tmp_path: Path) -> None:
    tables = read(tmp_path, time="at")
    assert rows(tables, "time") == [
        ("a", "z", 1.0),
        ("a", "y", 3.0),
        ("a", "x", 3.0),
        ("b", "y", 1.0),
        ("b", "x", 5.0),
    ]
    assert tables.items.rows() == [("x",), ("y",), ("z",)]
    assert tables.order == "time"
    assert tables.dropped == {}
    types = {"item_row": pl.UInt32, "weight": pl.Float32, "label": pl.Float32, "group": pl.UInt32}
    assert dict(tables.pairs.schema) == {**types, "time": pl.Float64}


def test_without_a_time_events_are_in_file_order_and_a_message_says_so(tmp_path: Path) -> None:
    log = source(tmp_path)
    console = Console(file=io.StringIO(), width=200)
    tables = replace(log, context=replace(log.context, console=console)).read()
    assert rows(tables) == [("a", "y"), ("a", "x"), ("a", "z"), ("b", "x"), ("b", "y")]
    assert tables.order == "file order, for want of a time column"
    assert "log.csv: data.time is not set; events are in file order" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "time" not in tables.pairs.columns


def test_only_positives_enter_the_history(tmp_path: Path) -> None:
    log = "user_id,item_id,stars\na,x,4\na,y,3.5\na,z,5\na,y,1\n"
    tables = read(tmp_path, log, label="stars", positive_from=4.0)
    assert rows(tables, "label") == [("a", "x", 1.0), ("a", "y", 0.0), ("a", "z", 1.0), ("a", "y", 0.0)]
    assert history(tables) == ["x", "z"]
    tables = read(tmp_path, log.replace("3.5", "0").replace("y,1", "y,-1"), label="stars")
    assert tables.pairs.collect()["label"].to_list() == [1, 0, 1, 0]
    assert history(tables) == ["x", "z"]


def test_dropped_events_are_counted(tmp_path: Path) -> None:
    log = "user_id,item_id,at\na,x,1\na,x,1\na,x,2\na,y,3\nb,x,1\nc,x,1\nc,x,2\n"
    kept = read(tmp_path, log, time="at", repeats="keep")
    twice, short = (
        "event of the same user, item and time as another",
        "event of a user with fewer than 2 events",
    )
    assert kept.dropped == {twice: 1, short: 1}
    assert rows(kept) == [("a", "x"), ("a", "x"), ("a", "y"), ("c", "x"), ("c", "x")]
    first = read(tmp_path, log, time="at", repeats="first")
    again = "event with an item of which the user had a positive event before"
    assert first.dropped == {twice: 1, again: 2, short: 2}
    assert rows(first) == [("a", "x"), ("a", "y")]
    everyone = read(tmp_path, log, time="at", min_user_events=1)
    assert ("b", "x") in rows(everyone)


@pytest.mark.parametrize(
    ("events", "repeats", "said"),
    [
        (19, "first", "5.0% repeats, at most 5%"),
        (18, "keep", "5.3% repeats, more than 5%"),
    ],
)
def test_repeats_follow_the_share_of_repeated_events(
    tmp_path: Path, events: int, repeats: str, said: str
) -> None:
    pairs = [f"{n // 2},{n % 2},1\n" for n in range(events)]
    log = "user_id,item_id,at\n" + "".join(pairs) + "0,1,7\n"
    twice = pairs[0]  # an event that the file has twice is not a repeat
    data = source(tmp_path, log + twice, time="at")
    console = Console(file=io.StringIO(), width=50)
    tables = replace(data, context=replace(data.context, console=console)).read()
    assert tables.repeats == repeats
    assert f'log.csv: data.repeats = "{repeats}": {said}' in console.file.getvalue()  # type: ignore[attr-defined]
    again = "event with an item of which the user had a positive event before"
    assert tables.dropped.get(again, 0) == (1 if repeats == "first" else 0)


def test_up_to_the_first_click_all_impressions_of_an_item_are_kept(tmp_path: Path) -> None:
    shown = [
        ("x", 1, 0),
        ("y", 2, 0),
        ("x", 3, 1),
        ("x", 4, 0),
        ("z", 5, 0),
        ("z", 5, 1),
        ("y", 6, 0),
        ("x", 7, 1),
    ]
    log = "user_id,item_id,at,click\n" + "".join(f"a,{item},{at},{click}\n" for item, at, click in shown)
    labels: dict[str, Any] = {"time": "at", "label": "click", "positive_from": 1}

    def kept(repeats: str) -> list[tuple[Any, ...]]:
        tables = read(tmp_path, log, repeats=repeats, **labels)
        return [each[1:] for each in rows(tables, "time", "label")]

    once = [each for each in shown if each != ("z", 5, 0)]  # at the same time as the click
    assert kept("keep") == once
    assert kept("first") == [each for each in once if each not in (("x", 4, 0), ("x", 7, 1))]
    assert share_of_repeats(read(tmp_path, log, repeats="keep", **labels).pairs) == 1 / 3


def test_without_times_an_item_that_comes_again_is_a_repeat(tmp_path: Path) -> None:
    assert read(tmp_path, "user_id,item_id\na,x\na,y\na,x\n").repeats == "keep"
    assert read(tmp_path, "user_id,item_id\na,x\na,y\nb,x\nb,y\n").repeats == "first"


def test_items_may_come_from_a_table(tmp_path: Path) -> None:
    title: dict[str, FeatureSpec] = {**ID, "title": TextFeature("text", "title")}
    tables = read(tmp_path, LOG, ITEMS, item=title, display=["title"], time="at")
    assert tables.items.rows() == [("z", "Zed"), ("y", "Why"), ("x", "Ex"), ("w", "Double")]
    assert tables.display == ("title",)
    assert history(tables) == ["z", "y", "x", "y", "x"]
    renamed = read(tmp_path, LOG, ITEMS.replace("item_id", "sku"), item=title, item_id="sku", time="at")
    assert renamed.items.equals(tables.items)


def test_context_session_and_weight_are_read(tmp_path: Path) -> None:
    log = "who,what,at,visit,n,device,age\na,x,1,s1,2,phone,30\na,y,2,s2,0.5,,\n"
    query: dict[str, FeatureSpec] = {
        **HISTORY,
        "device": CategoryFeature("category", "device"),
        "age": NumberFeature("number", "age"),
    }
    (tmp_path / "log.csv").write_text(log)
    data = EventsData("events", "log.csv", "who", "what", time="at", session="visit", weight="n")
    tables = EventsSource(data, source_context(tmp_path, query, ID)).read()
    assert rows(tables, "device", "age", "session", "weight") == [
        ("a", "x", "phone", 30.0, "s1", 2.0),
        ("a", "y", None, None, "s2", 0.5),
    ]


def test_a_sample_takes_whole_users_with_their_histories(tmp_path: Path) -> None:
    log = "user_id,item_id\n" + "".join(f"u{n % 20},i{n}\n" for n in range(200))
    whole = read(tmp_path, log)
    small = sample_groups(whole, 30, seed=0)
    assert small.items.height == 30
    kept = {user for user, _ in rows(small)}
    assert len(kept) == 3
    assert rows(small) == [row for row in rows(whole) if row[0] in kept]


def test_a_file_may_be_in_the_folder_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, base = tmp_path / "elsewhere", tmp_path / "base"
    elsewhere.mkdir()
    base.mkdir()
    log = source(elsewhere)
    absent = EventsSource(log.data, source_context(base, HISTORY, ID))
    with pytest.raises(DataError, match=r"base/log\.csv: cannot be read: No such file.*TWINSPIRE_DATA"):
        absent.identity()
    monkeypatch.setenv("TWINSPIRE_DATA", str(elsewhere))
    assert absent.identity() == log.identity()
    assert absent.read().pairs.collect().equals(log.read().pairs.collect())
    (base / "log.csv").write_text("user_id,item_id\na,x\na,y\n")
    assert absent.identity() != log.identity(), "the file beside the TOML comes first"


TITLE = {**ID, "title": TextFeature("text", "title")}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown item": (
        {"log": "user_id,item_id\na,x\na,v\n", "items": ITEMS},
        r"log\.csv: row 2, column 'item_id': expected the id of an item in .*items\.csv .*, got 'v'",
    ),
    "negative time": (
        {"log": "user_id,item_id,at\na,x,4\na,y,-1\n", "time": "at"},
        r"log\.csv: row 2, column 'at': expected a time of at least 0 \(1970-01-01\), got '-1'",
    ),
    "filtered": (
        {"filters": ["item_id = 'v'"]},
        r"no event passes the filters; dropped: .*item_id = 'v'.*: 5",
    ),
    "only short users": ({"min_user_events": 9}, r"no positive event is left; dropped: .*fewer than 9.*: 5"),
    "reserved": (
        {"query": {"p": CategoryFeature("category", "position")}},
        r"log\.csv: a query feature cannot read 'position': rename it",
    ),
    "item column without a rule": (
        {"item": TITLE},
        r"log\.csv: column 'title' of the items: .* data\.item_columns must name the rule",
    ),
    "row numbers after a filter": (
        {
            "log": "user_id,item_id,at\na,x,1\n,y,2\na,y,3\na,z,-4\n",
            "time": "at",
            "filters": ["user_id IS NOT NULL"],
        },
        r"log\.csv: row 4, column 'at': expected a time of at least 0",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_names_its_place(tmp_path: Path, fault: str) -> None:
    arguments, message = FAULTS[fault]
    with pytest.raises(DataError, match=message):
        read(tmp_path, **arguments)


SLICED: dict[str, tuple[dict[str, Any], str]] = {
    "another unit": (
        {"log": "user_id,item_id,at\na,x,1700000000\na,y,1700000001\na,z,1700000000000\n", "time": "at"},
        r"log\.csv: row 3, column 'at': .* in seconds since 1970 as in row 1, got '1700000000000'",
    ),
    "a number after dates": (
        {"log": "user_id,item_id,at\na,x,2026-01-01\na,y,2026-01-02\na,z,5\n", "time": "at"},
        r"log\.csv: row 3, column 'at': expected a number or an ISO date, got '5'",
    ),
    "a date after numbers": (
        {"log": "user_id,item_id,at\na,x,1\na,y,2\na,z,2026-01-01\n", "time": "at"},
        r"log\.csv: row 3, column 'at': expected a number or an ISO date, got '2026-01-01'",
    ),
    "a user that is blank": (
        {"log": "user_id,item_id\na,x\na,y\n ,z\n"},
        r"log\.csv: row 3, column 'user_id': expected a user, got ' '",
    ),
    "an unknown item": (
        {"log": "user_id,item_id\na,x\na,y\na,v\n", "items": ITEMS},
        r"log\.csv: row 3, column 'item_id': expected the id of an item",
    ),
    "an item id that is no number": (
        {
            "log": "user_id,item_id\na,1\na,1\na,1\na,x\na,2\n",
            "filter_by": FilterConfig(fields=("item_id",), types={"item_id": "number"}),
        },
        r"/log\.csv: row 4, column 'item_id': expected a finite number, got 'x'",
    ),
    "no event that passes": (
        {"filters": ["item_id = 'v'"]},
        r"no event passes the filters; dropped: .*item_id = 'v'.*: 5",
    ),
}


@pytest.mark.parametrize("fault", SLICED)
def test_an_error_in_a_later_slice_names_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(columns, "ROWS_AT_ONCE", 2)
    arguments, message = SLICED[fault]
    with pytest.raises(DataError, match=message):
        read(tmp_path, **arguments)


def test_a_filter_on_other_events_compares_those_of_all_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = "user_id,item_id,price\na,x,1\na,y,1\na,z,9\na,w,9\n"
    arguments: dict[str, Any] = {"filters": ["price > AVG(price)"], "casts": {"price": "number"}}
    whole = rows(read(tmp_path, log, **arguments))
    monkeypatch.setattr(columns, "ROWS_AT_ONCE", 2)
    assert rows(read(tmp_path, log, **arguments)) == whole == [("a", "z"), ("a", "w")]


def test_a_column_of_json_has_one_type_in_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "ROWS_AT_ONCE", 2)
    values = [None, None, "b", " ", None]
    lines = [json.dumps({"user_id": "a", "item_id": f"i{n}", "s": s}) for n, s in enumerate(values)]
    log = "\n".join(lines)
    assert rows(read(tmp_path, log, name="log.jsonl", filters=["TRIM(s) = 'b'"], min_user_events=1)) == [
        ("a", "i2")
    ]
    with pytest.raises(DataError, match="column 'visitor' is missing; columns present: user_id, item_id, s"):
        read(tmp_path, log, name="log.jsonl", user="visitor")
