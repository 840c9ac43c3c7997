"""The gateway's answers: each request of HTTP becomes a call of gRPC."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from starlette.requests import Request
from starlette.responses import Response

from protos import __version__, catalogue_pb2, retrieval_pb2
from serving.address import is_local
from serving.gateway.exchange import (
    JSON,
    NDJSON,
    ClientGone,
    DisconnectWatcher,
    PendingBytes,
    body,
    check_type,
    deadline,
)
from serving.gateway.failures import Failure, failure_of
from serving.gateway.messages import document, encode, parse, to_json
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.options import GatewayOptions
from serving.gateway.streams import NdjsonRequests, NdjsonWriter, relay
from serving.gateway.upstream import Metadata, Method, Upstream

# HTTP headers that become metadata of the call.
FORWARDED = ("authorization", "x-request-key", "traceparent", "tracestate")
CANCEL_BEFORE_GRACE_END_SECONDS = 0.5  # for the last line of a stream, which says that the gateway stops


def methods(service: ServiceDescriptor) -> dict[str, Method]:
    """The RPCs of a service, by name."""
    return {name: Method(each) for name, each in service.methods_by_name.items()}


RETRIEVAL = methods(retrieval_pb2.DESCRIPTOR.services_by_name["Retrieval"])
CATALOGUE = methods(catalogue_pb2.DESCRIPTOR.services_by_name["Catalogue"])
SEARCH = RETRIEVAL["Search"]


class Gateway:
    """Answers requests by calls of one or two services; it belongs to the event loop in which it opens.

    Args:
        options: of the gateway.

    Attributes:
        is_stopping: whether `stop` was called.
        pending: bytes of all bodies that have not ended.
        metrics: of the gateway.
    """

    def __init__(self, options: GatewayOptions) -> None:
        self.options = options
        self._champion: Upstream | None = None
        self._challenger: Upstream | None = None
        self._following: set[Any] = set()  # calls that end only when their clients go
        self.pending = PendingBytes(options.bounds.pending_body_bytes)
        self.metrics = GatewayMetrics()
        self.metrics.gauges["twinspire_gateway_pending_body_bytes"] = lambda: self.pending.held
        self.is_stopping = False

    async def open(self) -> None:
        """Create the channels to the services; each connects at its first call.

        Raises:
            DataError: a file of the connections' security cannot be read, or is invalid.
        """
        options = self.options
        self._champion = Upstream(options.address, options.security, options.bounds.connections)
        if options.compare_address is not None:
            self._challenger = Upstream(options.compare_address, options.security, options.bounds.connections)

    async def close(self) -> None:
        """Close the connections."""
        for each in (self._champion, self._challenger):
            if each is not None:
                await each.close()

    def stop(self) -> None:
        """End the streams that follow changes now, and all other calls shortly before the grace ends."""
        self.is_stopping = True
        for call in list(self._following):
            call.cancel()
        loop = asyncio.get_running_loop()
        # Where the grace is short, at least half of it is for requests to finish.
        grace = self.options.grace
        loop.call_later(max(grace / 2, grace - CANCEL_BEFORE_GRACE_END_SECONDS), self._cancel_all)

    async def unary(self, method: Method, request: Request) -> Response:
        """The response to one message."""
        seconds, message = await self._message(method, request)
        return json_response(to_json(await self._call(method, message, seconds, request)))

    async def info(self, method: Method, request: Request) -> Response:
        """The response to a method whose request has no fields."""
        seconds = self._seconds(request)
        return json_response(to_json(await self._call(method, method.request(), seconds, request)))

    async def health(self, request: Request) -> Response:
        """Whether the service answers searches, and the gateway does not stop."""
        try:
            serves = await self._service.serves(self._seconds(request), self._metadata(request))
        except grpc.RpcError as error:
            raise failure_of(error) from None
        if serves and not self.is_stopping:
            return json_response(encode({"status": "SERVING"}))
        return json_response(encode({"status": "NOT_SERVING"}), 503)

    async def compare(self, request: Request) -> Response:
        """The answers of both services to one search."""
        challenger = self._challenger
        if challenger is None:
            raise Failure(
                grpc.StatusCode.UNIMPLEMENTED,
                "there is one service alone; start the gateway with --compare-address as well",
            )
        seconds, message = await self._message(SEARCH, request)

        async def ask(name: str, service: Upstream) -> Any:
            try:
                with service.call(SEARCH, message, seconds, self._metadata(request)) as call:
                    return document(await call)
            except grpc.RpcError as error:
                raise failure_of(error, f"{name}: ") from None

        services = {"champion": self._service, "challenger": challenger}
        tasks = [asyncio.create_task(ask(name, service)) for name, service in services.items()]
        both = asyncio.gather(*tasks)
        watch = DisconnectWatcher(request.receive, both)
        try:
            return json_response(encode(dict(zip(services, await both, strict=True))))
        except asyncio.CancelledError:
            raise self.cancellation_error(watch.is_gone) from None
        finally:
            watch.stop()
            for task in tasks:
                task.cancel()

    async def describe(self, request: Request) -> Response:
        """The gateway's version, and whether it can compare; clients are not told where its services are."""
        can_compare = self.options.compare_address is not None
        return json_response(encode({"compare": can_compare, "version": __version__}))

    async def server_stream(self, method: Method, request: Request) -> Response:
        """The responses to one message, as lines."""
        check_type(request, JSON)
        seconds = deadline(request, self.options.stream_timeout, self.options.stream_timeout)
        bound = min(self.options.timeout, seconds)
        left, content = await self._body(request, bound)
        message = parse(content, method.request, self.options.bounds.max_body_fields)
        return StreamResponse(self, method, message, seconds - bound + left, self._metadata(request))

    async def bidirectional_stream(self, method: Method, request: Request) -> Response:
        """The responses to the messages of a body's lines, as lines."""
        check_type(request, NDJSON, JSON)
        seconds = deadline(request, self.options.stream_timeout, self.options.stream_timeout)
        return StreamResponse(self, method, None, seconds, self._metadata(request))

    @contextlib.contextmanager
    def streaming(self, method: Method, messages: Any, seconds: float, metadata: Metadata) -> Iterator[Any]:
        """A call whose responses are a stream, which the gateway ends when it stops."""
        with self._service.call(method, messages, seconds, metadata) as call:
            if getattr(messages, "follow", False):
                self._following.add(call)
            try:
                yield call
            finally:
                self._following.discard(call)

    def cancellation_error(self, is_gone: bool) -> BaseException:
        """The exception to raise for a cancelled call.

        Args:
            is_gone: whether its client has gone.
        """
        task = asyncio.current_task()
        if is_gone:
            return ClientGone()
        if self.is_stopping and not (task is not None and task.cancelling()):
            return Failure(grpc.StatusCode.UNAVAILABLE, "the gateway stops", headers={"retry-after": "1"})
        return asyncio.CancelledError()

    @property
    def _service(self) -> Upstream:
        assert self._champion is not None, "open the gateway first"
        return self._champion

    async def _message(self, method: Method, request: Request) -> tuple[float, Any]:
        """The seconds that are left for a request, and its message."""
        check_type(request, JSON)
        left, content = await self._body(request, self._seconds(request))
        return left, parse(content, method.request, self.options.bounds.max_body_fields)

    async def _body(self, request: Request, seconds: float) -> tuple[float, bytes | bytearray]:
        """The seconds that are left when the body has arrived, and the body."""
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        content = await body(request, self.options.bounds.max_body_bytes, seconds, self.pending)
        return max(0.0, until - clock()), content

    async def _call(self, method: Method, message: Any, seconds: float, request: Request) -> Any:
        with self._service.call(method, message, seconds, self._metadata(request)) as call:
            watch = DisconnectWatcher(request.receive, call)
            try:
                return await call
            except asyncio.CancelledError:
                raise self.cancellation_error(watch.is_gone) from None
            except grpc.RpcError as error:
                raise failure_of(error) from None
            finally:
                watch.stop()

    def _seconds(self, request: Request) -> float:
        return deadline(request, self.options.timeout, self.options.longest_timeout)

    def _metadata(self, request: Request) -> Metadata:
        """The metadata of a call.

        Raises:
            Failure: a header cannot be passed on, or a token would go to another machine without TLS.
        """
        found = []
        for name, value in request.scope["headers"]:
            key = name.decode("latin-1")
            if key not in FORWARDED:
                continue
            text = value.decode("latin-1").strip()
            if not (text.isascii() and text.isprintable()):
                raise Failure(grpc.StatusCode.INVALID_ARGUMENT, f"{key}: expected printable ASCII")
            if key == "authorization":
                self._check_privacy()
            found.append((key, text))
        return tuple(found)

    def _check_privacy(self) -> None:
        options = self.options
        for address in filter(None, (options.address, options.compare_address)):
            if not options.security.encrypted and not is_local(address):
                raise Failure(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "the token would go to another machine in the clear; start the gateway with --tls",
                )

    def _cancel_all(self) -> None:
        for each in (self._champion, self._challenger):
            if each is not None:
                each.cancel()


class StreamResponse(Response):
    """The lines of a stream; a failure after the first line is sent as the last one.

    Args:
        gateway: that makes the call.
        method: with responses that are a stream.
        message: the request; None for a method whose requests are the lines of the body.
        seconds: until the call's deadline.
        metadata: of the call.
    """

    def __init__(
        self, gateway: Gateway, method: Method, message: Any, seconds: float, metadata: Metadata
    ) -> None:
        super().__init__()
        self._gateway, self._method, self._message = gateway, method, message
        self._seconds, self._metadata = seconds, metadata

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""
        lines = NdjsonWriter(send)
        try:
            await self._relay(receive, lines)
        except Failure as failure:
            if not lines.has_begun:
                await error_response(failure)(scope, receive, send)
                return
            await lines.write(failure.body)
        except ClientGone:
            return
        await lines.end()

    async def _relay(self, receive: Any, out: NdjsonWriter) -> None:
        gateway, requests = self._gateway, None
        messages = self._message
        if messages is None:
            bounds = gateway.options.bounds
            messages = requests = NdjsonRequests(
                receive, self._method, bounds.max_body_bytes, bounds.max_body_fields, gateway.pending
            )
        with gateway.streaming(self._method, messages, self._seconds, self._metadata) as call:
            watch: DisconnectWatcher | NdjsonRequests = requests or DisconnectWatcher(receive, call)
            if requests is not None:
                requests.call = call
            try:
                await relay(call, out, self._seconds)
            except asyncio.CancelledError:
                raise gateway.cancellation_error(watch.is_gone) from None
            finally:
                watch.stop()
        if requests is not None and requests.failure is not None:
            raise requests.failure


def json_response(content: bytes, status: int = 200) -> Response:
    """A response of JSON."""
    return Response(content, status, media_type=JSON)


def error_response(failure: Failure) -> Response:
    """The response to a request that failed."""
    return Response(failure.body, failure.http, failure.headers, JSON)
