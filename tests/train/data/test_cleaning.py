"""Cleaning applies casts, then derived columns, then filters; rules give an item one value."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from twinspire.protos.errors import DataError
from twinspire.protos.toml_config import parse
from twinspire.train.data.cleaning import clean, reads_other_events
from twinspire.train.data.columns import Columns
from twinspire.train.data.sources.events import EventsData, build_items


def cleaned(table: dict[str, list[Any]], **data: Any) -> tuple[Columns, dict[str, int]]:
    section = parse({"kind": "events", "events": "log.csv", **data}, EventsData)
    return clean(
        Columns(Path("log.csv"), pl.DataFrame(table)), section.casts, section.derive, section.filters
    )


def test_casts_come_first() -> None:
    table: dict[str, list[Any]] = {
        "n": ["1", " 2 ", None],
        "x": ["1.5", "nan", None],
        "s": [7, 8, None],
        "name": ["  Anna ", "ÉVA", None],
        "colour": ["Red", "BLUE", None],
        "at": ["1970-01-02", "1970-01-01T00:00:01", "1970-01-01"],
    }
    casts = {"n": "integer", "x": "number", "s": "string", "name": "strip", "colour": "lower", "at": "time"}
    columns, dropped = cleaned(table, casts=casts)
    assert columns.frame.to_dict(as_series=False) == {
        "n": [1, 2, None],
        "x": [1.5, None, None],
        "s": ["7", "8", None],
        "name": ["Anna", "ÉVA", None],
        "colour": ["red", "blue", None],
        "at": [86400.0, 1.0, 0.0],
    }
    assert dropped == {}


@pytest.mark.parametrize(
    ("take", "expected"),
    [
        ("hour", ["23", "0"]),
        ("weekday", ["7", "1"]),
        ("day", ["31", "29"]),
        ("month", ["12", "2"]),
        ("year", ["2023", "2024"]),
    ],
)
def test_columns_are_derived_from_times(take: str, expected: list[str]) -> None:
    times = ["2023-12-31T23:59:59", "2024-02-29T01:00:00+01:00"]
    if take == "weekday":
        times[1] = "2024-02-26"
    derive = {"part": {"of": "at", "take": take}}
    columns, _ = cleaned({"at": times}, derive=derive)
    assert columns.frame["part"].to_list() == expected
    seconds, _ = cleaned({"at": times}, derive=derive, casts={"at": "time"})
    assert seconds.frame["part"].to_list() == expected


VALUES = [None, "", " ", "5", "7", "10", "x5"]
NUMBERS = [None, 5, 7, 10]
FILTERS: list[tuple[str, list[Any], list[Any]]] = [
    ("TRIM(c) <> ''", VALUES, ["5", "7", "10", "x5"]),
    ("c ~ '^5'", VALUES, ["5"]),
    ("c IS NULL OR NOT c ~ '5'", VALUES, [None, "", " ", "7", "10"]),
    ("c IN ('5', '10')", VALUES, ["5", "10"]),
    ("c > 7", NUMBERS, [10]),
    ("CAST(c AS DOUBLE) BETWEEN 5 AND 7.5", ["5", "7", "10"], ["5", "7"]),
]


@pytest.mark.parametrize(("test", "values", "kept"), FILTERS)
def test_a_filter_counts_what_it_drops(test: str, values: list[Any], kept: list[Any]) -> None:
    columns, dropped = cleaned({"c": values}, filters=[test])
    assert columns.frame["c"].to_list() == kept
    assert dropped == {f"not {test}": len(values) - len(kept)}
    assert [values[place] for place in columns.row_numbers] == kept


def test_filters_apply_in_order_and_read_derived_columns() -> None:
    columns, dropped = cleaned(
        {"n": [-1, 1, 2, 3], "at": ["2024-01-01", "2024-01-01", "2024-02-01", "2024-03-01"]},
        derive={"month": {"of": "at", "take": "month"}},
        filters=["n > 0", "month <> '1'"],
    )
    assert columns.frame["n"].to_list() == [2, 3]
    assert dropped == {"not n > 0": 1, "not month <> '1'": 1}
    with pytest.raises(DataError, match=r"log\.csv: row 4, column 'n': expected"):
        columns.refuse("n", columns.frame["n"] == 3, "less")


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ("s > 1", r"the filter 's > 1' cannot be tested: .*columns of CSV and TSV "),
        ("n", "expected true or false for each event"),
    ],
)
def test_a_filter_that_is_no_test_is_refused(test: str, said: str) -> None:
    with pytest.raises(DataError, match=rf"log\.csv: .*{said}"):
        cleaned({"n": [1, 2], "s": ["1", "2"]}, filters=[test])


@pytest.mark.parametrize(
    ("test", "others"),
    [
        ("price > 3", False),
        ("price > 3 AND price < 2 * 9", False),
        ("LENGTH(TRIM(name)) > 1", False),
        ("name IN ('a', 'b')", False),
        ("CASE WHEN price > 3 THEN name = 'a' ELSE TRUE END", False),
        ("TRUE", False),
        ("name IS NOT NULL AND NOT (price IS NULL)", False),
        ("COALESCE(price, 0) > 1 AND ABS(price) < 9 AND FLOOR(price) < 8", False),
        ("name ~ '^[0-9]{5}' AND name LIKE '%a%'", False),
        ("EXTRACT(YEAR FROM at) > 2000", False),
        ("price > AVG(price)", True),
        ("name = 'a' OR price > 2 * MAX(price) - 1", True),
        ("price > AVG(price) OVER (PARTITION BY name)", True),
        ("COUNT(*) > 3", True),
        ("SUM(price) > 0 AND name = 'a'", True),
        ("ROW_NUMBER() OVER (ORDER BY price) > 3", True),
        ("CORR(price, at) > 0.5", True),
        ("price < QUANTILE_CONT(price, 0.5)", True),
        ("COUNT(DISTINCT name) > 2", True),
        ("DATE(day) > DATE '2020-01-01'", True),
    ],
)
def test_a_filter_on_other_events_is_recognised(test: str, others: bool) -> None:
    assert reads_other_events(test) == others


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("first", ["3", "9"]),
        ("last", ["1", "9"]),
        ("most_common", ["2", "9"]),
        ("mean", [2.0, 9.0]),
        ("median", [2.0, 9.0]),
        ("min", [1.0, 9.0]),
        ("max", [3.0, 9.0]),
    ],
)
def test_a_rule_gives_an_item_one_value(rule: Any, expected: list[Any]) -> None:
    log = {
        "item": ["a", "b", "a", "a", "a", "a"],
        "v": ["1", "9", "3", "2", "2", None],
        "t": [9, 1, 2, 3, 4, 5],
    }
    made = build_items(Columns(Path("log.csv"), pl.DataFrame(log)), "item", {"v": rule}, "t")
    assert made.frame["item_id"].to_list() == ["a", "b"]
    assert made.frame["v"].to_list() == expected


def test_of_equally_common_values_the_first_wins() -> None:
    log = pl.DataFrame({"item": ["a"] * 5, "v": [" ", "z", "b", "b", "z"], "t": [1, 5, 2, 4, 3]})
    columns = Columns(Path("log.csv"), log)
    assert build_items(columns, "item", {"v": "most_common"}).frame["v"].to_list() == ["z"]
    assert build_items(columns, "item", {"v": "most_common"}, "t").frame["v"].to_list() == ["b"]


@pytest.mark.parametrize(
    ("values", "rule"),
    [(["1", " "], "first"), (["1", None], "max"), ([1, None], "first"), ([1.5, None], "mean")],
)
def test_an_item_without_a_value_is_named_and_the_advised_filter_drops_its_events(
    values: list[Any], rule: Any
) -> None:
    log = {"item": ["a", "b"], 'unit "net" price': values}
    with pytest.raises(DataError, match=r"log\.csv: column '.*': item 'b' has no value ") as error:
        build_items(Columns(Path("log.csv"), pl.DataFrame(log)), "item", {'unit "net" price': rule})
    advised = json.loads(str(error.value).partition("data.filters = ")[2].partition(" drops")[0])
    assert cleaned(log, filters=advised)[0].frame["item"].to_list() == ["a"]
