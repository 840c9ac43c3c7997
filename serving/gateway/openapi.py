"""The OpenAPI description of the gateway, with JSON schemas of the messages from their descriptors.

Descriptors of generated code hold no comments, so these are read from the .proto files beside them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from twinspire import protos
from twinspire.protos import __version__
from twinspire.serving.gateway.exchange import JSON
from twinspire.serving.gateway.failures import HTTP_STATUS
from twinspire.serving.gateway.messages import AS_TEXT, is_map, may_be_text, name_of
from twinspire.serving.gateway.upstream import UpstreamMethod

Document = dict[str, Any]

ABOUT = """The RPCs of Retrieval and Catalogue as JSON: protobuf's own mapping, with the .proto files' names.

64-bit integers are numbers, and a filter may be a text such as `price < 50 and brand in ['acme', 'zeta']`.
An error's body is `{"error": {"code": ..., "message": ...}}` with the code of gRPC, and its HTTP status is
that of the code. The header `X-Request-Id` of an answer is that of its request, or a new one. When a client
goes, its call is cancelled."""
TIMEOUT = {
    "name": "Request-Timeout",
    "in": "header",
    "description": "Seconds until the call's deadline.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
KEY = {
    "name": "X-Request-Key",
    "in": "header",
    "description": "The same bundle answers all requests with the same key.",
    "schema": {"type": "string"},
}
TEXT: Document = {"type": "string"}
REFERENCE = "#/components/schemas/"
FILES = ("retrieval.proto", "catalogue.proto", "events.proto")
OPENS = re.compile(r"(message|enum|service|oneof) (\w+) \{(\})?$")
MEMBER = re.compile(r"(?:rpc (\w+)\(|(?:optional |repeated )?(?:map<[^>]*> |[\w.]+ )?(\w+) = \d+;)")

SIMPLE: dict[int, Document] = {
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
FILTER_TEXT: Document = {"type": "string", "examples": ["price < 50 and brand in ['acme', 'zeta']"]}
WELL_KNOWN: dict[str, Document] = {"google.protobuf.Timestamp": {"type": "string", "format": "date-time"}}


def schemas(inputs: Iterable[Any], outputs: Iterable[Any]) -> dict[str, Document]:
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


def reference(descriptor: Any) -> Document:
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


def _message(descriptor: Any) -> Document:
    properties = {name_of(field): _property(field) for field in descriptor.fields}
    choices = [
        f"At most one of {', '.join(field.name for field in oneof.fields)}."
        for oneof in descriptor.oneofs
        if len(oneof.fields) > 1
    ]
    text = " ".join([*filter(None, [comments().get(descriptor.full_name)]), *choices])
    return {"type": "object", **({"description": text} if text else {}), "properties": properties}


def _property(field: Any) -> Document:
    made: Document
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


def _value(field: Any) -> Document:
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


def _object(**properties: Document) -> Document:
    return {"type": "object", "properties": properties, "required": [*properties]}


ERROR_REFERENCE = {"$ref": f"{REFERENCE}Error"}
OWN_SCHEMAS: dict[str, Document] = {  # of messages that are in no .proto file
    "Error": _object(
        error=_object(code={**TEXT, "enum": sorted(code.name for code in HTTP_STATUS)}, message=TEXT)
    ),
    "Health": _object(status={**TEXT, "enum": ["SERVING", "NOT_SERVING"]}),
    "Alive": _object(status={**TEXT, "enum": ["ALIVE"]}),
    "Gateway": _object(compare={"type": "boolean"}, version=TEXT, image_field={"type": ["string", "null"]}),
    "Comparison": _object(
        champion={"$ref": f"{REFERENCE}SearchResponse"},
        challenger={"$ref": f"{REFERENCE}SearchResponse"},
    ),
}


@dataclass(frozen=True)
class Operation:
    """A path of the gateway, and what may be sent to it.

    Args:
        verb: `GET` or `POST`.
        tag: under which it is listed.
        method: RPC that it calls; None where it calls none, or several.
        example: of its request.
        schema: name of the schema of its response, where there is no `method`.
        summary: one sentence; that of a method is its comment.
        request_of: RPC whose request is its body, where that is not `method`.
        has_deadline: whether it calls a service, and so takes the header `Request-Timeout`.
    """

    verb: str
    path: str
    tag: str
    method: UpstreamMethod | None = None
    example: Document | None = None
    schema: str = ""
    summary: str = ""
    request_of: UpstreamMethod | None = None
    has_deadline: bool = True

    def describe(self) -> Document:
        """Its description in OpenAPI, without its path."""
        body = self.request_of or self.method
        name, summary, schema = self.schema, self.summary, {"$ref": f"{REFERENCE}{self.schema}"}
        if self.method is not None:
            called = self.method.descriptor
            name, schema = called.name, reference(called.output_type)
            summary = comments().get(called.full_name, "")
        error = {"description": "An error", "content": {JSON: {"schema": ERROR_REFERENCE}}}
        found: Document = {
            "tags": [self.tag],
            "summary": summary,
            "operationId": name,  # unique, for programs that generate clients
            "parameters": [
                *([TIMEOUT] if self.has_deadline else []),
                *([KEY] if body is not None and self.tag == "search" else []),
            ],
            "responses": {
                "200": {"description": "The response", "content": {JSON: {"schema": schema}}},
                "default": error,
            },
            "security": [{}, {"token": []}],
        }
        if body is not None and self.verb == "POST":
            content: Document = {"schema": reference(body.descriptor.input_type)}
            if self.example is not None:
                content["example"] = self.example
            found["requestBody"] = {"required": True, "content": {JSON: content}}
        return found


def description(operations: tuple[Operation, ...]) -> Document:
    """The document of all paths and messages."""
    methods = [each.method or each.request_of for each in operations]
    descriptors = [method.descriptor for method in methods if method is not None]
    inputs, outputs = ([getattr(each, f"{way}_type") for each in descriptors] for way in ("input", "output"))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Twinspire", "version": __version__, "description": ABOUT},
        "paths": {each.path: {each.verb.lower(): each.describe()} for each in operations},
        "components": {
            "schemas": {**schemas(inputs, outputs), **OWN_SCHEMAS},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
