"""Reads filters from a command line: `--where 'price<50' --where section=admin,net`.

section=admin           equals; =admin,net is one of several, "a,b" in quotes holds a comma
section!=admin          not equal, or absent
price<50  price>=10     a number, or a time in ISO 8601 or seconds since 1970
price                   present; !price is absent
"""

import csv
import re
from collections.abc import Mapping, Sequence

from twinspire.protos.errors import InvalidInput
from twinspire.protos.filter_kinds import KINDS
from twinspire.serving.filters.expression import (
    AllOf,
    Equals,
    Filter,
    In,
    Not,
    Present,
    Range,
    describe,
    shown_name,
)
from twinspire.serving.filters.kinds import Value, from_text

WHERE_FIELD = "where"  # the option, as errors name it
_TEST = re.compile(r"\s*(<=|>=|!=|=|<|>)(.*)", re.DOTALL)
_BOUNDS = {"<": "below", "<=": "at_most", ">": "above", ">=": "at_least"}


def parse_where(texts: Sequence[str], fields: Mapping[str, str]) -> Filter | None:
    """The filter that passes where all conditions pass; None if there are no conditions.

    Args:
        texts: conditions as above.
        fields: filter field -> type, as in `Info.filter_fields`.

    Raises:
        InvalidInput: a text is no condition, names an unknown field, or its value is of another type.
    """
    filters = [_condition(text.strip(), fields) for text in texts]
    if len(filters) > 1:
        return AllOf(tuple(filters))
    return filters[0] if filters else None


def _condition(text: str, fields: Mapping[str, str]) -> Filter:
    # A field's name may hold any character, so the longest known name with a test behind it is taken.
    for field in sorted(fields, key=len, reverse=True):
        if not text.startswith(field):
            continue
        rest = text[len(field) :]
        if not rest.strip():
            return Present(field)
        found = _TEST.fullmatch(rest)
        if found is not None:
            return _test(field, found[1], found[2].strip(), fields[field])
    absent = text[1:].strip()
    if text.startswith("!") and absent in fields:
        return Present(absent, False)
    raise InvalidInput(
        WHERE_FIELD,
        "expected FIELD, !FIELD or FIELD followed by =, !=, <, <=, > or >=; "
        f"got {text!r}; {describe(fields)}",
    )


def _test(field: str, operator: str, text: str, kind: str) -> Filter:
    if operator in _BOUNDS:
        return Range(field, **{_BOUNDS[operator]: _value(text, kind, field)})
    values = [_value(each, kind, field) for each in _parts(text, field)]
    test = Equals(field, values[0]) if len(values) == 1 else In(field, tuple(values))
    return Not(test) if operator == "!=" else test


def _parts(text: str, field: str) -> list[str]:
    """The values of a list with commas."""
    try:
        return next(csv.reader([text], skipinitialspace=True, strict=True), None) or [""]
    except csv.Error as error:
        raise InvalidInput(
            _place(field), f"expected values with commas between them, got {text!r}: {error}"
        ) from None


def _value(text: str, kind: str, field: str) -> Value:
    if kind not in KINDS:
        raise InvalidInput(_place(field), f"is of a type that this client does not know: {kind}")
    return from_text(kind, text, _place(field))


def _place(field: str) -> str:
    return f"{WHERE_FIELD}.{shown_name(field)}"
