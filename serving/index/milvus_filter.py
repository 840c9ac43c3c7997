"""Filters as expressions of Milvus.

Field names of a bundle never become part of an expression: a collection calls its fields `f0`, `f1` and so on
(`protos/vector_databases/milvus.py`). Numbers, booleans and times are formatted from their values, and a
string is quoted and escaped as JSON. All servers read the escapes of quotes, backslashes, tabs and line ends
alike; a filter with another control character in a string is not pushed down.
"""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from twinspire.protos.filter_kinds import KINDS
from twinspire.serving.filters.expression import AllOf, AnyOf, Equals, Filter, In, Not, Present, Range
from twinspire.serving.filters.kinds import COMPARISONS

MAX_EXPRESSION_LENGTH = 32_768  # characters; a filter with a longer expression is evaluated by the service
NEVER = "id < 0"  # an expression that no item passes
_READ_BY_ALL = "\t\n\r"  # control characters whose escapes all servers read
_OPERATORS = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}


class _NotPushed(Exception):
    """A part of the filter has no expression."""


def milvus_expression(node: Filter, kinds: Mapping[str, str], held: Collection[str]) -> str | None:
    """The expression of a filter; None if there is none, so that the service has to evaluate the filter.

    Args:
        node: a filter that `FilterColumns.evaluate` has accepted.
        kinds: filter field -> type, of the bundle.
        held: names of the fields of the collection.
    """
    numbers = {name: n for n, name in enumerate(sorted(kinds))}
    try:
        text = _expression(node, kinds, numbers, held)
    except _NotPushed:
        return None
    return text if len(text) <= MAX_EXPRESSION_LENGTH else None


def _expression(
    node: Filter, kinds: Mapping[str, str], numbers: Mapping[str, int], held: Collection[str]
) -> str:
    """As `milvus_expression`; `numbers` gives the number of each field in the collection."""
    if isinstance(node, Not):
        return f"not ({_expression(node.filter, kinds, numbers, held)})"
    if isinstance(node, AllOf | AnyOf):
        word = " and " if isinstance(node, AllOf) else " or "
        return word.join(f"({_expression(each, kinds, numbers, held)})" for each in node.filters)
    assert isinstance(node, Equals | In | Range | Present)
    n, kind = numbers[node.field], kinds[node.field]
    if f"f{n}" not in held:
        raise _NotPushed
    present = f"has{n} == true"
    if isinstance(node, Present):
        return present if node.present else f"has{n} == false"
    if isinstance(node, Range):
        bound = COMPARISONS[kind].bound
        assert bound is not None  # the filter was accepted
        tests = [f"f{n} {_OPERATORS[name]} {_number(bound(value, name))}" for name, value in node.bounds()]
    else:
        values = [node.value] if isinstance(node, Equals) else node.values
        tests = [_any_of(n, kind, values)]
    return " and ".join([present, *tests])


def _any_of(n: int, kind: str, values: Collection[Any]) -> str:
    texts = [text for value in dict.fromkeys(values) if (text := _literal(kind, value)) is not None]
    if not texts:
        return NEVER
    if KINDS[kind].is_list:
        return "(" + " or ".join(f"array_contains(f{n}, {text})" for text in texts) + ")"
    if KINDS[kind].dtype is np.int8:  # servers differ in whether a list may hold booleans
        return "(" + " or ".join(f"f{n} == {text}" for text in texts) + ")"
    return f"f{n} in [{', '.join(texts)}]"


def _literal(kind: str, value: Any) -> str | None:
    """A value that an item may have; None if no item can have it."""
    if isinstance(value, str):
        if any(ord(each) < 32 and each not in _READ_BY_ALL for each in value) or not _is_unicode(value):
            raise _NotPushed
        return json.dumps(value, ensure_ascii=False)
    found = COMPARISONS[kind].stored(value)
    if KINDS[kind].dtype is np.int8:  # a boolean of Milvus
        return "true" if found else "false"
    return None if found is None else _number(found)


def _number(value: float) -> str:
    if not math.isfinite(value):
        raise _NotPushed
    return repr(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
