"""Filters as a typed tree, and `where`, which builds them.

    (where.price < 50) & (where.section == "shoes")
    where.tags.is_in(["new", "sale"]) | ~where.price.is_present()
    where["release date"] >= datetime(2026, 1, 1)

A field is an attribute of `where`, or a key where its name is no identifier. Use `&`, `|` and `~`, with
parentheses around comparisons: Python's `and`, `or`, `not` and `1 < where.price < 50` cannot be overloaded,
and raise a TypeError.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, NoReturn, final

from twinspire.serving.filters.kinds import Time, Value

FILTER_FIELD = "filter"  # the field of a request, as errors name it
MAX_DEPTH = 64  # filters inside each other that this program evaluates
LONGEST_NAME = 100  # code points of a field's name that an error shows


Given = Value | date  # what `where` takes


class Filter:
    """Base class of the nodes of the tree: `&`, `|` and `~` combine them."""

    __slots__ = ()

    def __and__(self, other: "Filter") -> "AllOf":
        return AllOf(_operands(self, other, AllOf))

    def __or__(self, other: "Filter") -> "AnyOf":
        return AnyOf(_operands(self, other, AnyOf))

    def __invert__(self) -> "Filter":
        return self.filter if isinstance(self, Not) else Not(self)

    def __bool__(self) -> NoReturn:
        raise TypeError("a filter is neither true nor false: combine filters with &, | and ~")


@dataclass(frozen=True)
class AllOf(Filter):
    """Passes where all of its operands pass; needs at least one operand."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class AnyOf(Filter):
    """Passes where one of its operands passes; needs at least one operand."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class Not(Filter):
    """Passes where the other does not; an item without the field passes `Not(Equals(...))`."""

    filter: Filter


@dataclass(frozen=True)
class Equals(Filter):
    """The field has this value, or has it among its strings."""

    field: str
    value: Value


@dataclass(frozen=True)
class In(Filter):
    """The field has one of these values; no item passes where there are none."""

    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Range(Filter):
    """The number or time is within bounds, at least one of which is given."""

    field: str
    at_least: Value | None = None
    above: Value | None = None
    at_most: Value | None = None
    below: Value | None = None

    def bounds(self) -> Iterator[tuple[str, Value]]:
        """Name and value of each bound that is given."""
        for name in ("at_least", "above", "at_most", "below"):
            value = getattr(self, name)
            if value is not None:
                yield name, value


@dataclass(frozen=True)
class Present(Filter):
    """The item has a value of the field, or with `present=False` has none."""

    field: str
    present: bool = True


Condition = Equals | In | Range | Present


def shown_name(field: str) -> str:
    """A field's name as an error shows it: printable, and not too long."""
    cut = field if len(field) <= LONGEST_NAME else f"{field[: LONGEST_NAME - 1]}…"
    return cut if cut.isprintable() and cut else repr(cut)


def describe(fields: Mapping[str, str]) -> str:
    """Filter fields and their types, in words."""
    if not fields:
        return "this bundle has no filter fields; `[filter]` of the experiment names them"
    known = (f"{shown_name(field)} ({kind})" for field, kind in sorted(fields.items()))
    return "the filter fields are " + ", ".join(known)


def _operands(one: Filter, other: Filter, kind: type[AllOf] | type[AnyOf]) -> tuple[Filter, ...]:
    """Two operands as a flat tuple: an operand of the same kind is replaced by its own operands."""
    for each in (one, other):
        if not isinstance(each, Filter):
            raise TypeError(f"expected a filter, got {type(each).__name__}; put comparisons in parentheses")
    return tuple(
        part for each in (one, other) for part in (each.filters if isinstance(each, kind) else (each,))
    )


@final
class Field:
    """A field of items; comparisons with it are filters."""

    __slots__ = ("_name",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str) -> None:
        self._name = name

    def __eq__(self, value: Given) -> Equals:  # type: ignore[override]
        return Equals(self._name, _value(value))

    def __ne__(self, value: Given) -> Not:  # type: ignore[override]
        return Not(Equals(self._name, _value(value)))

    def __lt__(self, value: Given) -> Range:
        return Range(self._name, below=_value(value))

    def __le__(self, value: Given) -> Range:
        return Range(self._name, at_most=_value(value))

    def __gt__(self, value: Given) -> Range:
        return Range(self._name, above=_value(value))

    def __ge__(self, value: Given) -> Range:
        return Range(self._name, at_least=_value(value))

    def is_in(self, values: Iterable[Given]) -> In:
        """The field has one of these values."""
        if isinstance(values, str):
            raise TypeError("expected several values, got one string")
        return In(self._name, tuple(map(_value, values)))

    def between(self, least: Given, most: Given) -> Range:
        """The field is at least the first and at most the second value."""
        return Range(self._name, at_least=_value(least), at_most=_value(most))

    def is_present(self) -> Present:
        """The item has a value of the field."""
        return Present(self._name)

    def is_absent(self) -> Present:
        """The item has no value of the field."""
        return Present(self._name, False)

    def __bool__(self) -> NoReturn:
        raise TypeError("a field is neither true nor false: compare it with a value")


class Where:
    """Names fields: `where.price`, or `where["release date"]`."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Field:
        if name.startswith("__"):
            raise AttributeError(name)
        return Field(name)

    def __getitem__(self, name: str) -> Field:
        return Field(name)


where = Where()


def _value(value: Any) -> Value:
    """A value as the tree holds it.

    Raises:
        TypeError: no filter can compare with it.
    """
    if getattr(value, "shape", None) == () and not isinstance(value, str):  # a scalar of NumPy
        is_time = value.dtype.kind == "M"  # of nanoseconds, `item` would be an integer
        given, value = value, value.astype("datetime64[us]").item() if is_time else value.item()
        if is_time and not isinstance(value, date):
            raise TypeError(f"expected a time between the years 1 and 9999, got {given}")
    if isinstance(value, date):
        return Time.of(value)
    if isinstance(value, str | bool | int | float | Time):
        return value
    expected = "expected a string, number, boolean or datetime"
    if value is None:
        raise TypeError(f"{expected}, got None; `is_absent()` finds items without a value")
    try:  # a number of another library, such as a decimal
        if isinstance(value, bytes | bytearray | memoryview):  # which `float` reads as texts
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{expected}, got {type(value).__name__}") from None
