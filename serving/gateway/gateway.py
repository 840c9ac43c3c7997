"""The gateway's answers: each request of HTTP becomes a call of gRPC."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
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
    JSON,
    RECEIVED,
    DisconnectWatcher,
    HttpClientGone,
    Receive,
    body,
    check_type,
    deadline,
)
from twinspire.serving.gateway.failures import CLOSE, UNPAID, HttpFailure, failure_of
from twinspire.serving.gateway.fairness import FairShare, Refusals, client_in
from twinspire.serving.gateway.heavy_work import HeavyWork
from twinspire.serving.gateway.messages import LIGHT_MESSAGE_BYTES, document, encode, is_heavy, to_json
from twinspire.serving.gateway.metrics import GatewayMetrics
from twinspire.serving.gateway.options import GatewayOptions
from twinspire.serving.gateway.streams import StreamResponse
from twinspire.serving.gateway.upstream import Metadata, Upstream, UpstreamMethod

# HTTP headers that become metadata of the call.
FORWARDED = ("authorization", "x-request-key", "traceparent", "tracestate")
CANCEL_BEFORE_GRACE_END_SECONDS = 0.5  # for the last line of a stream, which says that the gateway stops


def methods(service: ServiceDescriptor) -> dict[str, UpstreamMethod]:
    """The RPCs of a service, by name."""
    return {name: UpstreamMethod(each) for name, each in service.methods_by_name.items()}


RETRIEVAL = methods(retrieval_pb2.DESCRIPTOR.services_by_name["Retrieval"])
CATALOGUE = methods(catalogue_pb2.DESCRIPTOR.services_by_name["Catalogue"])
EVENTS = methods(events_pb2.DESCRIPTOR.services_by_name["Events"])
SEARCH, INFO = RETRIEVAL["Search"], RETRIEVAL["Info"]


class Gateway:
    """Answers requests by calls of one or two services; it belongs to the event loop in which it opens.

    Attributes:
        is_stopping: whether `stop` was called.
        requests: in progress, whose bodies have arrived.
        streams: in progress, which are requests, too.
        pending: bytes of all bodies.
        refusals: of clients whose requests were at fault.
    """

    def __init__(self, options: GatewayOptions) -> None:
        self.options = options
        self._champion: Upstream | None = None
        self._challenger: Upstream | None = None
        self._following: set[Any] = set()  # calls that end only when their clients go
        self._work = HeavyWork()
        bounds = options.bounds
        self.requests = FairShare(bounds.requests, "requests in progress", "--requests")
        self.streams = FairShare(bounds.streams, "streams in progress", "--streams")
        not_answered = "bytes of bodies that have not been answered"
        self.pending = FairShare(bounds.pending_body_bytes, not_answered, "--pending-body-bytes", CLOSE)
        self.refusals = Refusals(bounds.refused_per_second)
        self.metrics = GatewayMetrics()
        self.metrics.show("twinspire_gateway_in_progress", lambda: self.requests.held)
        self.metrics.show("twinspire_gateway_pending_body_bytes", lambda: self.pending.held)
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
        self._work.close()
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
            async with self._place(service, client, bound, request.receive) as seconds:
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
        challenger = self._challenger
        if challenger is None:
            raise HttpFailure(
                grpc.StatusCode.UNIMPLEMENTED,
                "there is one service alone; start the gateway with --compare-address as well",
            )
        async with self._message(SEARCH, request) as (seconds, message):
            services = {"champion": self._service, "challenger": challenger}
            tasks = [
                asyncio.create_task(self._compared(name, service, message, seconds, request))
                for name, service in services.items()
            ]
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
        """What the page has to know of the gateway; clients are not told where its services are."""
        can_compare, images = self.options.compare_address is not None, self.options.image_field
        return json_response(encode({"compare": can_compare, "version": __version__, "image_field": images}))

    async def server_stream(self, method: UpstreamMethod, request: Request) -> Response:
        """The responses to one message, as lines."""
        check_type(request)
        longest = deadline(request, self.options.stream_timeout, self.options.stream_timeout)
        bound = min(self.options.timeout, longest)
        async with self._message(method, request, bound) as (left, message):
            pass
        seconds = longest - bound + left
        open_call = partial(self.streaming, method, message, seconds, request)
        write = partial(self.write, client=client_in(request.scope))
        refuse = partial(self.refuse, request=request)
        return StreamResponse(open_call, write, seconds, refuse, self.cancellation_error)

    @contextlib.asynccontextmanager
    async def streaming(
        self, method: UpstreamMethod, message: Any, seconds: float, request: Request
    ) -> AsyncIterator[Any]:
        """A call whose responses are a stream, which the gateway ends when it stops."""
        client = client_in(request.scope)
        with self._in_progress(request), self.streams.hold(client):
            wait = min(self.options.timeout, seconds)
            async with self._place(self._service, client, wait, request.receive):
                with self._service.call(method, message, seconds, self._metadata(request)) as call:
                    if getattr(message, "follow", False):
                        self._following.add(call)
                    try:
                        yield call
                    finally:
                        self._following.discard(call)

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

    async def read(
        self, content: bytes | bytearray, method: UpstreamMethod, request: Request, seconds: float
    ) -> Any:
        """The message that JSON describes; a large one is read by a thread, if the client may make the call.

        Raises:
            Failure: as of `parse`, the client may not make the call, or it takes too long.
        """
        given = content, self.options.bounds.max_body_fields
        if not is_heavy(content):
            return method.read(*given)
        await self.authorize(method, request)
        try:
            async with asyncio.timeout(seconds):
                return await self._work.run(client_in(request.scope), method.read, *given)
        except TimeoutError:
            late = "the body could not be read within the request's time"
            raise HttpFailure(grpc.StatusCode.DEADLINE_EXCEEDED, late) from None

    async def write(self, message: Any, client: str) -> bytes:
        """A message as JSON; a large one is written by a thread."""
        if message.ByteSize() <= LIGHT_MESSAGE_BYTES:
            return to_json(message)
        return await self._work.run(client, to_json, message)

    def refuse(self, failure: HttpFailure, request: Request) -> None:
        """Count a failure for the bound on refused requests, if the request was at fault."""
        if failure.is_refusal:
            self.refusals.charge(client_in(request.scope), request.scope.get(RECEIVED, 0))

    def cancellation_error(self, is_gone: bool) -> BaseException:
        """The exception to raise for a cancelled call.

        Args:
            is_gone: whether its client has gone.
        """
        task = asyncio.current_task()
        if is_gone:
            return HttpClientGone()
        if self.is_stopping and not (task is not None and task.cancelling()):
            return HttpFailure(grpc.StatusCode.UNAVAILABLE, "the gateway stops", headers={"retry-after": "1"})
        return asyncio.CancelledError()

    @property
    def _service(self) -> Upstream:
        assert self._champion is not None, "open the gateway first"
        return self._champion

    @contextlib.asynccontextmanager
    async def _message(
        self, method: UpstreamMethod, request: Request, seconds: float | None = None
    ) -> AsyncIterator[tuple[float, Any]]:
        """The seconds that are left for a request, and its message; in progress while the block lasts.

        They are counted from the end of its body, which has a time of its own.
        """
        check_type(request)
        clock = asyncio.get_running_loop().time
        seconds = self._seconds(request) if seconds is None else seconds
        most, longest = self.options.bounds.max_body_bytes, self.options.longest_timeout
        content = await body(request, most, longest, self.pending)
        until = clock() + seconds
        with self._in_progress(request), self.pending.hold(client_in(request.scope), len(content)):
            message = await self.read(content, method, request, seconds)
            yield max(0.0, until - clock()), message

    async def _answer(
        self, method: UpstreamMethod, message: Any, seconds: float, request: Request
    ) -> Response:
        answer = await self._called(method, message, seconds, request)
        return json_response(await self.write(answer, client_in(request.scope)))

    async def _called(self, method: UpstreamMethod, message: Any, seconds: float, request: Request) -> Any:
        """The response of gRPC."""
        client, service = client_in(request.scope), self._service
        async with self._place(service, client, seconds, request.receive) as left:
            with service.call(method, message, left, self._metadata(request)) as call:
                watch = DisconnectWatcher(request.receive, call)
                try:
                    return await call
                except asyncio.CancelledError:
                    raise self.cancellation_error(watch.is_gone) from None
                except grpc.RpcError as error:
                    raise failure_of(error) from None
                finally:
                    watch.stop()

    async def _compared(
        self, name: str, service: Upstream, message: Any, seconds: float, request: Request
    ) -> Any:
        """The answer of one of two services, as a document."""
        async with self._place(service, client_in(request.scope), seconds) as left:
            try:
                with service.call(SEARCH, message, left, self._metadata(request)) as call:
                    return document(await call)
            except grpc.RpcError as error:
                raise failure_of(error, f"{name}: ") from None

    @contextlib.asynccontextmanager
    async def _place(
        self, service: Upstream, client: str, seconds: float, receive: Receive | None = None
    ) -> AsyncIterator[float]:
        """A place for a call; gives the seconds that are left when the client has it.

        Args:
            client: that calls.
            seconds: in which the place has to be free.
            receive: of the request, to see that the client goes while it waits.
        """
        place = service.places.take(client)
        try:
            if not place.done():
                seconds = await self._waited(place, seconds, receive)
            yield seconds
        finally:
            if not place.cancelled() and not place.cancel():
                service.places.give_back(client)

    async def _waited(self, place: "asyncio.Future[None]", seconds: float, receive: Receive | None) -> float:
        """Wait for a place; returns the seconds that are left then."""
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        watch = None if receive is None else DisconnectWatcher(receive, place)
        try:
            async with asyncio.timeout(seconds):
                await place
        except TimeoutError:
            late = "no place among the calls to the service became free in time"
            raise HttpFailure(grpc.StatusCode.DEADLINE_EXCEEDED, late) from None
        except asyncio.CancelledError:
            raise self.cancellation_error(watch is not None and watch.is_gone) from None
        finally:
            if watch is not None:
                watch.stop()
        return max(0.0, until - clock())

    def _in_progress(self, request: Request) -> contextlib.AbstractContextManager[None]:
        """A request in progress.

        Raises:
            Failure: its client has too many, or all have.
        """
        return self.requests.hold(client_in(request.scope))

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
        options = self.options
        for address in filter(None, (options.address, options.compare_address)):
            if not options.security.encrypted and not is_local(address):
                raise HttpFailure(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "the token would go to another machine in the clear; start the gateway with --tls",
                )

    def _cancel_all(self) -> None:
        for each in (self._champion, self._challenger):
            if each is not None:
                each.cancel()


def json_response(content: bytes, status: int = 200) -> Response:
    """A response of JSON."""
    return Response(content, status, media_type=JSON)
