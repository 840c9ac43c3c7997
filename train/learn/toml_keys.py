"""Every key of an experiment's TOML file: type, default and meaning, from the dataclasses that read it."""

import dataclasses
import inspect
import json
import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from twinspire.protos.toml_config import FROM_DATA, KindsIn
from twinspire.train.config import Experiment

REQUIRED = "required"
AUTOMATIC = "automatic"
TOP = "top of the file"
INTRODUCTION = f"""# Keys of the TOML file

One TOML file describes an experiment. `NAME` stands for a name of your own. A key with the default
*{AUTOMATIC}* is chosen from the data or follows from other keys where it is not set.
"""
_TYPES = {str: "string", int: "integer", float: "number", bool: "true or false", Any: "any value"}
_BAR = r"\|"
_ARGUMENT = re.compile(r"^    (\w+(?:, \w+)*): *(.*(?:\n     .*)*)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of a table.

    Args:
        name: of the key in its table.
        type: of its value, in words.
        default: the value as TOML, `REQUIRED`, `AUTOMATIC`, or empty where the key is absent by default.
        meaning: from the docstring of the table's dataclass; empty if that says none.
    """

    name: str
    type: str
    default: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the TOML file, or one kind of it.

    Args:
        title: as it is written in TOML, or `TOP`.
        summary: the first paragraph of the dataclass's docstring.
    """

    title: str
    summary: str
    keys: tuple[Key, ...]


def tables(schema: type = Experiment, path: str = "") -> Iterator[Table]:
    """The table that a dataclass describes, and then those inside it, each kind for itself."""
    hints = get_type_hints(schema, include_extras=True)
    meanings = _meanings(schema)
    fields = [field for field in dataclasses.fields(schema) if field.init]
    kind = hints.get("kind")
    kinds = " or ".join(map(json.dumps, get_args(kind))) if get_origin(kind) is Literal else ""
    yield Table(
        (f"[{path}]" if path else TOP) + (kinds and f" kind = {kinds}"),
        _summary(schema),
        tuple(_key(field, hints[field.name], meanings) for field in fields),
    )
    for field in fields:
        for inner, name in _schemas(hints[field.name], f"{path}.{field.name}".lstrip(".")):
            yield from tables(inner, name)


def markdown() -> str:
    """All tables as one page of Markdown."""
    titles: dict[Table, list[str]] = {}
    for table in tables():
        titles.setdefault(dataclasses.replace(table, title=""), []).append(f"`{table.title}`")
    lines = [INTRODUCTION]
    for table, places in titles.items():
        lines += ["", f"## {' or '.join(dict.fromkeys(places))}", "", table.summary, ""]
        lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        for key in table.keys:
            cells = (f"`{key.name}`", key.type, key.default, key.meaning)
            lines.append(f"| {' | '.join(cell.replace('|', _BAR) for cell in cells)} |")
    return "\n".join(lines)


def _key(field: "dataclasses.Field[Any]", hint: Any, meanings: Mapping[str, str]) -> Key:
    meaning = meanings.get(field.name, "")
    if not meaning and field.name == "kind" and get_origin(hint) is Literal:
        meaning = "Selects this table's keys."
    if not meaning and isinstance(schema := _without_none(hint), type) and dataclasses.is_dataclass(schema):
        meaning = _summary(schema)
    return Key(field.name, _type(hint), _default(field, hint), meaning)


def _schemas(hint: Any, path: str) -> Iterator[tuple[type, str]]:
    """The dataclasses of a key's value, each with the path of its table."""
    if dataclasses.is_dataclass(hint):
        yield hint, path  # type: ignore[misc]
    elif get_origin(hint) is Annotated and isinstance(registry := get_args(hint)[1], KindsIn):
        yield from ((registry.schema(kind), path) for kind in registry.kinds())
    elif get_origin(hint) in (dict, Mapping):
        yield from _schemas(get_args(hint)[1], f"{path}.NAME")
    else:
        for each in get_args(hint):
            yield from _schemas(each, f"[{path}]" if get_origin(hint) is tuple else path)


def _type(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) or origin is Annotated:
        return "table"
    if origin is Literal:
        return ", ".join(f"`{json.dumps(each)}`" for each in arguments)
    if origin is tuple:
        return f"list: {_type(arguments[0])}"
    if origin in (dict, Mapping):
        return f"table: {_type(arguments[1])}"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(each) for each in arguments if each is not types.NoneType))
    return _TYPES[hint]


def _without_none(hint: Any) -> Any:
    """X of `X | None`, and any other type as it is."""
    others = [each for each in get_args(hint) if each is not types.NoneType]
    return others[0] if types.NoneType in get_args(hint) and len(others) == 1 else hint


def _default(field: "dataclasses.Field[Any]", hint: Any) -> str:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        return "" if dataclasses.is_dataclass(value) else f"`{json.dumps(value)}`"
    if field.default is dataclasses.MISSING:
        return REQUIRED
    if field.default is FROM_DATA:
        return "" if types.NoneType in get_args(hint) else AUTOMATIC
    return f"`{json.dumps(field.default)}`"


def _summary(schema: type) -> str:
    return inspect.cleandoc(schema.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _meanings(schema: type) -> dict[str, str]:
    """Argument -> its text, from the docstrings of a dataclass and its bases."""
    found: dict[str, str] = {}
    for each in reversed(schema.__mro__):
        _, _, arguments = inspect.cleandoc(each.__doc__ or "").partition("\nArgs:\n")
        section = re.split(r"\n\n(?=\w)", arguments)[0]
        for names, text in _ARGUMENT.findall(section):
            found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found
