"""How clients write filters, in Python and on the wire."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from tests.helpers.filter_oracle import FILTERS
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import InvalidInput
from twinspire.serving.client import where
from twinspire.serving.filters.expression import AllOf, AnyOf, Equals, Filter, In, Not, Present, Range
from twinspire.serving.filters.kinds import Time
from twinspire.serving.wire.converters import RequestLimits
from twinspire.serving.wire.filter_converters import filter_from_wire, filter_to_wire

DAY = Time(int(datetime(2026, 1, 2, tzinfo=UTC).timestamp()) * 1_000_000_000)


def test_comparisons_are_conditions() -> None:
    assert (where.price < 50) == Range("price", below=50)
    assert (where.price >= 50) == Range("price", at_least=50)
    assert (where["release date"] > date(2026, 1, 2)) == Range("release date", above=DAY)
    assert (where.at <= datetime(2026, 1, 2)) == Range("at", at_most=DAY)
    assert (where.section == "a") == Equals("section", "a")
    assert (where.section != "a") == Not(Equals("section", "a"))
    assert where.tags.is_in(["a", "b"]) == In("tags", ("a", "b"))
    assert where.price.between(1, 2) == Range("price", at_least=1, at_most=2)
    assert where.price.is_absent() == Present("price", False)
    assert (where["x y"] == "a") == Equals("x y", "a")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(2.5), 2.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array(2), 2),
        (np.str_("a"), "a"),
        (np.datetime64("2026-01-02"), DAY),
        (np.datetime64("2026-01-02", "ns"), DAY),
        (Decimal("2.5"), 2.5),
        (date(2026, 1, 2), DAY),
    ],
)
def test_values_of_other_libraries_are_those_of_python(value: Any, expected: Any) -> None:
    node = where.a == value
    assert node == Equals("a", expected)
    assert isinstance(node.value, type(expected))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, r"got None; `is_absent\(\)` finds items without a value"),
        (b"3", "got bytes"),
        (np.array([2]), "got ndarray"),
        (np.datetime64("NaT"), "expected a time between the years 1 and 9999, got NaT"),
        (3j, "got complex"),
    ],
)
def test_a_value_of_no_type_of_fields_is_refused(value: Any, text: str) -> None:
    for test in (where.a.__eq__, where.a.__lt__, lambda each: where.a.is_in([each])):
        with pytest.raises(TypeError, match=text):
            test(value)


def test_filters_combine() -> None:
    one, two, three = where.a == 1, where.b == 2, where.c == 3
    assert one & two & three == AllOf((one, two, three))
    assert one | (two & three) == AnyOf((one, AllOf((two, three))))
    assert ~one == Not(one)
    assert ~~one == one


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: bool(where.price),
        lambda: 1 < where.price < 5,
        lambda: (where.a == 1) and (where.b == 2),
        lambda: not where.a.is_present(),
        lambda: (where.a == 1) & True,  # type: ignore[operator]
        lambda: where.a == ["b"],
        lambda: where.a.is_in("b"),
        lambda: filter_to_wire({"price": 3}),  # type: ignore[arg-type]
    ],
)
def test_what_python_would_misread_is_an_error(wrong: object) -> None:
    with pytest.raises(TypeError):
        wrong()  # type: ignore[operator]


@given(node=FILTERS)
@settings(max_examples=100, deadline=None)
def test_a_filter_is_the_same_after_the_wire(node: Filter) -> None:
    message = wire.Filter.FromString(filter_to_wire(node).SerializeToString())
    assert filter_from_wire(message, RequestLimits()) == node


def test_what_the_wire_cannot_carry_is_refused() -> None:
    for node in (where.a == "\ud800", where.a == 10**400, where.a == Time(10**30)):
        with pytest.raises(InvalidInput, match="filter"):
            filter_to_wire(node)
