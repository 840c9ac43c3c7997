"""Which items pass a filter, by the columns alone."""

import tracemalloc
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.filter_oracle import FILTERS as NODES
from tests.helpers.filter_oracle import passes
from tests.helpers.serving.segments import segment_of
from tests.helpers.tiny import FILTERS, filter_values
from twinspire.protos.errors import InvalidInput
from twinspire.protos.filter_kinds import KINDS, FilterKind, FilterType
from twinspire.serving.filters.columns import FilterColumns
from twinspire.serving.filters.compiled import FilterCache, content_of
from twinspire.serving.filters.expression import AllOf, AnyOf, Equals, Filter, In, Not, Range, where
from twinspire.serving.filters.kinds import COMPARISONS, FilterComparison, Time

ITEMS = filter_values(120)
COLUMNS = FilterColumns.from_values(FILTERS, ITEMS)
SEGMENT = segment_of(ITEMS, COLUMNS)
RAW = st.fixed_dictionaries(
    {},
    optional={
        "section": st.text(max_size=3),
        "tags": st.lists(st.sampled_from(["a", "b", "é", "tag 1"]), max_size=3, unique=True),
        "price": st.floats(allow_nan=False, allow_infinity=False),
        "sale": st.booleans(),
    },
)


@given(node=NODES)
@settings(max_examples=60, deadline=None)
def test_a_tree_passes_the_items_that_plain_python_says(node: Filter) -> None:
    expected = [row for row, item in enumerate(ITEMS) if passes(node, item)]
    assert [*COLUMNS.evaluate(node)] == expected


@given(items=st.lists(RAW, min_size=1, max_size=30), node=NODES)
@settings(max_examples=40, deadline=None)
def test_any_items_are_held_as_they_are(items: list[dict[str, Any]], node: Filter) -> None:
    given = [{k: v for k, v in item.items() if not isinstance(v, str) or v.strip()} for item in items]
    columns = FilterColumns.from_values(FILTERS, items)
    assert [*columns.evaluate(node)] == [row for row, item in enumerate(given) if passes(node, item)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"price": 3}, 3.0),
        ({"price": " 3.5 "}, 3.5),
        ({"price": float("nan")}, None),
        ({"price": ""}, None),
        ({"price": None}, None),
        ({}, None),
    ],
)
def test_a_number_may_come_as_a_text(value: Mapping[str, Any], expected: float | None) -> None:
    columns = FilterColumns.from_values({"price": "number"}, [value])
    assert [*columns.evaluate(where.price.is_present())] == ([] if expected is None else [0])
    if expected is not None:
        assert [*columns.evaluate(where.price == expected)] == [0]


@pytest.mark.parametrize(
    "raw",
    [
        "2026-03-01T12:00:00+00:00",
        "2026-03-01T13:00:00+01:00",
        "2026-03-01 12:00",
        1772366400,
        "1772366400.0",
        "20260301T12",
        datetime(2026, 3, 1, 13, tzinfo=timezone(timedelta(hours=1))),
    ],
)
def test_a_time_may_come_in_several_forms(raw: object) -> None:
    columns = FilterColumns.from_values({"at": "time"}, [{"at": raw}])
    assert [*columns.evaluate(where.at == datetime(2026, 3, 1, 12, tzinfo=UTC))] == [0]


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        ("number", "three"),
        ("number", float("inf")),
        ("number", 10**400),
        ("number", True),
        ("number", "1_000"),
        ("time", False),
        ("time", "2026"),
        ("time", "20261301"),
        ("boolean", "yes"),
        ("boolean", 2),
        ("time", "yesterday"),
        ("time", 1e30),
        ("string", ["a", "b"]),
        ("strings", [1]),
        ("strings", "\ud800"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(kind: Any, raw: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        FilterColumns.from_values({"field": kind}, [{}, {"field": raw}])
    assert refused.value.field == "[1].field"


def test_the_strings_of_a_text_are_split() -> None:
    columns = FilterColumns.from_values({"tags": "strings"}, [{"tags": "a|b||a"}, {"tags": ["b"]}])
    assert [*columns.evaluate(where.tags == "a")] == [0]
    assert [*columns.evaluate(where.tags == "b")] == [0, 1]


def test_a_time_between_two_microseconds_equals_none_and_bounds_both() -> None:
    columns = FilterColumns.from_values({"at": "time"}, [{"at": 1}, {"at": 1.000001}])
    between = Time(1_000_000_500)
    assert [*columns.evaluate(Equals("at", between))] == []
    assert [*columns.evaluate(Range("at", at_least=between))] == [1]
    assert [*columns.evaluate(Range("at", above=between))] == [1]
    assert [*columns.evaluate(Range("at", at_most=between))] == [0]
    assert [*columns.evaluate(Range("at", below=between))] == [0]


def test_a_range_of_many_items_is_the_range_of_few() -> None:
    values = np.random.default_rng(0).integers(0, 1000, 3000).tolist()
    columns = FilterColumns.from_values({"n": "number"}, [{"n": value} for value in values])
    for least, most in ((0, 999), (10, 900), (500, 510), (700, 100)):
        found = [*columns.evaluate(where.n.between(least, most))]
        assert found == [row for row, value in enumerate(values) if least <= value <= most]


@pytest.mark.parametrize("node", [AllOf(()), AnyOf(()), Not(AllOf(())), Range("price")])
def test_an_empty_part_is_refused(node: Filter) -> None:
    with pytest.raises(InvalidInput, match="filter"):
        COLUMNS.evaluate(node)


def test_a_boolean_is_not_a_number() -> None:
    filters = FilterCache(SEGMENT)
    filters.compile(Equals("sale", True))
    with pytest.raises(InvalidInput, match="expected a boolean, got a number"):
        filters.compile(Equals("sale", 1.0))


def test_a_filter_is_evaluated_once_while_it_is_kept() -> None:
    filters = FilterCache(SEGMENT)
    assert filters.compile(where.price < 3) is filters.compile(where.price < 3)
    rows = filters.compile(where.price < 3).passing.mask.nonzero()[0].tolist()
    assert rows == [*COLUMNS.evaluate(where.price < 3)]


def test_the_filters_that_were_not_used_for_longest_are_dropped() -> None:
    filters = FilterCache(SEGMENT, max_bytes=10_000)
    nodes = [In("section", (f"section {n}",)) for n in range(30)]
    first = filters.compile(nodes[0])
    for node in nodes[1:]:
        filters.compile(node)
        filters.compile(nodes[0])
    assert filters.compile(nodes[0]) is first
    kept = [filters.kept(content_of(node)) for node in nodes]
    assert 0 < sum(each.nbytes for each in kept if each is not None) <= 10_000


def test_long_filters_take_no_more_memory_than_they_are_counted() -> None:
    """The rows of these filters are few; the memory is that of their strings."""
    filters = FilterCache(SEGMENT, max_bytes=1 << 20)
    tracemalloc.start()
    for n in range(25):
        filters.compile(In("section", tuple(f"{n} {place}" for place in range(1500))))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held <= 1 << 20


def test_a_filter_in_process_that_is_too_deep_is_refused() -> None:
    node: Filter = where.price < 3
    for _ in range(63):
        node = Not(node)
    filters = FilterCache(SEGMENT)
    assert [*filters.compile(node).passing.rows.passing] == [*COLUMNS.evaluate(~(where.price < 3))]
    for _ in range(5000):  # Python's own recursion ends before
        node = Not(node)
    with pytest.raises(InvalidInput, match="filter: expected at most 64 filters inside each other"):
        filters.compile(node)


def test_each_type_has_its_records() -> None:
    assert [*KINDS] == [*COMPARISONS] == [*get_args(FilterKind)]
    series = [(each.series, each.is_list) for each in KINDS.values()]
    assert len({*series}) == len(series)  # `train.data.filters.filter_kinds` tells types by them


def test_a_type_needs_nothing_but_its_records(monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Any = "cents"
    stored = FilterType(lambda raw, field: round(float(raw) * 100), "Int32", "number", np.int32)
    monkeypatch.setitem(KINDS, kind, stored)
    compared = FilterComparison((float, int), lambda value: round(value * 100), lambda cents: cents / 100)
    monkeypatch.setitem(COMPARISONS, kind, compared._replace(bound=lambda value, name: value * 100))
    columns = FilterColumns.from_values({"price": kind}, [{"price": "1.10"}, {}, {"price": 3}])
    assert [*columns.evaluate(where.price == 1.1)] == [0]
    assert [*columns.evaluate(where.price > 1.1)] == [2]
