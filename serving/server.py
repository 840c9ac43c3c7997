"""The gRPC server of one worker process.

Beside `retrieval.v1.Retrieval` it offers `grpc.health.v1.Health` and server reflection, so that
`grpcurl -plaintext 127.0.0.1:50051 list` works without files.
"""

from twinspire.serving import environment  # noqa: F401  # before gRPC is imported

# isort: split

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.address import join
from twinspire.serving.api import catalogue_service, events_service
from twinspire.serving.api.catalogue_service import CatalogueServicer
from twinspire.serving.api.events_service import EventsServicer
from twinspire.serving.api.retrieval_service import SERVICE, RetrievalServicer
from twinspire.serving.config import ServiceConfig
from twinspire.serving.engine.batching import Batcher
from twinspire.serving.engine.call import Call, Method, UnaryCall
from twinspire.serving.engine.event_loop import EventLoop
from twinspire.serving.engine.front import Front
from twinspire.serving.engine.stream_call import OpenCalls, StreamCall, WatchCall
from twinspire.serving.events.shown_items import ShownItems
from twinspire.serving.grpc.connection_monitor import ConnectionMonitor
from twinspire.serving.grpc.core import GrpcFront, server_options
from twinspire.serving.heap import HeapTrimmer
from twinspire.serving.live.process.frames import StoreClient
from twinspire.serving.observability import layout
from twinspire.serving.observability.tracing import Tracing
from twinspire.serving.observability.worker_metrics import Observer, SharedMetrics
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.rollout.loaded_bundle import LoadedBundle, TrafficSplit
from twinspire.serving.security.auth import Access, Guard, caller
from twinspire.serving.security.tls import credentials
from twinspire.serving.served_log.sampling import AnswerSampler
from twinspire.serving.served_log.shared_queue import SharedQueues
from twinspire.serving.shadow.mirror import TrafficMirror
from twinspire.serving.shared_state import CATALOGUE, SharedState

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
SERVICES = ("", SERVICE.full_name)  # whose health is reported; "": server
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class RetrievalServer:
    """A server that listens from its construction on, and answers from `start` to `stop`.

    with RetrievalServer(LoadedBundle.load(folder)) as server:
        print(server.port)

    Args:
        bundle: the bundle that answers; if it is a `Retriever`, its catalogue is packed here.
        config: of the service; defaults if not given. Where its port is 0, the system chooses one.
        access: TLS, tokens and rate limit; without it every client may call.
        metrics: shared by all workers; if not given, this server has metrics of its own.
        slot: of this worker in `metrics`.
        mirror: takes a share of the champion's searches, if there is one.
        share_port: whether other workers listen on the same port.
        status: gives the fields of `Info` that describe the bundles of the service.
        catalogue: connection to the catalogue's process, already started, if the service takes writes.
        shared_state: has the entry `CATALOGUE` of that process.
        events: connection to the process that stores events, already started, if the service has events.
        log_queues: to the process of the served log, if there is one.
        front: accepts the calls; one for gRPC by default.

    Raises:
        Unavailable: the address cannot be listened on, most likely because it is in use.
    """

    def __init__(
        self,
        bundle: LoadedBundle | Retriever,
        config: ServiceConfig | None = None,
        access: Access | None = None,
        metrics: SharedMetrics | None = None,
        slot: int = 0,
        mirror: TrafficMirror | None = None,
        tracing: Tracing | None = None,
        share_port: bool = False,
        status: Callable[[], dict[str, Any]] = dict,
        catalogue: StoreClient | None = None,
        shared_state: SharedState | None = None,
        events: StoreClient | None = None,
        log_queues: SharedQueues | None = None,
        front: Front | None = None,
    ) -> None:
        self._config = config = config or ServiceConfig(Path())
        limits, bounds, access = config.limits, config.bounds, access or Access()
        bundle = bundle if isinstance(bundle, LoadedBundle) else LoadedBundle.of(bundle)
        metrics = metrics or SharedMetrics(workers=1)
        self._access = access
        self._metrics = worker_metrics = metrics.worker(slot)

        users = shown = None
        if events is not None and config.events is not None:
            from twinspire.serving.events.user_histories import UserHistories  # which needs SQLAlchemy

            users = UserHistories(config.events.url, limits.max_values, limits.max_exclude, self._call_soon)
            if hours := config.events.bounds.events_shown_hours:
                dropped = partial(worker_metrics.add, layout.SHOWN_DROPPED)
                shown = ShownItems(events, hours * 3600, self._call_soon, dropped)
        self._users = users
        self._log: AnswerSampler | None = None
        if config.served_log is not None and log_queues is not None:
            self._log = AnswerSampler(config.served_log, log_queues, slot, self._call_soon)
        self._servicer = RetrievalServicer(
            TrafficSplit(bundle),
            limits,
            access.rate,
            partial(self._state, status, metrics),
            mirror,
            None if shared_state is None else lambda: int(shared_state.read(CATALOGUE)["sequence"]),
            None if users is None else users.resolve,
            self._log,
            shown,
            0.0 if config.follow is None else config.follow.interleave_share,
        )
        self._metrics.shows([bundle.version])
        self._shown_sequence = 0
        self._show_live(self._servicer.split)
        self._catalogue: CatalogueServicer | None = None
        if catalogue is not None and shared_state is not None:
            self._catalogue = CatalogueServicer(
                self._servicer,
                catalogue,
                shared_state,
                limits.max_answer_bytes,
                bounds.watches,
            )
        self._stores: dict[ServiceDescriptor, Any] = {}
        if self._catalogue is not None:
            self._stores[catalogue_service.SERVICE] = self._catalogue
        if events is not None and users is not None:
            servicer = EventsServicer(events, users.latest, self._servicer.admit)
            self._stores[events_service.SERVICE] = servicer
        self._health = _Health((*SERVICES, *(each.full_name for each in self._stores)), bounds.watches)
        front = front or GrpcFront(server_options(limits, bounds, share_port))
        self._event_loop = EventLoop(
            self._methods(),
            Batcher(worker_metrics, bounds.batch),
            Observer(worker_metrics, tracing),
            Guard(access.tokens) if access.tokens is not None else None,
            caller,
            bounds,
            limits.max_in_flight,
            front,
            self._advance if bundle.live is not None else None,
        )
        self.host = config.host
        secured = None if access.tls is None else credentials(access.tls)
        self.port = front.listen(join(config.host, config.port), secured)
        self._monitor = ConnectionMonitor(
            self.port,
            bounds,
            limits.max_message_bytes,
            lambda: worker_metrics.row[layout.HEARTBEAT],
            self._event_loop.last_calls,
            lambda reason: worker_metrics.add(layout.CONNECTIONS_CLOSED[reason]),
            self._event_loop.processor_seconds,
        )
        self._trimmer = HeapTrimmer()

    def _state(self, status: Callable[[], dict[str, Any]], metrics: SharedMetrics) -> dict[str, Any]:
        """The fields of `ServiceState`; arguments as of the server."""
        found, shown = metrics.snapshot(), status()
        mixed = found.pop("interleaved")
        follow, served_log, bounds = self._config.follow, self._config.served_log, self._config.bounds
        if follow is not None and follow.interleave_share:
            found["interleaving"] = {"share": follow.interleave_share, **mixed}
        if shown.get("catalogue") is not None:
            shown["catalogue"].worker_sequence = self._servicer.split.sequence
        if served_log is not None and shown.get("served_log") is not None:
            shown["served_log"].share = served_log.served_log_share
            shown["served_log"].explore_share = served_log.explore_share or 0.0
        loaded = {each.version: each.manifest for each in self._servicer.split.all}
        for each in shown.get("bundles", ()):
            if (manifest := loaded.get(each.bundle_version)) is not None:
                scores = {name: getattr(manifest, name) for name in ("score_reference", "weak_score")}
                each.MergeFrom(wire.ServedBundle(**scores))
        worker = {
            "worker_pid": os.getpid(),
            "queue_bound": bounds.queue,
            "unsent_bytes_bound": bounds.unsent_bytes,
            "connection_unsent_bytes_bound": bounds.connection_unsent_bytes,
        }
        return {**found, **self._access.state(), **worker, **shown}

    def _methods(self) -> dict[str, Method]:
        """All methods that the server answers, by path."""
        names = (*self._health.services[1:], HEALTH.full_name, REFLECTION.full_name)
        return {
            **methods(SERVICE, self._servicer),
            **{path: each for pair in self._stores.items() for path, each in methods(*pair).items()},
            **methods(HEALTH, self._health, always=True),
            **methods(REFLECTION, _Reflection(names), always=True),
        }

    @property
    def address(self) -> str:
        """`host:port`, as a client takes it."""
        return join(self.host, self.port)

    def start(self) -> None:
        """Answer requests from now on."""
        self._health.set_all(SERVING)
        self._event_loop.start()
        self._monitor.start()
        self._trimmer.start()

    def swap(self, split: TrafficSplit, swapped: Callable[[], None] = lambda: None) -> None:
        """Answer from other bundles from now on; running requests finish with the bundle that they began
        with.

        Bundles that have applied fewer changes of live items than the bundles before do not answer yet: then
        nothing happens, and the caller tries again.

        Args:
            split: the bundles; with item towers and live items, if the server was made with them.
            swapped: called on the event loop's thread when the swap is done.
        """

        def swap() -> None:
            for each in split.all:
                if each.live is not None:
                    each.live.catch_up()
            if split.sequence < max(each.sequence for each in self._servicer.split.all):
                return
            self._metrics.shows([each.version for each in split.all])
            self._servicer.split = split
            self._show_live(split)
            if self._catalogue is not None:
                self._catalogue.advance()
            swapped()

        self._event_loop.call_soon(swap)

    def _advance(self) -> bool:
        """Apply some changes of live items, between two batches; returns whether there are more."""
        split, more = self._servicer.split, False
        for bundle in split.all:
            if bundle.live is not None:
                more |= bundle.live.advance()
        self._servicer.waits.release(split.sequence)
        if split.sequence != self._shown_sequence:
            self._show_live(split)
            if self._catalogue is not None:
                self._catalogue.advance()
        return more

    def _show_live(self, split: TrafficSplit) -> None:
        """Set the gauges of live items."""
        if split.champion.live is not None:
            self._shown_sequence = split.sequence
            self._metrics.set(layout.SEEN_SEQUENCE, split.sequence)
            self._metrics.set(layout.OVERLAY_ROWS, split.champion.live.segment.count)

    def _call_soon(self, function: Callable[[], None]) -> None:
        self._event_loop.call_soon(function)

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Report NOT_SERVING, take no new request, finish running requests, and return.

        Args:
            grace_seconds: requests that take longer than this are cancelled.
        """
        self._event_loop.call_soon(self._health.shut_down)
        if self._catalogue is not None:
            self._event_loop.call_soon(self._catalogue.shut_down)
        self._event_loop.stop(grace_seconds)
        if self._log is not None:
            self._log.send()
        if self._users is not None:
            self._users.stop()
        self._servicer.stop()
        self._monitor.stop()
        self._trimmer.stop()

    def __enter__(self) -> "RetrievalServer":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


class _Health:
    """grpcio's health service, adapted to the event loop.

    Args:
        services: names of the services whose health is reported; "" is the server.
        watches: calls of `Watch` that one connection may have open.
    """

    def __init__(self, services: tuple[str, ...], watches: int) -> None:
        self.services = services
        self._inner: Any = health.HealthServicer()
        self._watchers: set[Callable[[Any], None]] = set()
        self._open = OpenCalls("Watch", watches)
        self.Check = self._inner.Check
        self.set_all(NOT_SERVING)

    def List(self, request: health_pb2.HealthListRequest, call: Call) -> health_pb2.HealthListResponse:
        """The health of each service."""
        check: Any = self.Check
        one = {name: check(health_pb2.HealthCheckRequest(service=name), call) for name in self.services}
        return health_pb2.HealthListResponse(statuses=one)

    def Watch(self, request: health_pb2.HealthCheckRequest, call: Call, push: Callable[[Any], None]) -> None:
        """The health of one service, whenever it changes.

        Raises:
            Overloaded: the connection has as many of these calls open as it may have.
        """
        self._open.enter(call)
        self._watchers.add(push)
        call.add_callback(lambda: self._watchers.discard(push))
        if request.service in self.services:
            self._inner.Watch(request, call, push)
        else:  # grpcio would keep the name forever
            unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            push(health_pb2.HealthCheckResponse(status=unknown))

    def set_all(self, status: Any) -> None:
        """Set the health of every service, and of the server."""
        for service in self.services:
            self._inner.set(service, status)

    def shut_down(self) -> None:
        """Report NOT_SERVING from now on, and end all calls of `Watch`: they would delay the shutdown."""
        self._inner.enter_graceful_shutdown()
        for push in list(self._watchers):
            push(None)


class _Reflection:
    """grpcio's reflection service, called for one request at a time."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._inner: Any = reflection.ReflectionServicer(names)

    def ServerReflectionInfo(self, request: reflection_pb2.ServerReflectionRequest, call: Call) -> Any:
        """Descriptors of the services that a request asks for."""
        answers: Iterator[Any] = self._inner.ServerReflectionInfo(iter([request]), call)
        return next(answers)


def methods(service: ServiceDescriptor, servicer: Any, always: bool = False) -> dict[str, Method]:
    """The methods of a service by path.

    Args:
        service: of a .proto file.
        servicer: has a method of each name. If a method takes a stream, its requests are passed one by one;
            if only the answer is a stream, the last argument is a function that sends an answer.
        always: the methods are answered even if there is no room.
    """
    found = [_method(each, getattr(servicer, each.name), always) for each in service.methods]
    return {each.path: each for each in found}


def _method(method: MethodDescriptor, behaviour: Callable[..., Any], always: bool) -> Method:
    if method.client_streaming != method.server_streaming:
        call_type: type[Call] = WatchCall
    else:
        call_type = StreamCall if method.client_streaming else UnaryCall
    path = f"/{method.containing_service.full_name}/{method.name}"
    parse = GetMessageClass(method.input_type).FromString
    return Method(path, method.name, parse, behaviour, call_type, always)
