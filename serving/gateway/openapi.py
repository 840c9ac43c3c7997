"""The OpenAPI description of the gateway."""

from dataclasses import dataclass
from typing import Any

from twinspire.protos import __version__
from twinspire.serving.gateway.exchange import JSON
from twinspire.serving.gateway.failures import HTTP_STATUS
from twinspire.serving.gateway.schemas import REFERENCE, comments, reference, schemas
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
