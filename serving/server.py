"""The gRPC server around a retriever: `python -m serving serve --port 50051`.

Beside `retrieval.v1.Retrieval` it answers the Open Inference Protocol, `grpc.health.v1.Health` and server
reflection, so that `grpcurl -plaintext 127.0.0.1:50051 list` works without files.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from protos.errors import Overloaded
from serving import inference
from serving.address import join
from serving.batching import Batcher
from serving.connection_monitor import ConnectionMonitor
from serving.guard import Guard
from serving.heap import HeapTrimmer
from serving.inference import Encode, InferenceServicer
from serving.limits import Bounds, Limits
from serving.methods import methods
from serving.metrics import SharedMetrics
from serving.observer import Observer
from serving.overload import Overload
from serving.packed import PackedCatalogue
from serving.ratelimit import RateLimit
from serving.reactor import Reactor
from serving.requestlog import RequestLog
from serving.retriever import Retriever
from serving.rpc import Rpc
from serving.served import Lineup, Served
from serving.servicer import SERVICE, RetrievalServicer, Tap
from serving.tls import ServerTls, credentials
from serving.tokens import TokenFile
from serving.tracing import Tracing
from serving.watch import Reloaded

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
UNBOUNDED = 2**31 - 1
KEEPALIVE_TIMEOUT_SECONDS = 20  # for the answer to a ping, and for a client to read what is sent
READ_CHUNK_BYTES = 16 << 10
SERVICES = ("", SERVICE.full_name, inference.SERVICE.full_name)  # whose health is told; "" is all of it
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True)
class Access:
    """Who may ask, and how often.

    Args:
        tls: certificate and key to speak TLS with; without, nothing is encrypted.
        tokens: that the service knows; without, everybody may do everything.
        rate: that each client must keep to.
    """

    tls: ServerTls | None = None
    tokens: TokenFile | None = None
    rate: RateLimit | None = None

    @property
    def files(self) -> dict[str, Reloaded[Any]]:
        """The files that may be replaced while the service runs."""
        named: dict[str, Reloaded[Any] | None] = {"tokens": self.tokens, "tls": self.tls}
        return {name: file for name, file in named.items() if file is not None}

    def quiet(self) -> None:
        """Leave successful reads of the files out of this process's log."""
        for file in self.files.values():
            file.quiet = True

    def reload(self) -> None:
        """Read all files again."""
        for file in self.files.values():
            file.reload()

    def state(self) -> dict[str, Any]:
        """The fields of `ServiceState` that tell of this."""
        return {
            "tls": self.tls is not None,
            "client_certificates": self.tls is not None and self.tls.files.client_ca is not None,
            "tokens": self.tokens is not None,
            "rate_per_second": self.rate.per_second if self.rate is not None else 0.0,
        }


class RetrievalServer:
    """A server that listens as soon as it is made, and answers from `start` to `stop`.

    with RetrievalServer(retriever) as server:
        print(server.port)

    Args:
        retriever: that answers.
        limits: that requests must keep to.
        host: to listen on.
        port: to listen on; 0 lets the system choose, and `port` then says which.
        bounds: of what it takes on.
        access: who may ask; everybody if not given.
        packed: the retriever's catalogue, if it has been made already.
        item_tower: encodes items, where that is on offer.
        metrics: of all workers; those of this server alone if not given.
        slot: of this worker in them.
        log: of requests.
        tracing: of requests.
        share_port: other workers listen on the same port.
        release: adds to what `Info` tells of the bundles that are served.
        tap: gets a part of the answers.

    Raises:
        Unavailable: nobody can listen there, most likely because somebody does.
    """

    def __init__(
        self,
        retriever: Retriever,
        limits: Limits | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        bounds: Bounds | None = None,
        access: Access | None = None,
        packed: PackedCatalogue | None = None,
        item_tower: Encode | None = None,
        metrics: SharedMetrics | None = None,
        slot: int = 0,
        log: RequestLog | None = None,
        tracing: Tracing | None = None,
        share_port: bool = False,
        release: Callable[[], dict[str, Any]] = dict,
        tap: Tap | None = None,
    ) -> None:
        limits, bounds, access = limits or Limits(), bounds or Bounds(), access or Access()
        metrics = metrics or SharedMetrics.create(workers=1)
        self._access = access
        self._counters = counters = metrics.worker(slot)

        def state() -> dict[str, Any]:
            mine = {
                "worker_pid": os.getpid(),
                "queue_bound": bounds.queue,
                "unsent_bytes_bound": bounds.unsent_bytes,
                "connection_unsent_bytes_bound": bounds.connection_unsent_bytes,
            }
            return {**metrics.snapshot(), **access.state(), **mine, **release()}

        first = Served(retriever, packed or PackedCatalogue(retriever.catalogue), item_tower)
        self._servicer = servicer = RetrievalServicer(Lineup(first), limits, access.rate, state, tap)
        self._counters.shows([first.version])
        towers: dict[Any, Encode] = {"query": servicer.encode}
        if item_tower is not None:
            towers["item"] = servicer.encode_items
        self._health = _Health(bounds.watches)
        names = (*SERVICES[1:], HEALTH.full_name, REFLECTION.full_name)
        inferring = InferenceServicer(lambda: servicer.lineup.champion.manifest, towers, limits)
        served = {
            **methods(SERVICE, servicer),
            **methods(inference.SERVICE, inferring),
            **methods(HEALTH, self._health, always=True),
            **methods(REFLECTION, _Reflection(names), always=True),
        }
        self._reactor = Reactor(
            served,
            Batcher(counters, bounds.batch, Overload(bounds.queue)),
            Observer(counters, log, tracing),
            Guard(access.tokens),
            bounds,
            limits.max_in_flight,
            _options(limits, bounds, share_port),
        )
        self.host = host
        secured = None if access.tls is None else credentials(access.tls)
        self.port = self._reactor.listen(join(host, port), secured)
        self._monitor = ConnectionMonitor(
            self.port,
            bounds,
            limits.max_message_bytes,
            counters.heartbeat,
            self._reactor.last_calls,
            counters.closed_connection,
        )

        self._trimmer = HeapTrimmer()

    @property
    def address(self) -> str:
        """`host:port`, as a client takes it."""
        return join(self.host, self.port)

    def start(self) -> None:
        """Answer requests from now on."""
        self._health.set_all(SERVING)
        self._reactor.begin()
        self._monitor.start()
        self._trimmer.start()

    def swap(self, lineup: Lineup, swapped: Callable[[], None] = lambda: None) -> None:
        """Let others answer from now on; requests in flight finish with who began with them.

        Args:
            lineup: who answers; with item towers, where the server was made with one.
            swapped: called when it is done, on the reactor's thread.
        """

        def swap() -> None:
            self._counters.shows([each.version for each in lineup.all])
            self._servicer.lineup = lineup
            swapped()

        self._reactor.call_soon(swap)

    def reload(self) -> None:
        """Read the files of tokens and certificates again, soon and on the reactor's thread."""
        self._reactor.call_soon(self._access.reload)

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Say NOT_SERVING, take no new request, finish those in flight, and return.

        Args:
            grace_seconds: requests that take longer than this are broken off.
        """
        self._reactor.call_soon(self._health.shut_down)
        self._reactor.stop(grace_seconds)
        self._monitor.stop()
        self._trimmer.stop()

    def __enter__(self) -> "RetrievalServer":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


class _Health:
    """grpcio's own health service, as the reactor calls it.

    Args:
        watches: calls of `Watch` that one connection may have open.
    """

    def __init__(self, watches: int) -> None:
        self._inner: Any = health.HealthServicer()
        self._watchers: set[Callable[[Any], None]] = set()
        self._most = watches
        self._of_connection: Counter[str] = Counter()
        self.Check = self._inner.Check
        self.set_all(NOT_SERVING)

    def List(self, request: health_pb2.HealthListRequest, rpc: Rpc) -> health_pb2.HealthListResponse:
        """The health of each service."""
        check: Any = self.Check
        one = {name: check(health_pb2.HealthCheckRequest(service=name), rpc) for name in SERVICES}
        return health_pb2.HealthListResponse(statuses=one)

    def Watch(self, request: health_pb2.HealthCheckRequest, rpc: Rpc, push: Callable[[Any], None]) -> None:
        """The health of one service, whenever it changes.

        Raises:
            Overloaded: the connection has as many of these calls open as it may have.
        """
        connection = rpc.peer()
        if self._of_connection[connection] >= self._most:
            raise Overloaded(f"a connection may have {self._most} calls of Watch open", 1.0)
        self._of_connection[connection] += 1
        self._watchers.add(push)

        def ended() -> None:
            self._watchers.discard(push)
            self._of_connection[connection] -= 1
            if not self._of_connection[connection]:
                del self._of_connection[connection]

        rpc.add_callback(ended)
        if request.service in SERVICES:
            self._inner.Watch(request, rpc, push)
        else:  # whose name grpcio would keep for good
            unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            push(health_pb2.HealthCheckResponse(status=unknown))

    def set_all(self, status: Any) -> None:
        """The health of every service, and of all of it."""
        for service in SERVICES:
            self._inner.set(service, status)

    def shut_down(self) -> None:
        """Say NOT_SERVING from now on, and let those go who watch: they would hold a shutdown up."""
        self._inner.enter_graceful_shutdown()
        for push in list(self._watchers):
            push(None)


class _Reflection:
    """grpcio's own reflection service, one request at a time."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._inner: Any = reflection.ReflectionServicer(names)

    def ServerReflectionInfo(self, request: reflection_pb2.ServerReflectionRequest, rpc: Rpc) -> Any:
        """What the services look like."""
        answers: Iterator[Any] = self._inner.ServerReflectionInfo(iter([request]), rpc)
        return next(answers)


def _options(limits: Limits, bounds: Bounds, share_port: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", int(share_port)),  # a busy port is an error, not one that strangers share
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_allowed_incoming_connections", bounds.connections),
        ("grpc.max_concurrent_streams", bounds.calls),
        ("grpc.server_handshake_timeout_ms", 1000 * bounds.first_call_seconds),
        ("grpc.max_connection_idle_ms", 1000 * bounds.idle_seconds),
        ("grpc.max_connection_age_ms", 1000 * bounds.age_seconds),
        ("grpc.keepalive_time_ms", 1000 * bounds.keepalive_seconds),
        ("grpc.keepalive_timeout_ms", 1000 * KEEPALIVE_TIMEOUT_SECONDS),
        ("grpc.keepalive_permit_without_calls", 1),
        # gRPC parses all that one read returns before it does anything else, 4 MiB by default.
        ("grpc.experimental.tcp_max_read_chunk_size", READ_CHUNK_BYTES),
        # To complain of a ping costs gRPC 15 us, to answer it .5 us. gRPC stops reading from a client that
        # does not read, and `connection_monitor.py` closes a connection that pings without end.
        ("grpc.http2.max_ping_strikes", 0),
        # gRPC would answer CANCELLED to what it refuses by itself; the reactor says when to come back.
        ("grpc.server.max_pending_requests", UNBOUNDED),
        ("grpc.server.max_pending_requests_hard_limit", UNBOUNDED),
    ]
