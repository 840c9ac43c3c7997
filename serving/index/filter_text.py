"""Filters as expressions of a server.

Field names of a bundle never become part of an expression: a collection calls its fields `f0`, `f1` and so
on, in ascending order of the names. Engines write the conditions on one field, and quote strings; numbers,
booleans and times are formatted from their values.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twinspire.protos.filter_kinds import KINDS
from twinspire.serving.filters.expression import AllOf, AnyOf, Equals, Filter, In, Not, Present, Range
from twinspire.serving.filters.kinds import COMPARISONS

_OPERATORS = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}


@dataclass(frozen=True)
class Syntax:
    """How an engine writes conditions; each is true or false of an item, and never unknown.

    Args:
        never: a condition that no item passes.
        present: number of a field -> that the item has a value of it; `absent`: that it has none.
        literal: a string as part of an expression; None if no item can have it.
        any_of: number and type of a field, and at least one literal -> that its value is one of them.
    """

    never: str
    present: Callable[[int], str]
    absent: Callable[[int], str]
    literal: Callable[[str], str | None]
    any_of: Callable[[int, str, Sequence[str]], str]

    def expression(self, node: Filter, kinds: Mapping[str, str]) -> str:
        """The expression of a filter.

        Args:
            node: a filter that `FilterColumns.evaluate` accepts.
            kinds: filter field -> type, of the bundle.
        """
        return self._expression(node, kinds, {name: n for n, name in enumerate(sorted(kinds))})

    def _expression(self, node: Filter, kinds: Mapping[str, str], numbers: Mapping[str, int]) -> str:
        """As `expression`; `numbers` gives the number of each field in the collection."""
        if isinstance(node, Not):
            return f"not ({self._expression(node.filter, kinds, numbers)})"
        if isinstance(node, AllOf | AnyOf):
            word = " and " if isinstance(node, AllOf) else " or "
            return word.join(f"({self._expression(each, kinds, numbers)})" for each in node.filters)
        assert isinstance(node, Equals | In | Range | Present)
        n, kind = numbers[node.field], kinds[node.field]
        if isinstance(node, Present):
            return self.present(n) if node.present else self.absent(n)
        if isinstance(node, Range):
            bound = COMPARISONS[kind].bound
            assert bound is not None  # the filter was accepted
            tests = [self._within(f"f{n}", name, bound(value, name)) for name, value in node.bounds()]
        else:
            values = [node.value] if isinstance(node, Equals) else node.values
            found = (self._value(kind, value) for value in dict.fromkeys(values))
            literals = [text for text in found if text is not None]
            tests = [self.any_of(n, kind, literals) if literals else self.never]
        return " and ".join([self.present(n), *filter(None, tests)])

    def _within(self, name: str, side: str, bound: float) -> str:
        """A bound of a range; empty if each number is within it."""
        if math.isfinite(bound):
            return f"{name} {_OPERATORS[side]} {bound!r}"
        return "" if (bound < 0) is (side in ("at_least", "above")) else self.never

    def _value(self, kind: str, value: Any) -> str | None:
        """A value that an item may have; None if no item can have it."""
        if isinstance(value, str):
            return self.literal(value)
        found = COMPARISONS[kind].stored(value)
        if KINDS[kind].dtype is np.int8:
            return "true" if found else "false"
        return None if found is None or not math.isfinite(found) else repr(found)
