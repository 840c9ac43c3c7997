"""Filters as expressions of a server.

Field names of a bundle never become part of an expression: a collection calls its fields `f0`, `f1` and so
on, in ascending order of the names. Engines write the conditions on one field, and quote strings; numbers,
booleans and times are formatted from their values.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from twinspire.protos.filter_kinds import KINDS
from twinspire.protos.vector_databases.database import Syntax
from twinspire.serving.filters.expression import AllOf, AnyOf, Equals, Filter, In, Not, Present, Range
from twinspire.serving.filters.kinds import COMPARISONS

_OPERATORS = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}


def expression(syntax: Syntax, node: Filter, kinds: Mapping[str, str]) -> str:
    """The expression of a filter.

    Args:
        node: a filter that `FilterColumns.evaluate` accepts.
        kinds: filter field -> type, of the bundle.
    """
    if isinstance(node, Not):
        return f"not ({expression(syntax, node.filter, kinds)})"
    if isinstance(node, AllOf | AnyOf):
        word = " and " if isinstance(node, AllOf) else " or "
        return word.join(f"({expression(syntax, each, kinds)})" for each in node.filters)
    assert isinstance(node, Equals | In | Range | Present)
    n, kind = sorted(kinds).index(node.field), kinds[node.field]
    if isinstance(node, Present):
        return syntax.present(n) if node.present else syntax.absent(n)
    if isinstance(node, Range):
        bound = COMPARISONS[kind].bound
        assert bound is not None  # the filter was accepted
        tests = [_within(syntax, f"f{n}", name, bound(value, name)) for name, value in node.bounds()]
    else:
        values = [node.value] if isinstance(node, Equals) else node.values
        found = (_value(syntax, kind, value) for value in dict.fromkeys(values))
        literals = [text for text in found if text is not None]
        tests = [syntax.any_of(n, kind, literals) if literals else syntax.never]
    return " and ".join([syntax.present(n), *filter(None, tests)])


def _within(syntax: Syntax, name: str, side: str, bound: float) -> str:
    """A bound of a range; empty if each number is within it."""
    if math.isfinite(bound):
        return f"{name} {_OPERATORS[side]} {bound!r}"
    return "" if (bound < 0) is (side in ("at_least", "above")) else syntax.never


def _value(syntax: Syntax, kind: str, value: Any) -> str | None:
    """A value that an item may have; None if no item can have it."""
    if isinstance(value, str):
        return syntax.literal(value)
    found = COMPARISONS[kind].stored(value)
    if KINDS[kind].dtype is np.int8:
        return "true" if found else "false"
    return None if found is None or not math.isfinite(found) else repr(found)
