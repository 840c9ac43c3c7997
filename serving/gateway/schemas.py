"""JSON schemas of protobuf messages, from their descriptors, with the comments of the .proto files.

Descriptors of generated code hold no comments, so these are read from the files beside them.
"""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from twinspire import protos
from twinspire.serving.gateway.messages import AS_TEXT, is_map, may_be_text, name_of

Schema = dict[str, Any]
REFERENCE = "#/components/schemas/"
FILES = ("retrieval.proto", "catalogue.proto", "events.proto")
OPENS = re.compile(r"(message|enum|service|oneof) (\w+) \{(\})?$")
MEMBER = re.compile(r"(?:rpc (\w+)\(|(?:optional |repeated )?(?:map<[^>]*> |[\w.]+ )?(\w+) = \d+;)")

SIMPLE: dict[int, Schema] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.TYPE_INT64: {"type": "integer", "format": "int64"},
    FieldDescriptor.TYPE_UINT64: {"type": "integer", "format": "uint64", "minimum": 0},
}
FILTER_TEXT: Schema = {"type": "string", "examples": ["price < 50 and brand in ['acme', 'zeta']"]}
WELL_KNOWN: dict[str, Schema] = {"google.protobuf.Timestamp": {"type": "string", "format": "date-time"}}


def schemas(inputs: Iterable[Any], outputs: Iterable[Any]) -> dict[str, Schema]:
    """The schemas of messages and of those in them, by name.

    Args:
        inputs: descriptors of requests: no field of them is required, and no others are allowed.
        outputs: descriptors of responses: fields without presence are always there.
    """
    requests, responses = _reachable(inputs), _reachable(outputs)
    found = {}
    for name, descriptor in sorted({**requests, **responses}.items()):
        made = found[name] = _message(descriptor)
        if name in requests:
            made["additionalProperties"] = False
        elif required := [name_of(field) for field in descriptor.fields if not field.has_presence]:
            made["required"] = required
    return found


def reference(descriptor: Any) -> Schema:
    """A reference to a message's schema."""
    return {"$ref": f"{REFERENCE}{_name(descriptor)}"}


@cache
def comments() -> dict[str, str]:
    """The comments above messages, fields, values and methods, by their full names."""
    found: dict[str, str] = {}
    for file in FILES:
        found |= _comments((Path(protos.__file__).parent / file).read_text())
    return found


def _comments(text: str) -> dict[str, str]:
    package = re.search(r"^package ([\w.]+);$", text, re.MULTILINE)
    scopes = [package[1] if package else ""]
    found: dict[str, str] = {}
    pending: list[str] = []

    def take(name: str) -> None:
        if pending:
            found[name] = " ".join(pending)

    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("//"):
            pending.append(line.removeprefix("//").strip())
            continue
        if opens := OPENS.match(line):
            kind, name, closes = opens.groups()
            # Fields of a oneof, and values of an enum, belong to what is around in protobuf's names.
            scope = scopes[-1] if kind == "oneof" else f"{scopes[-1]}.{name}"
            take(scope if kind != "oneof" else f"{scope}.{name}")
            if not closes:
                scopes.append(scope)
        elif line == "}":
            scopes.pop()
        elif member := MEMBER.match(line):
            take(f"{scopes[-1]}.{member[1] or member[2]}")
        pending.clear()
    return found


def _message(descriptor: Any) -> Schema:
    properties = {name_of(field): _property(field) for field in descriptor.fields}
    choices = [
        f"At most one of {', '.join(field.name for field in oneof.fields)}."
        for oneof in descriptor.oneofs
        if len(oneof.fields) > 1
    ]
    text = " ".join([*filter(None, [comments().get(descriptor.full_name)]), *choices])
    return {"type": "object", **({"description": text} if text else {}), "properties": properties}


def _property(field: Any) -> Schema:
    made: Schema
    if is_map(field):
        value = _value(field.message_type.fields_by_name["value"])
        made = {"type": "object", "additionalProperties": value}
    elif field.is_repeated:
        made = {"type": "array", "items": _value(field)}
    elif may_be_text(field):
        made = {"anyOf": [_value(field), FILTER_TEXT]}
    else:
        made = _value(field)
    text = comments().get(field.full_name)
    return {**made, "description": text} if text else made


def _value(field: Any) -> Schema:
    if field.name.endswith(AS_TEXT):
        return {"type": "object"}
    if field.message_type is not None:
        known = WELL_KNOWN.get(field.message_type.full_name)
        return reference(field.message_type) if known is None else known
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    return SIMPLE[field.type]


def _reachable(descriptors: Iterable[Any]) -> dict[str, Any]:
    """Messages and those in their fields, by name."""
    found: dict[str, Any] = {}
    waiting = list(descriptors)
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name in WELL_KNOWN or _name(descriptor) in found:
            continue
        found[_name(descriptor)] = descriptor
        for field in descriptor.fields:
            inner = field.message_type.fields_by_name["value"] if is_map(field) else field
            if inner.message_type is not None:
                waiting.append(inner.message_type)
    return found


def _name(descriptor: Any) -> str:
    name: str = descriptor.full_name
    return name.removeprefix(f"{descriptor.file.package}.")
