"""What a filter means, in plain Python over one item at a time; and trees of filters for hypothesis."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from twinspire.serving.filters.expression import (
    AllOf,
    AnyOf,
    Equals,
    Filter,
    In,
    Not,
    Present,
    Range,
)
from twinspire.serving.filters.kinds import Time

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = datetime(2026, 1, 1, tzinfo=UTC)


def passes(node: Filter, item: Mapping[str, Any]) -> bool:
    """Whether an item passes; its values are strings, lists, numbers, booleans and ISO times."""
    if isinstance(node, AllOf):
        return all(passes(each, item) for each in node.filters)
    if isinstance(node, AnyOf):
        return any(passes(each, item) for each in node.filters)
    if isinstance(node, Not):
        return not passes(node.filter, item)
    assert isinstance(node, Equals | In | Range | Present)
    raw = item.get(node.field)
    if isinstance(node, Present):
        return (raw not in (None, [], "")) is node.present
    values = [_comparable(each) for each in (raw if isinstance(raw, list) else [raw])]
    if isinstance(node, Range):
        (value,) = values
        return value is not None and all(_within(name, value, bound) for name, bound in node.bounds())
    wanted = [node.value] if isinstance(node, Equals) else list(node.values)
    return any(value is not None and value == _comparable(each) for value in values for each in wanted)


def _comparable(value: Any) -> Any:
    if isinstance(value, str) and value[:4].isdigit() and value[4:5] == "-":
        return _nanoseconds(datetime.fromisoformat(value))
    return value.nanoseconds if isinstance(value, Time) else value


def _nanoseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000


def _within(name: str, value: float, bound: Any) -> bool:
    bound = _comparable(bound)
    tests = {
        "at_least": value >= bound,
        "above": value > bound,
        "at_most": value <= bound,
        "below": value < bound,
    }
    return bool(tests[name])


_TIMES = st.builds(
    lambda hours, rest: Time(_nanoseconds(DAY + timedelta(hours=hours)) + rest),
    st.integers(-5, 400),
    st.sampled_from([0, 0, 0, 1, 999, 1000, -1]),
)
_PRICES = st.one_of(st.integers(-2, 104).map(lambda n: n / 2), st.floats(allow_nan=False), st.integers(0, 60))
_VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "section": st.sampled_from([*(f"section {n}" for n in range(4)), "section", "", "section é\n"]),
    "tags": st.sampled_from([*(f"tag {n}" for n in range(6)), "tag"]),
    "price": _PRICES,
    "sale": st.booleans(),
    "released": _TIMES,
}


def _conditions(field: str) -> st.SearchStrategy[Filter]:
    values = _VALUES[field]
    kinds: list[st.SearchStrategy[Filter]] = [
        st.builds(Equals, st.just(field), values),
        st.builds(In, st.just(field), st.lists(values, max_size=4).map(tuple)),
        st.builds(Present, st.just(field), st.booleans()),
    ]
    if field in ("price", "released"):
        names = st.lists(
            st.sampled_from(["at_least", "above", "at_most", "below"]), min_size=1, max_size=4, unique=True
        )
        bounds = names.flatmap(lambda chosen: st.fixed_dictionaries(dict.fromkeys(chosen, values)))
        kinds.append(bounds.map(lambda each: Range(field, **each)))
    return st.one_of(kinds)


CONDITIONS = st.sampled_from(sorted(_VALUES)).flatmap(_conditions)
FILTERS: st.SearchStrategy[Filter] = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda each: AllOf(tuple(each))),
        st.lists(inner, min_size=1, max_size=3).map(lambda each: AnyOf(tuple(each))),
    ),
    max_leaves=8,
)
