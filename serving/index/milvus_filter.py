"""Filters as expressions of Milvus.

Field names of a bundle never become part of an expression: a collection calls its fields `f0`, `f1` and so on
(`protos/vector_databases/milvus.py`). Numbers, booleans and times are formatted from their values, and a
string is quoted and escaped as JSON.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from twinspire.protos.filter_kinds import KINDS
from twinspire.protos.vector_databases.milvus import literal
from twinspire.serving.filters.expression import AllOf, AnyOf, Equals, Filter, In, Not, Present, Range
from twinspire.serving.filters.kinds import COMPARISONS

NEVER = 'id < ""'  # an expression that no item passes
_OPERATORS = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}


def milvus_expression(node: Filter, kinds: Mapping[str, str]) -> str:
    """The expression of a filter.

    Args:
        node: a filter that `FilterColumns.evaluate` accepts.
        kinds: filter field -> type, of the bundle.
    """
    numbers = {name: n for n, name in enumerate(sorted(kinds))}
    return _expression(node, kinds, numbers)


def _expression(node: Filter, kinds: Mapping[str, str], numbers: Mapping[str, int]) -> str:
    """As `milvus_expression`; `numbers` gives the number of each field in the collection."""
    if isinstance(node, Not):
        return f"not ({_expression(node.filter, kinds, numbers)})"
    if isinstance(node, AllOf | AnyOf):
        word = " and " if isinstance(node, AllOf) else " or "
        return word.join(f"({_expression(each, kinds, numbers)})" for each in node.filters)
    assert isinstance(node, Equals | In | Range | Present)
    n, kind = numbers[node.field], kinds[node.field]
    present = f"has{n} == true"
    if isinstance(node, Present):
        return present if node.present else f"has{n} == false"
    if isinstance(node, Range):
        bound = COMPARISONS[kind].bound
        assert bound is not None  # the filter was accepted
        tests = [_within(f"f{n}", name, bound(value, name)) for name, value in node.bounds()]
    else:
        values = [node.value] if isinstance(node, Equals) else node.values
        tests = [_any_of(n, kind, values)]
    return " and ".join([present, *filter(None, tests)])


def _within(name: str, side: str, bound: float) -> str:
    """A bound of a range; empty if each number is within it."""
    if math.isfinite(bound):
        return f"{name} {_OPERATORS[side]} {bound!r}"
    return "" if (bound < 0) is (side in ("at_least", "above")) else NEVER


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
        return literal(value)
    found = COMPARISONS[kind].stored(value)
    if KINDS[kind].dtype is np.int8:  # a boolean of Milvus
        return "true" if found else "false"
    return None if found is None or not math.isfinite(found) else repr(found)
