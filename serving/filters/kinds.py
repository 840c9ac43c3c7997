"""The values that filters compare with, and how those of each type of field are compared.

Columns hold times in whole microseconds, so no item has a time between two of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

from twinspire.protos.errors import InvalidInput
from twinspire.protos.filter_kinds import EARLIEST, KINDS, LATEST, microseconds_of

Bound = float | int


@dataclass(frozen=True, order=True)
class Time:
    """A moment.

    Args:
        nanoseconds: since 1970, UTC.
    """

    nanoseconds: int

    @classmethod
    def of(cls, value: date) -> "Time":
        """The moment of a datetime, or of the first moment of a day; without a zone, UTC."""
        return cls(microseconds_of(value) * 1000)


Value = str | float | bool | Time  # an integer counts as a float


class FilterComparison(NamedTuple):
    """How filters compare with values of a type.

    Args:
        types: of the values in filters.
        stored: checked value of a filter -> as columns hold it; None where no item can have it.
        given: value of a column -> as filters have it.
        bound: checked bound of a range, and its name -> as columns compare it; None without ranges.
        check: raises `InvalidInput` where no filter may have the value; the text is its place in errors.
    """

    types: tuple[type, ...]
    stored: Callable[[Any], Any]
    given: Callable[[Any], Value]
    bound: Callable[[Any, str], Bound] | None = None
    check: Callable[[Any, str], None] = lambda value, path: None


def typed(kind: str, value: Value, path: str) -> Value:
    """A filter's value, checked against the type of its field.

    Raises:
        InvalidInput: it is of another type, NaN, or outside of what columns can hold.
    """
    comparison = COMPARISONS[kind]
    if not isinstance(value, comparison.types) or isinstance(value, bool) != (bool in comparison.types):
        expected = "string" if KINDS[kind].is_list else kind
        found = _NAMES.get(type(value), type(value).__name__)
        raise InvalidInput(path, f"expected a {expected}, got {found}")
    comparison.check(value, path)
    return value


def _check_number(value: float, path: str) -> None:
    try:
        if math.isnan(float(value)):
            raise InvalidInput(path, "expected a number, got NaN")
    except OverflowError:
        raise InvalidInput(path, "expected a number that a double can hold") from None


def _check_time(value: Time, path: str) -> None:
    if not EARLIEST <= value.nanoseconds // 1000 <= LATEST:
        raise InvalidInput(path, "expected a time between the years 1 and 9999")


def _time_bound(value: Time, name: str) -> int:
    """In whole microseconds: `at_least` and `below` round up, the others down."""
    up = name in ("at_least", "below")
    return -(-value.nanoseconds // 1000) if up else value.nanoseconds // 1000


def _stored_time(value: Time) -> int | None:
    return None if value.nanoseconds % 1000 else value.nanoseconds // 1000


_NAMES = {str: "a string", bool: "a boolean", float: "a number", int: "a number", Time: "a time"}
_STRING = FilterComparison((str,), str, str)
COMPARISONS = {
    "string": _STRING,
    "strings": _STRING,
    "number": FilterComparison((float, int), float, float, lambda value, name: float(value), _check_number),
    "boolean": FilterComparison((bool,), int, bool),
    "time": FilterComparison(
        (Time,), _stored_time, lambda value: Time(int(value) * 1000), _time_bound, _check_time
    ),
}
