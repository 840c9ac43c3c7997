"""Parses untrusted JSON and TOML, with a limit on nesting.

    table = parse_json(path.read_bytes())

Python's parsers recurse: a text of 200,000 `[` raises `RecursionError`, which is not a `ValueError`. Here
it is one. The limit also makes sure that a parsed value can be copied, printed and serialized, which
recurse too.
"""

import json
import tomllib
from typing import Any

MAX_LEVELS = 64  # of arrays and objects inside one another; a bundle's manifest has about 10
_CONTAINERS = frozenset((dict, list))
TOO_DEEP = f"arrays and objects are nested more than {MAX_LEVELS} levels deep"


def parse_json(text: str | bytes, takes_nan: bool = True) -> Any:
    """Parse a JSON text.

    Args:
        text: bytes are UTF-8, UTF-16 or UTF-32.
        takes_nan: whether `NaN`, `Infinity` and `-Infinity` are taken, which JSON does not have.

    Raises:
        ValueError: it is not JSON, not Unicode, or nested more than `MAX_LEVELS` levels deep.
    """
    try:
        value = json.loads(text, parse_constant=None if takes_nan else _refuse_constant)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if isinstance(text, str):
        brackets = text.count("[") + text.count("{")
    else:
        brackets = text.count(b"[") + text.count(b"{")
    if brackets > MAX_LEVELS:  # fewer cannot exceed the limit
        _check_levels(value)
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON; leave out what is unknown")


def parse_toml(content: bytes) -> dict[str, Any]:
    """Parse the content of a TOML file.

    Raises:
        ValueError: it is not TOML, not UTF-8, or nested more than `MAX_LEVELS` levels deep.
    """
    text = content.decode()
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    _check_levels(table)  # a key such as `a.b.c` nests without brackets
    return table


def _check_levels(value: Any) -> None:
    """Visit all containers level by level, without recursion."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(MAX_LEVELS):
        level = [inner for each in level for inner in _inner(each)]
        if not level:
            return
    raise ValueError(TOO_DEEP)


def _inner(container: Any) -> list[Any]:
    """The containers directly inside one."""
    values = container.values() if type(container) is dict else container
    if _CONTAINERS.isdisjoint(map(type, values)):  # ten times as fast for a long list of texts
        return []
    return [each for each in values if type(each) in _CONTAINERS]
