"""The gateway as an ASGI application: its routes, and the checks and the count of every request."""

import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import quote

import grpc
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twinspire.protos.system import logs
from twinspire.serving.gateway.exchange import JSON, error_response
from twinspire.serving.gateway.failures import HTTP_STATUS, MISDIRECTED, NOT_ALLOWED, HttpFailure
from twinspire.serving.gateway.fairness import client_in
from twinspire.serving.gateway.gateway import CATALOGUE, EVENTS, FORWARDED, RETRIEVAL, Gateway
from twinspire.serving.gateway.messages import encode
from twinspire.serving.gateway.metrics import CLIENT_GONE, OTHER
from twinspire.serving.gateway.openapi import Operation, description
from twinspire.serving.gateway.options import GatewayOptions
from twinspire.serving.gateway.pages import HERE, read_pages

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]

QUERY = {"text": "red shoes"}
EXAMPLES: dict[str, Any] = {  # of the requests of RPCs
    "Search": {"query": QUERY, "k": 5},
    "SearchBatch": {"queries": [QUERY, {"history": ["17", "4"]}], "k": 5},
    "Encode": {"queries": [QUERY]},
    "Score": {"queries": [{"query": QUERY, "item_ids": ["17", "4"]}]},
    "Upsert": {"items": [{"item": {"id": "17", "features": {"title": QUERY}}}], "request_id": "a-uuid"},
    "Delete": {"items": [{"id": "17"}], "request_id": "a-uuid"},
    "Get": {"ids": ["17"]},
    "Record": {"events": [{"user": "u7", "item_id": "17", "type": "click"}], "request_id": "a-uuid"},
    "List": {"user": "u7", "limit": 10},
}
SEARCHES = {"Search": "search", "SearchBatch": "search:batch", "Encode": "encode", "Score": "score"}
SEARCH = RETRIEVAL["Search"]
COMPARE = "The answers of two services, `--address` and `--compare-address`, to one search."
LIVES = "Whether the gateway lives, whatever the service does."
ABOUT = "The gateway's version, and whether it can compare."
METRICS_PATH, ALIVE_PATH, READY_PATH = "/metrics", "/healthz", "/readyz"
OPERATIONS = (
    *(
        Operation("POST", f"/v1/{path}", "search", RETRIEVAL[name], EXAMPLES[name])
        for name, path in SEARCHES.items()
    ),
    Operation("POST", "/v1/compare", "search", None, EXAMPLES["Search"], "Comparison", COMPARE, SEARCH),
    *(
        Operation("POST", f"/v1/items:{name.lower()}", "items", method, EXAMPLES.get(name))
        for name, method in CATALOGUE.items()
    ),
    *(
        Operation("POST", f"/v1/events:{name.lower()}", "events", EVENTS[name], EXAMPLES[name])
        for name in ("Record", "List")
    ),
    Operation("GET", "/v1/info", "service", RETRIEVAL["Info"]),
    Operation("GET", READY_PATH, "service", schema="Health", summary="Whether the service answers."),
    Operation("GET", ALIVE_PATH, "service", schema="Alive", summary=LIVES, has_deadline=False),
    Operation("GET", "/v1/gateway", "service", schema="Gateway", summary=ABOUT, has_deadline=False),
)


REQUEST_ID = logs.REQUEST_ID.encode()
PATHS = frozenset((*(each.path for each in OPERATIONS), METRICS_PATH))
CORS_SECONDS = 600  # for which a browser keeps the answer to a preflight request


class RequestGuard:
    """Checks that a request names this host and that its client may ask, counts it, and gives it an id.

    Args:
        app: ASGI application that answers the requests that pass; it logs its errors.
    """

    def __init__(self, app: Any, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway
        self._names = gateway.options.host_names
        self._answer: Any = partial(self._check, app)
        if origins := gateway.options.cors_origin:
            self._answer = CORSMiddleware(
                self._answer,
                allow_origins=origins,
                allow_methods=("GET", "POST"),
                allow_headers=(*FORWARDED, logs.REQUEST_ID, "content-type", "request-timeout"),
                expose_headers=(logs.REQUEST_ID, "retry-after"),
                max_age=CORS_SECONDS,
            )
        self._preflight = partial(self._check, self._answer)  # the middleware answers it without a check

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        sent = [value.decode("latin-1") for key, value in scope["headers"] if key == REQUEST_ID]
        given = logs.request_id_in([(logs.REQUEST_ID, each) for each in sent]) or uuid.uuid4().hex
        sender = _Sender(send, self._gateway, given)
        with logs.answering(given):
            try:
                answer = self._preflight if scope["method"] == "OPTIONS" else self._answer
                await answer(scope, receive, sender.send)
            finally:
                path = scope["path"] if scope["path"] in PATHS else OTHER
                seconds = time.perf_counter() - begun
                self._gateway.metrics.answered(path, sender.status, seconds)
                if self._gateway.options.access_log:
                    named = quote(scope["path"][:100], "/:")
                    log.info("%s %s %d in %.1f ms", scope["method"], named, sender.status, seconds * 1000)

    async def _check(self, then: Any, scope: Any, receive: Any, send: Any) -> None:
        try:
            if scope["path"] not in (METRICS_PATH, ALIVE_PATH, READY_PATH):  # which monitoring asks for
                self._gateway.refusals.check(client_in(scope))
            if scope["path"] != ALIVE_PATH:  # for which Kubernetes asks by an address
                self._check_host(scope)
        except HttpFailure as failure:
            self._gateway.refuse(failure, Request(scope))
            await error_response(failure)(scope, receive, send)
            return
        with contextlib.suppress(Exception):  # Starlette raises again what `_unexpected` has logged
            await then(scope, receive, send)

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
    """Sends the messages of a response with the id of its request, and records its status.

    While the gateway stops, it adds the header that closes the connection after the response.

    Attributes:
        status: of the response; `CLIENT_GONE` until it begins.
    """

    def __init__(self, send: Any, gateway: Gateway, request_id: str) -> None:
        self._send, self._gateway = send, gateway
        self._id = (REQUEST_ID, request_id.encode())
        self.status = CLIENT_GONE

    async def send(self, message: Any) -> None:
        """Send a message of ASGI."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), self._id]
            if self._gateway.is_stopping:
                headers = [each for each in headers if each[0] != b"connection"] + [(b"connection", b"close")]
            message = {**message, "headers": headers}
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
    described = Response(encode(description(OPERATIONS)), media_type=JSON)

    async def describe(request: Request) -> Response:
        return described

    app = Starlette(
        routes=[
            *(Route(each.path, _endpoint(gateway, each), methods=[each.verb]) for each in OPERATIONS),
            Route("/openapi.json", describe, methods=["GET"]),
            Route(METRICS_PATH, gateway.show_metrics, methods=["GET"]),
            *(Route(path, page.answer, methods=["GET"]) for path, page in pages.items()),
        ],
        exception_handlers={
            HttpFailure: partial(_failed, gateway),
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
            READY_PATH: gateway.health,
            ALIVE_PATH: gateway.live,
            "/v1/gateway": gateway.describe,
            "/v1/compare": gateway.compare,
        }
        return own[operation.path]
    return partial(gateway.unary if operation.verb == "POST" else gateway.info, method)


async def _failed(gateway: Gateway, request: Request, failure: Any) -> Response:
    gateway.refuse(failure, request)
    return error_response(failure)


async def _unexpected(request: Request, error: Exception) -> Response:
    """Answer after an unexpected exception, and log it with the id of its request."""
    incident = uuid.uuid4().hex[:12]
    log.error("incident %s", incident, exc_info=error)
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
    text = Headers(scope=scope).get("host", "").lower()
    return text[: text.index("]") + 1] if text.startswith("[") and "]" in text else text.partition(":")[0]
