"""Times in any unit since 1970, and ids that another program has written as floats."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.helpers.sources import source_context
from twinspire.protos.errors import DataError
from twinspire.protos.features import HistoryFeature, IdFeature
from twinspire.protos.toml_config import parse
from twinspire.train.data.cleaning import cast_columns
from twinspire.train.data.columns import Columns
from twinspire.train.data.source import Tables
from twinspire.train.data.sources.events import EventsData, EventsSource

SECONDS = [978300760.0, 1700000000.5]


def columns(values: Any, dtype: Any = None) -> Columns:
    return Columns(Path("log.csv"), pl.DataFrame({"at": pl.Series(values, dtype=dtype, strict=False)}))


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("as_text", [False, True])
def test_seconds_milliseconds_microseconds_and_nanoseconds_are_told_apart(scale: int, as_text: bool) -> None:
    values: list[Any] = [int(value * scale) for value in SECONDS] if scale > 1 else SECONDS
    found = columns([*map(str, values)] if as_text else values).times("at")
    assert found.to_list() == pytest.approx(SECONDS)


def test_the_order_of_a_log_is_a_time_as_it_was() -> None:
    assert columns([3, -1, 0]).times("at").to_list() == [3.0, -1.0, 0.0]
    assert columns([], pl.Int64).times("at").to_list() == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            [1_700_000_000, 1_700_000_000_000],
            "row 2, column 'at': .* seconds since 1970 as in row 1, got 1700000000000",
        ),
        ([0, 32_503_680_000], "row 2, column 'at': expected a time of the years 1970 to 2100"),
        ([20_231_105_123_000], "row 1, column 'at': expected a time of the years 1970 to 2100"),
    ],
)
def test_a_time_of_no_such_unit_is_refused(values: list[int], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        columns(values).times("at")


def test_an_id_that_was_written_as_a_float_is_one_by_a_cast() -> None:
    read = cast_columns(columns([1.0, None, 85048.0]), {"at": "id"})
    assert read.strings("at").to_list() == ["1", None, "85048"]
    texts = cast_columns(columns(["1.0", "007", " 8.00 ", "8.5", "v1.0", None]), {"at": "id"})
    assert texts.strings("at").to_list() == ["1", "007", "8", "8.5", "v1.0", None]


def test_a_float_that_is_no_id_is_refused() -> None:
    with pytest.raises(DataError, match=r"row 2, column 'at': expected a whole number below 2\^53, got 1\.5"):
        cast_columns(columns([1.0, 1.5]), {"at": "id"})


def test_floats_as_ids_are_refused_with_the_key_of_their_casts() -> None:
    read = replace(columns([1.0]), casts="item_casts")
    hint = re.escape('expected an id, got 1.0; item_casts."at" = "id" in [data] reads 1.0 as "1"')
    for kept in (read, read.keep(pl.Series([True])), read.with_columns(pl.Series("other", [1]))):
        with pytest.raises(DataError, match=f"{hint}$"):
            kept.unique_ids("at")
    with pytest.raises(DataError, match=r"expected a string, got 1\.5$"):
        replace(columns([1.5]), casts="casts").strings("at")


def events(folder: Path, **data: Any) -> Tables:
    pl.DataFrame({"user_id": ["a"] * 3, "item_id": [1.0, 2.0, 3.0]}).write_parquet(folder / "log.parquet")
    pl.DataFrame({"item_id": [2.0, 1.0]}).write_parquet(folder / "items.parquet")
    casts = {"casts": {"item_id": "id"}, "item_casts": {"item_id": "id"}}
    section = parse(
        {"kind": "events", "events": "log.parquet", "items": "items.parquet", **casts, **data}, EventsData
    )
    query = {"history": HistoryFeature("history")}
    return EventsSource(section, source_context(folder, query, {"id": IdFeature("id")})).read()


def test_events_of_items_that_the_table_lacks_are_refused_or_dropped_and_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log\.parquet: row 3, column 'item_id': expected the id of an item"):
        events(tmp_path)
    tables = events(tmp_path, unknown_items="drop")
    assert tables.items["item_id"].to_list() == ["2", "1"]
    assert tables.pairs.collect()["item_row"].to_list() == [1, 0]
    assert tables.dropped == {"event of an unknown item": 1}


def test_events_without_a_user_or_an_item_are_refused_or_dropped_and_counted(tmp_path: Path) -> None:
    log = {"user_id": ["a", None, "a", "a", "a"], "item_id": ["1", "1", "", "2", "3"]}
    log["at"] = [1.0, 2.0, 3.0, 4.0, math.nan]
    pl.DataFrame(log).write_parquet(tmp_path / "log.parquet")
    context = source_context(tmp_path, {"history": HistoryFeature("history")}, {"id": IdFeature("id")})
    section = {"kind": "events", "events": "log.parquet", "time": "at"}
    with pytest.raises(DataError, match="row 3, column 'item_id': expected an item id"):
        EventsSource(parse(section, EventsData), context).read()
    tables = EventsSource(parse({**section, "blank_rows": "drop"}, EventsData), context).read()
    assert tables.items["item_id"].to_list() == ["1", "2"]
    assert tables.dropped == {"blank row": 3}


@pytest.mark.parametrize("key", [{"unknown_items": "drop"}, {"item_casts": {"item_id": "id"}}])
def test_what_is_said_of_a_table_of_items_goes_with_one(key: Any) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(key))}: goes with items"):
        parse({"kind": "events", "events": "log.csv", **key}, EventsData)
