"""Reads a filter from text, and writes its text: `price < 50 and brand in ['acme', 'zeta']`.

price < 50               also <=, >, >=, == or =, and !=
brand in ['a', 'b']      one of them; with `not in`, as with !=, an item without a value passes, too
price is null            the item has no value; `is not null`: it has one
sale == true             true and false are booleans
at >= 2026-01-02T13:00Z  a time in ISO 8601; without a zone it is UTC, without hours the day's first moment
not (a = 1 or b = 2)     `not` binds closest, then `and`, then `or`

A field whose name is no word, or one of these words, stands in quotes: 'release date' < 2026-01-01. Quotes
are single or double, and after a backslash any character stands for itself.
"""

import operator
import re
from datetime import UTC, datetime, timedelta
from typing import NoReturn

from twinspire.protos.errors import InvalidInput
from twinspire.serving.filters.expression import (
    FILTER_FIELD,
    MAX_DEPTH,
    AllOf,
    AnyOf,
    Equals,
    Filter,
    Given,
    In,
    Not,
    Present,
    Range,
    shown_name,
    where,
)
from twinspire.serving.filters.kinds import Time, Value

LONGEST_TEXT = 32_768  # code points of a filter
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}(?:T[0-9:.]+(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?)
        |(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
        |(?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
        |(?P<word>[^\W\d]\w*)
        |(?P<sign>[<>=!]=|[<>=(),\[\]])
        |(?P<end>\Z)
        |(?P<other>.))""",
    re.VERBOSE | re.DOTALL,
)
_TESTS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}
_BOUNDS = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}
_WORDS = ("and", "or", "not", "in", "is", "null", "true", "false")  # in any case
_JOINS = (("or", AnyOf), ("and", AllOf))  # the loosest first


def filter_text(node: Filter) -> str:
    """The text of a filter, which `parse_filter` reads as an equal filter; times are cut to microseconds."""
    if isinstance(node, AllOf | AnyOf):
        return f" {'and' if isinstance(node, AllOf) else 'or'} ".join(
            f"({filter_text(each)})" for each in node.filters
        )
    if isinstance(node, Not):
        return f"not ({filter_text(node.filter)})"
    if isinstance(node, Present):
        return f"{_quoted(node.field)} is {'not ' if node.present else ''}null"
    if isinstance(node, Equals):
        return f"{_quoted(node.field)} == {_shown(node.value)}"
    if isinstance(node, In):
        return f"{_quoted(node.field)} in [{', '.join(map(_shown, node.values))}]"
    if isinstance(node, Range):
        bounds = (f"{_quoted(node.field)} {_BOUNDS[name]} {_shown(value)}" for name, value in node.bounds())
        return " and ".join(bounds)
    raise TypeError(f"expected a filter, got {type(node).__name__}")


def _quoted(text: str) -> str:
    return "'" + re.sub(r"([\\'])", r"\\\1", text) + "'"


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Time):
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value.nanoseconds // 1000)
        return moment.isoformat().replace("+00:00", "Z")
    return _quoted(value) if isinstance(value, str) else repr(float(value))


def parse_filter(text: str) -> Filter:
    """The filter that a text describes, as the module does.

    Raises:
        InvalidInput: it is no such text; the error names the place, counted from 1, and what was expected.
    """
    if len(text) > LONGEST_TEXT:
        raise InvalidInput(FILTER_FIELD, f"expected at most {LONGEST_TEXT} code points, got {len(text)}")
    return _Parser(text).whole()


class _Parser:
    """Reads one text from left to right; `_token` has not been read yet, and `_key` is its word or sign."""

    def __init__(self, text: str) -> None:
        self._text, self._token, self._end, self._depth = text, "", 0, 0
        self._advance()

    def whole(self) -> Filter:
        """The filter of the whole text."""
        found = self._joined()
        if self._kind != "end":
            self._refuse("and, or, or the end")
        return found

    def _joined(self, level: int = 0) -> Filter:
        """A filter whose parts are joined as `_JOINS` has it from a place on."""
        if level == len(_JOINS):
            return self._one()
        word, kind = _JOINS[level]
        parts = [self._joined(level + 1)]
        while self._take(word):
            parts.append(self._joined(level + 1))
        return kind(tuple(parts)) if len(parts) > 1 else parts[0]

    def _one(self) -> Filter:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidInput(FILTER_FIELD, f"expected at most {MAX_DEPTH} filters inside each other")
        if self._take("not"):
            found = ~self._one()
        elif self._take("("):
            found = self._joined()
            self._expect(")")
        else:
            found = self._condition()
        self._depth -= 1
        return found

    def _condition(self) -> Filter:
        if self._kind != "string" and (self._kind != "word" or self._key in _WORDS):
            self._refuse("a field")
        field = where[self._unquoted()]
        if compare := _TESTS.get(self._key):
            self._advance()
            compared: Filter = compare(field, self._value())
            return compared
        if self._take("is"):
            found = field.is_present() if self._take("not") else field.is_absent()
            self._expect("null")
            return found
        is_negated = self._take("not")
        self._expect("in", "in" if is_negated else f"{', '.join(_TESTS)}, in, not in, is null or is not null")
        among = field.is_in(self._values())
        return ~among if is_negated else among

    def _values(self) -> list[Given]:
        self._expect("[")
        values = []
        while self._key != "]":
            values.append(self._value())
            if not self._take(","):
                break
        self._expect("]")
        return values

    def _value(self) -> Given:
        if self._key in ("true", "false"):
            return self._advance().lower() == "true"
        if self._kind == "number":
            return float(self._advance())
        if self._kind == "time":
            try:
                moment = datetime.fromisoformat(self._token)
            except ValueError:
                self._refuse("a time in ISO 8601")
            self._advance()
            return moment
        if self._kind != "string":
            self._refuse("a string in quotes, a number, true, false or a time")
        return self._unquoted()

    def _unquoted(self) -> str:
        quoted, read = self._kind == "string", self._advance()
        return re.sub(r"\\(.)", r"\1", read[1:-1], flags=re.DOTALL) if quoted else read

    def _advance(self) -> str:
        """Read on; returns the token that has been read."""
        read = self._token
        found = _TOKEN.match(self._text, self._end)
        assert found is not None and found.lastgroup is not None, "one of the groups fits anything"
        self._kind, self._token = found.lastgroup, found[found.lastgroup]
        self._start, self._end = found.span(found.lastgroup)
        self._key = self._token.lower() if self._kind in ("word", "sign") else ""
        return read

    def _take(self, key: str) -> bool:
        """Read on if this word or sign comes; returns whether it did."""
        is_next = self._key == key
        if is_next:
            self._advance()
        return is_next

    def _expect(self, key: str, shown: str = "") -> None:
        if not self._take(key):
            self._refuse(shown or key)

    def _refuse(self, expected: str) -> NoReturn:
        got = "the end" if self._kind == "end" else shown_name(self._token)
        raise InvalidInput(FILTER_FIELD, f"character {self._start + 1}: expected {expected}, got {got}")
