"""TOML files as frozen, checked dataclasses.

    config = read(Path("train/configs/pydocs.toml"), ExperimentConfig)

A dataclass is the schema: a field's annotation is its type, a field without a default is required, and
`__post_init__` may raise `ValueError` for what a type cannot say. An unknown key, a missing key or a
wrong type is a `ConfigError` that names the file and the key. A union of dataclasses is told apart by
the literal in their `kind` field.
"""

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from protos.documents import parse_toml
from protos.errors import ConfigError
from protos.regular import open_regular

T = TypeVar("T")


def read(path: Path, schema: type[T]) -> T:
    """The TOML file at `path` as an instance of the dataclass `schema`.

    Raises:
        ConfigError: the file is missing, is no regular file, is not TOML, or does not fit the schema.
    """
    try:
        with open_regular(path) as file:
            content = file.read()
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        table = parse_toml(content)
    except ValueError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    try:
        parsed: T = parse(table, schema)
        return parsed
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse(value: Any, schema: Any, key: str = "") -> Any:
    """`value`, as TOML or JSON gives it, checked against and converted to `schema`.

    Raises:
        ValueError: the value does not fit; the text names the key by its full path.
    """
    origin, arguments = get_origin(schema), get_args(schema)
    if dataclasses.is_dataclass(schema):
        return _parse_dataclass(value, schema, key)
    if origin in (Union, types.UnionType):
        return _parse_union(value, arguments, key)
    if origin is Literal:
        if value not in arguments:
            raise _misfit(key, "one of " + ", ".join(map(repr, arguments)), value)
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _misfit(key, "a list", value)
        return tuple(parse(each, arguments[0], f"{key}[{n}]") for n, each in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise _misfit(key, "a table", value)
        return {name: parse(each, arguments[1], _join(key, name)) for name, each in value.items()}
    if schema is float and type(value) is int:
        return float(value)
    if schema is Any or type(value) is schema:
        return value
    raise _misfit(key, _NAMES.get(schema, str(schema)), value)


_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


def _parse_dataclass(value: Any, schema: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise _misfit(key, "a table", value)
    hints = get_type_hints(schema)
    fields = {field.name: field for field in dataclasses.fields(schema) if field.init}
    for name in value:
        if name not in fields:
            known = ", ".join(sorted(fields))
            raise ValueError(f"{_join(key, name)}: unknown key; known here: {known}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise ValueError(f"{_join(key, name)}: required, but missing")
    parsed = {name: parse(each, hints[name], _join(key, name)) for name, each in value.items()}
    try:
        return schema(**parsed)
    except ValueError as error:
        raise ValueError(_join(key, str(error))) from None


def _parse_union(value: Any, choices: tuple[Any, ...], key: str) -> Any:
    kinds = {}
    for choice in choices:
        if dataclasses.is_dataclass(choice):
            (kind,) = get_args(get_type_hints(choice)["kind"])
            kinds[kind] = choice
    if not kinds:  # a plain `X | None`: TOML has no null, JSON has
        (schema,) = (choice for choice in choices if choice is not type(None))
        return None if value is None else parse(value, schema, key)
    if not isinstance(value, dict):
        raise _misfit(key, "a table", value)
    if not isinstance(value.get("kind"), str) or value["kind"] not in kinds:
        raise _misfit(_join(key, "kind"), "one of " + ", ".join(map(repr, kinds)), value.get("kind"))
    return _parse_dataclass(value, kinds[value["kind"]], key)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _misfit(key: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"{key}: expected {expected}, got {value!r}")
