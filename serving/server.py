"""The gRPC server around a retriever: `python -m serving serve --port 50051`.

Beside the service itself it answers `grpc.health.v1.Health` and server reflection, so that
`grpcurl -plaintext 127.0.0.1:50051 list` works without files.
"""

import logging
import signal
import threading
from types import FrameType, TracebackType

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from protos import retrieval_pb2
from protos.errors import Unavailable
from serving.address import join
from serving.batching import Arrivals, BatchingCore
from serving.limits import Limits
from serving.methods import Methods
from serving.packed import PackedCatalogue
from serving.pool import HandlerPool
from serving.retriever import Retriever
from serving.servicer import RetrievalServicer

log = logging.getLogger(__name__)

SERVICE = retrieval_pb2.DESCRIPTOR.services_by_name["Retrieval"]


class RetrievalServer:
    """A server that listens as soon as it is made, and answers from `start` to `stop`.

    with RetrievalServer(retriever) as server:
        print(server.port)

    Args:
        retriever: that answers.
        limits: that requests must keep to.
        host: to listen on.
        port: to listen on; 0 lets the system choose, and `port` then says which.
        handlers: requests that are worked on at once.
        queue: requests that may wait for one of those to be done; one more is refused.
        streams: of them, calls of `SearchStream`.

    Raises:
        Unavailable: nobody can listen there, most likely because somebody does.
        ValueError: `streams` leaves no handler for other requests.
    """

    def __init__(
        self,
        retriever: Retriever,
        limits: Limits | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        handlers: int = 16,
        streams: int = 4,
        queue: int = 256,
    ) -> None:
        limits = limits or Limits()
        if not 1 <= streams < handlers:
            raise ValueError(f"streams: expected 1 to {handlers - 1}, got {streams}")
        arrivals = Arrivals()
        self._pool = HandlerPool(handlers, queue, arrivals)
        self._server = grpc.server(self._pool, options=_options(limits))
        self._health = health.HealthServicer()
        self._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        self.core = core = BatchingCore(retriever, arrivals)
        servicer = RetrievalServicer(core, PackedCatalogue(retriever.catalogue), limits, streams)
        self._server.add_generic_rpc_handlers((Methods(SERVICE, servicer, self._pool, lambda: None),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self.host = host
        self.port = self._listen(port)

    @property
    def address(self) -> str:
        """`host:port`, as a client takes it."""
        return join(self.host, self.port)

    def start(self) -> None:
        """Answer requests from now on."""
        self._server.start()
        for service in ("", SERVICE.full_name):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Say NOT_SERVING, take no new request, finish those in flight, and return.

        Args:
            grace_seconds: requests that take longer than this are broken off.
        """
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_seconds).wait()
        self._pool.shutdown(cancel_futures=True)

    def _listen(self, port: int) -> int:
        address = join(self.host, port)
        try:
            return self._server.add_insecure_port(address)
        except RuntimeError:
            raise Unavailable(f"{address}: cannot listen there; is the port in use?") from None

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


def stop_signal() -> threading.Event:
    """An event that SIGTERM or SIGINT sets; a second one ends the process in the ordinary way.

    Call it on the main thread, before the server starts, so that no signal is lost.
    """
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return stopped


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # a busy port is an error, not a port that two servers share
        ("grpc.max_receive_message_length", limits.max_message_bytes),
    ]
