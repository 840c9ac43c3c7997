"""Filters as texts."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as some

from twinspire.protos.errors import InvalidInput
from twinspire.serving.filters.expression import MAX_DEPTH, Filter, where
from twinspire.serving.filters.kinds import Time
from twinspire.serving.filters.text import LONGEST_TEXT, filter_text, parse_filter
from twinspire.serving.wire.filter_converters import filter_to_wire

DAY = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("price < 50", where.price < 50.0),
        ("price<=-1.5e1", where.price <= -15.0),
        ("price>.5", where.price > 0.5),
        ("price >= +5.", where.price >= 5.0),
        ("section == 'admin'", where.section == "admin"),
        ('section = "admin"', where.section == "admin"),
        ("section != ''", where.section != ""),
        (r"section = 'it\'s \\ here'", where.section == r"it's \ here"),
        ("section in ['a', 'b,c',]", where.section.is_in(["a", "b,c"])),
        ("section NOT IN [1]", ~where.section.is_in([1.0])),
        ("section in []", where.section.is_in([])),
        ("sale = TRUE", where.sale == True),  # noqa: E712
        ("sale == false", where.sale == False),  # noqa: E712
        ("price is null", where.price.is_absent()),
        ("price is not null", where.price.is_present()),
        ("at >= 2026-01-02", where.at >= DAY),
        ("at >= 2026-01-02T01:00+01:00", where.at >= DAY),
        ("at < 2026-01-02T00:00:00.5Z", where.at < DAY.replace(microsecond=500_000)),
        ("'release date' < 3", where["release date"] < 3.0),
        ('"in" in ["in"]', where["in"].is_in(["in"])),
        ("größe < 3 ", where.größe < 3.0),
        ("a < 1 and b < 2 and c < 3", (where.a < 1.0) & (where.b < 2.0) & (where.c < 3.0)),
        ("a < 1 or b < 2 and c < 3", (where.a < 1.0) | ((where.b < 2.0) & (where.c < 3.0))),
        ("(a < 1 or b < 2) and not c < 3", ((where.a < 1.0) | (where.b < 2.0)) & ~(where.c < 3.0)),
        ("not not a < 1", where.a < 1.0),
    ],
)
def test_a_text_is_the_filter_that_it_says(text: str, expected: Filter) -> None:
    assert parse_filter(text) == expected
    assert filter_to_wire(text) == filter_to_wire(expected)
    assert parse_filter(filter_text(expected)) == expected


def test_a_range_of_two_bounds_is_written_as_two_conditions() -> None:
    both = where.at.between(DAY, DAY.replace(microsecond=5)) & (where.price.between(1.0, 1e-7))
    assert filter_text(both) == (
        "('at' >= 2026-01-02T00:00:00Z and 'at' <= 2026-01-02T00:00:00.000005Z) "
        "and ('price' >= 1.0 and 'price' <= 1e-07)"
    )
    assert parse_filter(filter_text(both)) is not None


VALUE = "a string in quotes, a number, true, false or a time"
TESTS = "<, <=, >, >=, =, ==, !=, in, not in, is null or is not null"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "character 1: expected a field, got the end"),
        ("and", "character 1: expected a field, got and"),
        ("price", f"character 6: expected {TESTS}, got the end"),
        ("price ~ 3", f"character 7: expected {TESTS}, got ~"),
        ("price < cheap", f"character 9: expected {VALUE}, got cheap"),
        ("price < 'cheap", f"character 9: expected {VALUE}, got '"),
        ("price < 5 brand = 3", "character 11: expected and, or, or the end, got brand"),
        ("(price < 5", "character 11: expected ), got the end"),
        ("price in ['a' 'b']", "character 15: expected ], got 'b'"),
        ("price is 3", "character 10: expected null, got 3"),
        ("at < 2026-13-01", "character 6: expected a time in ISO 8601, got 2026-13-01"),
        ("a < 1\n and b <\t)", f"character 16: expected {VALUE}, got )"),
        ("not " * 200 + "a < 1", f"expected at most {MAX_DEPTH} filters inside each other"),
        ("(" * 5000, f"expected at most {MAX_DEPTH} filters inside each other"),
        (" " * LONGEST_TEXT + "a", f"expected at most {LONGEST_TEXT} code points, got {LONGEST_TEXT + 1}"),
    ],
)
def test_an_error_names_the_place_and_what_was_expected(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_filter(text)
    assert str(refused.value) == f"filter: {reason}"


def test_filters_next_to_each_other_are_not_inside_each_other() -> None:
    filters = parse_filter(" or ".join(["not (a < 1)"] * 500))
    assert len(filters.filters) == 500  # type: ignore[attr-defined]


TOKENS = some.sampled_from([*"a and or not in is null true < != ( ) [ ] , 1.5 -".split(), "'b c'"])


@given(some.lists(TOKENS, max_size=30).map(" ".join) | some.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_filter(text)
    except InvalidInput as refused:
        assert refused.field == "filter"
    else:
        assert isinstance(found, Filter)


@given(some.text(), some.floats(allow_nan=False, allow_infinity=False), some.datetimes())
def test_every_value_can_be_written(text: str, number: float, moment: datetime) -> None:
    equal = where[text] == text
    assert parse_filter(filter_text(equal)) == equal
    assert parse_filter(f"a = {number!r}") == (where.a == number)
    assert parse_filter(f"a = {moment.isoformat()}") == (where.a == Time.of(moment))
