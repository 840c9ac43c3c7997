"""Reads TOML files into frozen, checked dataclasses.

    experiment = read(Path("train/configs/pydocs.toml"), Experiment)

The dataclass is the schema: a field's annotation is its type, and a field without a default is required.
`__post_init__` may raise `ValueError` to refuse values of the right type. An unknown key, a missing key or a
wrong type raises a `ConfigError` that names the file and the key.

A table that may have several schemas has a key `kind`, which selects one. The schemas are a union of
dataclasses, each with a field `kind: Literal[...]`, or the modules of a package, see `KindsIn`.
"""

import dataclasses
import importlib
import pkgutil
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from twinspire.protos.documents import parse_toml
from twinspire.protos.errors import ConfigError
from twinspire.protos.files.regular_files import open_regular
from twinspire.protos.names import near

T = TypeVar("T")

# Metadata of a field that `to_table` leaves out while it holds its default. A format can get a new field this
# way: documents without it stay valid, and stay the same bytes.
OPTIONAL: Mapping[str, bool] = types.MappingProxyType({"optional": True})

# Default of a key that is chosen from the data where the TOML does not set it. It is None, whatever the type
# of the key; `train/models/defaults.py` sets it before towers are built.
FROM_DATA: Any = None


@dataclasses.dataclass(frozen=True)
class KindsIn:
    """Marks a field whose schemas are the modules of a package, one module for each kind.

        data: Annotated[DataConfig, KindsIn("twinspire.train.data.sources")]

    With `kind = "files"`, the schema is the dataclass in `train.data.sources.files` whose field `kind` is
    `Literal["files"]`. Other modules of the package are not imported.

    Args:
        package: full name of the package.
    """

    package: str

    def kinds(self) -> list[str]:
        """The names of the package's modules."""
        package = importlib.import_module(self.package)
        return sorted(module.name for module in pkgutil.iter_modules(package.__path__))

    def schema(self, kind: str) -> Any:
        """The dataclass that a module of the package defines for its kind.

        Raises:
            TypeError: the module defines none.
        """
        module = importlib.import_module(f"{self.package}.{kind}")
        for value in vars(module).values():
            if dataclasses.is_dataclass(value) and kind in _kinds_of(value):
                return value
        raise TypeError(f'{module.__name__}: expected a dataclass with a field kind: Literal["{kind}"]')


def read(
    path: Path, schema: type[T], complete: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> T:
    """Read the TOML file at `path` into an instance of the dataclass `schema`.

    Args:
        complete: adds to the parsed table what the file may leave out.

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
        parsed: T = parse(complete(table) if complete else table, schema)
        return parsed
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse(value: Any, schema: Any, key: str = "") -> Any:
    """Check a value that was parsed from TOML or JSON, and convert it to `schema`.

    Args:
        schema: a dataclass, or the type of a dataclass field.
        key: full path of the value's key, for error texts.

    Raises:
        ValueError: the value does not fit the schema; the text names the key by its full path.
    """
    origin, arguments = get_origin(schema), get_args(schema)
    if dataclasses.is_dataclass(schema):
        return _parse_dataclass(value, schema, key)
    if origin in (Union, types.UnionType):
        return _parse_union(value, arguments, key)
    if origin is Annotated:
        return _parse_annotated(value, arguments, key)
    if origin is Literal:
        if value not in arguments:
            raise _mismatch(key, "one of " + ", ".join(map(repr, arguments)), value)
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _mismatch(key, "a list", value)
        return tuple(parse(each, arguments[0], f"{key}[{n}]") for n, each in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise _mismatch(key, "a table", value)
        return {name: parse(each, arguments[1], _join(key, name)) for name, each in value.items()}
    if schema is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{key}: expected a number from -1.8e308 to 1.8e308, got one outside") from None
    if schema is Any or type(value) is schema:
        return value
    raise _mismatch(key, _TYPE_NAMES.get(schema, str(schema)), value)


_TYPE_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


def to_table(value: Any) -> Any:
    """The inverse of `parse`: dataclasses as tables, without `OPTIONAL` fields that hold their default."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: to_table(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not ("optional" in field.metadata and getattr(value, field.name) == _default(field))
        }
    if isinstance(value, Mapping):
        return {name: to_table(each) for name, each in value.items()}
    return [to_table(each) for each in value] if isinstance(value, list | tuple) else value


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _parse_dataclass(value: Any, schema: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise _mismatch(key, "a table", value)
    hints = get_type_hints(schema, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(schema) if field.init}
    for name in value:
        if name not in fields:
            known = f"known here: {', '.join(sorted(fields))}{near(name, fields)}"
            raise ValueError(f"{_join(key, name)}: unknown key; {known}")
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
    schemas = {
        kind: choice for choice in choices if dataclasses.is_dataclass(choice) for kind in _kinds_of(choice)
    }
    if schemas:
        return _parse_dataclass(value, schemas[_kind(value, list(schemas), key)], key)
    # Without a dataclass it is `X | None`. JSON has null; TOML does not.
    (schema,) = (choice for choice in choices if choice is not type(None))
    return None if value is None else parse(value, schema, key)


def _parse_annotated(value: Any, arguments: tuple[Any, ...], key: str) -> Any:
    for registry in arguments[1:]:
        if isinstance(registry, KindsIn):
            return _parse_dataclass(value, registry.schema(_kind(value, registry.kinds(), key)), key)
    return parse(value, arguments[0], key)


def _kind(value: Any, known: list[str], key: str) -> str:
    """The kind that a table names, which must be one of the known ones."""
    if not isinstance(value, dict):
        raise _mismatch(key, "a table", value)
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in known:
        raise _mismatch(_join(key, "kind"), "one of " + ", ".join(map(repr, known)), kind)
    return kind


def _kinds_of(schema: Any) -> tuple[Any, ...]:
    """The literals that the field `kind` of a dataclass allows; empty if it has no such field."""
    return get_args(get_type_hints(schema).get("kind"))


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _mismatch(key: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"{key}: expected {expected}, got {value!r}")
