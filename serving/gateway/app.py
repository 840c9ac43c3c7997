"""The gateway as an ASGI application: its routes, and the checks and the count of every request."""

import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache, partial
from typing import Any

import grpc
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twinspire.protos import __version__
from twinspire.serving.gateway.exchange import JSON, HttpClientGone
from twinspire.serving.gateway.failures import HTTP_STATUS, MISDIRECTED, NOT_ALLOWED, HttpFailure
from twinspire.serving.gateway.fairness import client_in
from twinspire.serving.gateway.gateway import CATALOGUE, RETRIEVAL, Gateway, error_response
from twinspire.serving.gateway.messages import encode
from twinspire.serving.gateway.metrics import CLIENT_GONE, OTHER
from twinspire.serving.gateway.openapi import Operation, complete
from twinspire.serving.gateway.options import GatewayOptions
from twinspire.serving.gateway.pages import HERE, read_pages

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]

SEARCH_EXAMPLE: dict[str, Any] = {"query": {"text": "red shoes"}, "k": 5}
ITEM_EXAMPLES: dict[str, Any] = {
    "Upsert": {
        "items": [{"item": {"id": "17", "features": {"title": {"text": "red shoes"}}}}],
        "request_id": "a-uuid",
    },
    "Delete": {"items": [{"id": "17"}], "request_id": "a-uuid"},
    "Get": {"ids": ["17"]},
    "Changes": {"after": "0"},
}
OPERATIONS = (
    Operation("POST", "/v1/search", "search", RETRIEVAL["Search"], example=SEARCH_EXAMPLE),
    Operation(
        "POST",
        "/v1/search:batch",
        "search",
        RETRIEVAL["SearchBatch"],
        example={"queries": [{"text": "red shoes"}, {"history": ["17", "4"]}], "k": 5},
    ),
    Operation(
        "POST", "/v1/encode", "search", RETRIEVAL["Encode"], example={"queries": [{"text": "red shoes"}]}
    ),
    Operation(
        "POST",
        "/v1/score",
        "search",
        RETRIEVAL["Score"],
        example={"queries": [{"query": {"text": "red shoes"}, "item_ids": ["17", "4"]}]},
    ),
    Operation(
        "POST",
        "/v1/compare",
        "search",
        summary="The answers of two services, `--address` and `--compare-address`, to one search.",
        schema="Comparison",
        request_of=RETRIEVAL["Search"],
        example=SEARCH_EXAMPLE,
    ),
    *(
        Operation("POST", f"/v1/items:{name.lower()}", "items", method, example=ITEM_EXAMPLES.get(name))
        for name, method in CATALOGUE.items()
    ),
    Operation("GET", "/v1/info", "service", RETRIEVAL["Info"]),
    Operation("GET", "/v1/health", "service", summary="Whether the service answers.", schema="Health"),
    Operation(
        "GET",
        "/v1/gateway",
        "service",
        summary="The gateway's version, whether it can compare, and the display field with images.",
        schema="Gateway",
        has_deadline=False,
    ),
)


PATHS = frozenset(each.path for each in OPERATIONS)


class RequestGuard:
    """Checks that a request names this host and that its client may ask, and counts it.

    Args:
        app: ASGI application that answers the requests that pass.
    """

    def __init__(self, app: Any, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway
        self._names = gateway.options.host_names

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        sender = _Sender(send, self._gateway)
        try:
            await self._answer(scope, receive, sender.send)
        finally:
            path = scope["path"] if scope["path"] in PATHS else OTHER
            self._gateway.metrics.answered(path, sender.status, time.perf_counter() - begun)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            self._gateway.refusals.check(client_in(scope))
            self._check_host(scope)
        except HttpFailure as failure:
            self._gateway.refuse(failure, Request(scope))
            await error_response(failure)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_host(self, scope: Any) -> None:
        """Refuse the name of another host.

        DNS rebinding: an attacker's name may resolve to this address, and their page would then be of the
        same origin as the gateway.

        Raises:
            HttpFailure: the header `Host` has another name.
        """
        if self._names is not None and (host := _host(scope)) not in self._names:
            message = f"Host: {host[:100]!r} is not a name of this gateway (--allow-host)"
            raise HttpFailure(grpc.StatusCode.PERMISSION_DENIED, message, MISDIRECTED)


class _Sender:
    """Sends the messages of a response, and records its status.

    While the gateway stops, it adds the header that closes the connection after the response.

    Attributes:
        status: of the response; `CLIENT_GONE` until it begins.
    """

    def __init__(self, send: Any, gateway: Gateway) -> None:
        self._send, self._gateway = send, gateway
        self.status = CLIENT_GONE

    async def send(self, message: Any) -> None:
        """Send a message of ASGI."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._gateway.is_stopping:
                headers = [each for each in message.get("headers", ()) if each[0] != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
        await self._send(message)


def application(options: GatewayOptions) -> tuple[RequestGuard, Gateway]:
    """The application, and the gateway behind it."""
    gateway = Gateway(options)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await gateway.open()
        yield
        await gateway.close()

    playground = read_pages(HERE / "playground", "/", options.image_field is not None)
    pages = {**playground, **read_pages(HERE / "docs", "/docs")}
    # FastAPI describes the operations, and Starlette alone answers them: to look for arguments that no
    # operation has would take a tenth of a search's time.
    app = Starlette(
        routes=[
            *(Route(each.path, _endpoint(gateway, each), methods=[each.verb]) for each in OPERATIONS),
            Route("/openapi.json", _describe, methods=["GET"]),
            *(Route(path, page.answer, methods=["GET"]) for path, page in pages.items()),
        ],
        exception_handlers={
            HttpFailure: partial(_failed, gateway),
            HttpClientGone: _client_disconnected,
            HTTPException: partial(_http_error, gateway),
            Exception: _unexpected,
        },
        lifespan=lifespan,
    )
    return RequestGuard(app, gateway), gateway


def _endpoint(gateway: Gateway, operation: Operation) -> Endpoint:
    """The function that answers the requests of one operation."""
    method = operation.method
    if method is None:
        own: dict[str, Endpoint] = {
            "/v1/health": gateway.health,
            "/v1/gateway": gateway.describe,
            "/v1/compare": gateway.compare,
        }
        return own[operation.path]
    if method.descriptor.server_streaming:
        return partial(gateway.server_stream, method)
    return partial(gateway.unary if operation.verb == "POST" else gateway.info, method)


async def _describe(request: Request) -> Response:
    return Response(_description(), media_type=JSON)


@cache
def _description() -> bytes:
    """The description of the API, as JSON."""

    def endpoint() -> None: ...

    routes = [
        APIRoute(
            each.path,
            endpoint,
            methods=[each.verb],
            tags=[each.tag],
            summary=each.text,
            operation_id=each.name,
            openapi_extra=each.extra(),
            response_class=Response,
        )
        for each in OPERATIONS
    ]
    return encode(complete(get_openapi(title="Twinspire", version=__version__, routes=routes), OPERATIONS))


async def _failed(gateway: Gateway, request: Request, failure: Any) -> Response:
    gateway.refuse(failure, request)
    return error_response(failure)


async def _client_disconnected(request: Request, error: Exception) -> Response:
    return error_response(HttpFailure(grpc.StatusCode.CANCELLED, "the client has gone"))


async def _unexpected(request: Request, error: Exception) -> Response:
    """Answer after an unexpected exception; uvicorn logs its traceback."""
    incident = uuid.uuid4().hex[:12]
    log.error("incident %s: %s", incident, type(error).__name__)
    message = f"internal error; the gateway's log has it as incident {incident}"
    return error_response(HttpFailure(grpc.StatusCode.INTERNAL, message))


async def _http_error(gateway: Gateway, request: Request, error: Any) -> Response:
    """Answer a request whose path or method the gateway does not have."""
    if error.status_code == NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"{request.method} {request.url.path[:100]}: expected {allowed}"
        failure = HttpFailure(grpc.StatusCode.UNIMPLEMENTED, message, NOT_ALLOWED, error.headers)
    elif error.status_code == HTTP_STATUS[grpc.StatusCode.NOT_FOUND]:
        message = f"{request.url.path[:100]}: no such path; /docs lists all paths"
        failure = HttpFailure(grpc.StatusCode.NOT_FOUND, message)
    else:
        failure = HttpFailure(grpc.StatusCode.INVALID_ARGUMENT, str(error.detail), error.status_code)
    return await _failed(gateway, request, failure)


def _host(scope: Any) -> str:
    """The name in the header `Host`, without its port."""
    for name, value in scope["headers"]:
        if name == b"host":
            text: str = value.decode("latin-1").lower()
            return (
                text[: text.index("]") + 1]
                if text.startswith("[") and "]" in text
                else text.partition(":")[0]
            )
    return ""
