"""The gateway's answers: each request of HTTP becomes a call of gRPC."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from twinspire.protos import __version__, catalogue_pb2, events_pb2, retrieval_pb2
from twinspire.protos.system import logs
from twinspire.serving.address import is_local
from twinspire.serving.gateway.exchange import (
    CLIENT_GONE,
    JSON,
    RECEIVED,
    DisconnectWatcher,
    body,
    check_type,
    deadline,
)
from twinspire.serving.gateway.failures import CLOSE, UNPAID, HttpFailure, failure_of
from twinspire.serving.gateway.fairness import FairShare, HeavyWork, Refusals, client_in
from twinspire.serving.gateway.messages import (
    LIGHT_MESSAGE_BYTES,
    document,
    encode,
    is_heavy,
    parse,
    to_json,
)
from twinspire.serving.gateway.metrics import GatewayMetrics
from twinspire.serving.gateway.options import GatewayOptions
from twinspire.serving.gateway.upstream import Metadata, Upstream, UpstreamMethod

# HTTP headers that become metadata of the call.
FORWARDED = ("authorization", "x-request-key", "traceparent", "tracestate")
CANCEL_BEFORE_GRACE_END_SECONDS = 0.5  # for answers that say that the gateway stops


def methods(service: ServiceDescriptor) -> dict[str, UpstreamMethod]:
    """The RPCs of a service with one request and one response, by name."""
    each = service.methods_by_name.items()
    return {name: UpstreamMethod(rpc) for name, rpc in each if not rpc.server_streaming}


RETRIEVAL = methods(retrieval_pb2.DESCRIPTOR.services_by_name["Retrieval"])
CATALOGUE = methods(catalogue_pb2.DESCRIPTOR.services_by_name["Catalogue"])
EVENTS = methods(events_pb2.DESCRIPTOR.services_by_name["Events"])
SEARCH, INFO = RETRIEVAL["Search"], RETRIEVAL["Info"]


class Gateway:
    """Answers requests by calls of one or two services; it belongs to the event loop in which it opens.

    Attributes:
        is_stopping: whether `stop` was called.
        requests: in progress, whose bodies have arrived.
        pending: bytes of all bodies.
        refusals: of clients whose requests were at fault.
    """

    def __init__(self, options: GatewayOptions) -> None:
        self.options = options
        self._services: list[Upstream] = []  # the champion, and the challenger if there is one
        self._work = HeavyWork()
        bounds = options.bounds
        self.requests = FairShare(bounds.requests, "requests in progress", "--requests")
        not_answered = "bytes of bodies that have not been answered"
        self.pending = FairShare(bounds.pending_body_bytes, not_answered, "--pending-body-bytes", CLOSE)
        self.refusals = Refusals(bounds.refused_per_second)
        self.metrics = GatewayMetrics()
        show, pending = self.metrics.show, "Bytes of bodies whose rest has not arrived."
        show("in_progress", "Requests that are being answered.", lambda: self.requests.held)
        show("pending_body_bytes", pending, lambda: self.pending.held)
        self.is_stopping = False

    async def open(self) -> None:
        """Create the channels to the services; each connects at its first call.

        Raises:
            DataError: a file of the connections' security cannot be read, or is invalid.
        """
        options = self.options
        self._services = [
            Upstream(each, options.security, options.bounds.connections) for each in options.addresses
        ]

    async def close(self) -> None:
        """Close the connections."""
        self._work.close()
        for each in self._services:
            await each.close()

    def stop(self) -> None:
        """End all calls shortly before the grace ends."""
        self.is_stopping = True
        loop = asyncio.get_running_loop()
        # Where the grace is short, at least half of it is for requests to finish.
        grace = self.options.grace
        loop.call_later(max(grace / 2, grace - CANCEL_BEFORE_GRACE_END_SECONDS), self._cancel_all)

    async def unary(self, method: UpstreamMethod, request: Request) -> Response:
        """The response to one message."""
        async with self._message(method, request) as (seconds, message):
            return await self._answer(method, message, seconds, request)

    async def info(self, method: UpstreamMethod, request: Request) -> Response:
        """The response to a method whose request has no fields."""
        with self._in_progress(request):
            return await self._answer(method, method.request(), self._seconds(request), request)

    async def health(self, request: Request) -> Response:
        """Whether the service answers searches, and the gateway does not stop."""
        service, metadata = self._service, self._metadata(request)
        with self._in_progress(request):
            client, bound = client_in(request.scope), self._seconds(request)
            async with self._place(service, client, bound) as seconds:
                try:
                    serves = await service.serves(seconds, metadata)
                except grpc.RpcError as error:
                    raise failure_of(error) from None
        if serves and not self.is_stopping:
            return json_response(encode({"status": "SERVING"}))
        return json_response(encode({"status": "NOT_SERVING"}), 503)

    async def live(self, request: Request) -> Response:
        """The gateway answers."""
        return json_response(encode({"status": "ALIVE"}))

    async def show_metrics(self, request: Request) -> Response:
        """The gateway's metrics for Prometheus, for clients that may call `Info`."""
        await self.authorize(INFO, request)
        return Response(generate_latest(self.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    async def compare(self, request: Request) -> Response:
        """The answers of both services to one search."""
        if len(self._services) < 2:
            raise HttpFailure(
                grpc.StatusCode.UNIMPLEMENTED,
                "there is one service alone; start the gateway with --compare-address as well",
            )
        async with self._message(SEARCH, request) as (seconds, message):
            services = dict(zip(("champion", "challenger"), self._services, strict=True))
            tasks = [
                asyncio.create_task(self._call(service, SEARCH, message, seconds, request, f"{name}: "))
                for name, service in services.items()
            ]
            try:
                answers = await asyncio.gather(*tasks)
                return json_response(encode(dict(zip(services, map(document, answers), strict=True))))
            finally:
                for task in tasks:
                    task.cancel()

    async def describe(self, request: Request) -> Response:
        """What the page has to know of the gateway; clients are not told where its services are."""
        can_compare, images = self.options.compare_address is not None, self.options.image_field
        return json_response(encode({"compare": can_compare, "version": __version__, "image_field": images}))

    async def authorize(self, method: UpstreamMethod, request: Request) -> None:
        """Refuse a client that may not call a method, as long as the service can be asked.

        Raises:
            Failure: the service does not allow it.
        """
        metadata = tuple(each for each in self._metadata(request) if each[0] == "authorization")
        service = self._service
        try:
            async with self._place(service, client_in(request.scope), self.options.timeout) as seconds:
                code, text = await service.status(method, seconds, metadata)
        except HttpFailure:  # no place in time
            return
        if code in UNPAID:
            raise HttpFailure(code, text, headers=CLOSE)

    async def _read(
        self, content: bytes | bytearray, method: UpstreamMethod, request: Request, seconds: float
    ) -> Any:
        """The message that JSON describes; a large one is read by a thread, if the client may make the call.

        Raises:
            Failure: as of `parse`, the client may not make the call, or it takes too long.
        """
        given = content, method.request, self.options.bounds.max_body_fields
        if not is_heavy(content):
            return parse(*given)
        await self.authorize(method, request)
        try:
            async with asyncio.timeout(seconds):
                return await self._work.run(client_in(request.scope), parse, *given)
        except TimeoutError:
            late = "the body could not be read within the request's time"
            raise HttpFailure(grpc.StatusCode.DEADLINE_EXCEEDED, late) from None

    def refuse(self, failure: HttpFailure, request: Request) -> None:
        """Count a failure for the bound on refused requests, if the request was at fault."""
        if failure.is_refusal:
            self.refusals.charge(client_in(request.scope), request.scope.get(RECEIVED, 0))

    @property
    def _service(self) -> Upstream:
        return self._services[0]

    @contextlib.asynccontextmanager
    async def _message(self, method: UpstreamMethod, request: Request) -> AsyncIterator[tuple[float, Any]]:
        """The seconds that are left for a request, and its message; in progress while the block lasts.

        They are counted from the end of its body, which has a time of its own.
        """
        check_type(request)
        clock = asyncio.get_running_loop().time
        seconds = self._seconds(request)
        most, longest = self.options.bounds.max_body_bytes, self.options.longest_timeout
        content = await body(request, most, longest, self.pending)
        until = clock() + seconds
        with self._in_progress(request), self.pending.hold(client_in(request.scope), len(content)):
            message = await self._read(content, method, request, seconds)
            yield max(0.0, until - clock()), message

    async def _answer(
        self, method: UpstreamMethod, message: Any, seconds: float, request: Request
    ) -> Response:
        """The response of the service as JSON; a large one is written by a thread."""
        answer = await self._call(self._service, method, message, seconds, request)
        if answer.ByteSize() <= LIGHT_MESSAGE_BYTES:
            return json_response(to_json(answer))
        return json_response(await self._work.run(client_in(request.scope), to_json, answer))

    async def _call(
        self,
        service: Upstream,
        method: UpstreamMethod,
        message: Any,
        seconds: float,
        request: Request,
        prefix: str = "",
    ) -> Any:
        """The response of gRPC; `prefix` begins the text of a failure."""
        async with self._place(service, client_in(request.scope), seconds) as left:
            with service.call(method, message, left, self._metadata(request)) as call:
                try:
                    return await call
                except grpc.RpcError as error:
                    raise failure_of(error, prefix) from None

    @contextlib.asynccontextmanager
    async def _place(self, service: Upstream, client: str, seconds: float) -> AsyncIterator[float]:
        """A place for a client's call; gives the seconds that are left when it is free.

        Raises:
            HttpFailure: no place became free in these seconds.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        place = service.places.take(client)
        try:
            try:
                async with asyncio.timeout_at(until):
                    await place
            except TimeoutError:
                late = "no place among the calls to the service became free in time"
                raise HttpFailure(grpc.StatusCode.DEADLINE_EXCEEDED, late) from None
            yield max(0.0, until - clock())
        finally:
            if not place.cancelled() and not place.cancel():
                service.places.give_back(client)

    @contextlib.contextmanager
    def _in_progress(self, request: Request) -> Iterator[None]:
        """A request in progress, whose body has been read; its task is cancelled when its client goes.

        Raises:
            HttpFailure: its client has too many or has gone, all have too many, or the gateway stops.
        """
        with self.requests.hold(client_in(request.scope)):
            watch = DisconnectWatcher(request.receive)
            try:
                yield
            except asyncio.CancelledError:
                if watch.is_gone:
                    raise HttpFailure(*CLIENT_GONE) from None
                if self.is_stopping and not watch.task.cancelling():
                    stops, later = "the gateway stops", {"retry-after": "1"}
                    raise HttpFailure(grpc.StatusCode.UNAVAILABLE, stops, headers=later) from None
                raise
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
                raise HttpFailure(grpc.StatusCode.INVALID_ARGUMENT, f"{key}: expected printable ASCII")
            if key == "authorization":
                self._check_privacy()
            found.append((key, text))
        return (*found, (logs.REQUEST_ID, logs.request_id()))

    def _check_privacy(self) -> None:
        if not self.options.security.encrypted and not all(map(is_local, self.options.addresses)):
            raise HttpFailure(
                grpc.StatusCode.FAILED_PRECONDITION,
                "the token would go to another machine in the clear; start the gateway with --tls",
            )

    def _cancel_all(self) -> None:
        for each in self._services:
            each.cancel()


def json_response(content: bytes, status: int = 200) -> Response:
    """A response of JSON."""
    return Response(content, status, media_type=JSON)
