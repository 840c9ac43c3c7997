"""gRPC's C core: this file alone uses `grpc._cython.cygrpc`, of which grpcio's own servers are made.

It is not a public interface, so pyproject.toml bounds the version of grpcio.

The core reports each finished operation as an event with the attributes `completion_type` and `tag`. The tag
is the function that receives the event, or `SHUTDOWN`. No method here blocks, except `GrpcFront.poll`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from twinspire.protos.errors import Unavailable
from twinspire.serving.engine.front import SHUTDOWN, Finished, Front, FrontCall, Metadata, Trailers
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.wire.converters import RequestLimits

NO_FLAGS = 0
KEEPALIVE_TIMEOUT_SECONDS = 20  # for the answer to a ping, and for a client to read what is sent
READ_CHUNK_BYTES = 16 << 10
RECEIVE_BUFFER_BYTES = 256 << 10
UNBOUNDED = 2**31 - 1
# Of calls that the event loop has not read. Beyond 1,000, gRPC would end some with CANCELLED, which clients
# do not repeat; the event loop refuses calls and says when to retry.
PENDING = (
    ("grpc.server.max_pending_requests", UNBOUNDED),
    ("grpc.server.max_pending_requests_hard_limit", UNBOUNDED),
)
MORE_FOLLOWS = cygrpc.WriteFlag.buffer_hint


def server_options(limits: RequestLimits, bounds: WorkerLimits, share_port: bool) -> list[tuple[str, int]]:
    """The server's channel arguments for gRPC."""
    return [
        ("grpc.so_reuseport", int(share_port)),  # otherwise a port in use must be an error
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
        # gRPC reads a connection until nothing is left, of which Linux would buffer up to 6 MiB.
        ("grpc.tcp_receive_buffer_size", RECEIVE_BUFFER_BYTES),
        # Rejecting a ping takes gRPC 15 us, answering it 0.5 us. gRPC stops reading from a client that does
        # not read, and `connection_monitor.py` closes a connection that sends pings without end.
        ("grpc.http2.max_ping_strikes", 0),
    ]


class GrpcFront(Front):
    """A server of the C core and its completion queue.

    Args:
        options: of the C core.
    """

    timeout = cygrpc.CompletionType.queue_timeout

    def __init__(self, options: Sequence[tuple[str, int]]) -> None:
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server((*options, *PENDING), False)
        self._server.register_completion_queue(self._queue)
        self.poll: Callable[[float], Any] = self._queue.poll
        self.pending_ops = 0

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Listen at `host:port`; returns the port, which the system chooses if it is 0.

        Raises:
            Unavailable: the address cannot be used, most likely because another process listens there.
        """
        secure = () if credentials is None else (vars(credentials)["_credentials"],)
        try:
            port = int(self._server.add_http2_port(address.encode(), *secure))
        except RuntimeError:
            port = 0
        if port == 0:
            raise Unavailable(f"{address}: cannot listen there; is the port in use?")
        return port

    def start(self) -> None:
        """Accept connections from now on."""
        self._server.start()

    def await_call(self, arrived: Finished) -> None:
        """Report the next call to `arrived`, once; `call` reads the event."""
        try:
            self._server.request_call(self._queue, self._queue, arrived)
        except ValueError:  # another thread has begun to shut the server down
            return
        self.pending_ops += 1

    def call(self, event: Any) -> "GrpcCall | None":
        """The call of an event of `await_call`; None if the front is being shut down."""
        return GrpcCall(self, event) if event.success else None

    def shut_down(self) -> None:
        """Accept no new call; the event with the tag `SHUTDOWN` follows when all calls have ended."""
        self._server.shutdown(self._queue, SHUTDOWN)

    def cancel_all_calls(self) -> None:
        """Cancel the calls that are open."""
        self._server.cancel_all_calls()

    def destroy(self) -> None:
        """Free the server, after `shut_down` has returned and the last event has been polled."""
        self._server.destroy()


class GrpcCall(FrontCall):
    """One call of a client.

    Args:
        front: that accepted it.
        event: that `GrpcFront.await_call` reported.
    """

    __slots__ = ("_call", "_front", "deadline", "metadata", "path")

    def __init__(self, front: GrpcFront, event: Any) -> None:
        details = event.call_details
        self._front, self._call = front, event.call
        self.path: str = details.method.decode("utf-8", "replace")
        self.metadata: Metadata = event.invocation_metadata
        self.deadline: float = details.deadline

    @property
    def connection(self) -> bytes:
        """The client's address as gRPC writes it; it identifies the connection."""
        peer: bytes = self._call.peer()
        return peer

    def auth_context(self) -> dict[str, Sequence[bytes]]:
        """The properties of the client's certificate; empty without one."""
        found = cygrpc.auth_context(self._call) or {}
        return {key.decode(): value for key, value in found.items()}

    def cancel(self, reason: str) -> None:
        """End the call with RESOURCE_EXHAUSTED, whatever has been sent."""
        self._call.cancel(cygrpc.StatusCode.resource_exhausted, reason)

    def await_close(self, closed: Finished) -> None:
        """Report the end of the call to `closed`; `was_cancelled` reads the event."""
        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(NO_FLAGS),), closed)
        self._front.pending_ops += 1

    def await_message(self, received: Finished) -> None:
        """Report the next message to `received`; `message` reads the event."""
        self._call.start_server_batch((cygrpc.ReceiveMessageOperation(NO_FLAGS),), received)
        self._front.pending_ops += 1

    def message(self, event: Any) -> bytes | None:
        """The message of an event of `await_message`; None if the client sends no more."""
        message: bytes | None = event.batch_operations[0].message()
        return message

    def was_cancelled(self, event: Any) -> bool:
        """Whether the call of an event of `await_close` was cancelled by client or deadline."""
        return bool(event.batch_operations[0].cancelled())

    def send(self, message: bytes, is_first: bool, more_follow: bool, sent: Finished) -> None:
        """Send a message of a stream; `more_follow` lets gRPC wait for the next one before it writes."""
        operation = cygrpc.SendMessageOperation(message, MORE_FOLLOWS if more_follow else NO_FLAGS)
        head = (cygrpc.SendInitialMetadataOperation(None, NO_FLAGS),) if is_first else ()
        self._call.start_server_batch((*head, operation), sent)
        self._front.pending_ops += 1

    def send_status(
        self,
        code: int,
        details: bytes,
        trailers: Trailers,
        is_first: bool,
        message: bytes | None,
        finished: Finished,
    ) -> None:
        """End the call."""
        operations = [cygrpc.SendStatusFromServerOperation(trailers, code, details, NO_FLAGS)]
        if is_first:
            operations.append(cygrpc.SendInitialMetadataOperation(None, NO_FLAGS))
        if message is not None:
            operations.append(cygrpc.SendMessageOperation(message, NO_FLAGS))
        self._call.start_server_batch(operations, finished)
        self._front.pending_ops += 1

    def reject(self, code: int, details: bytes, trailers: Trailers = ()) -> None:
        """End the call before its message is read."""
        operations = (
            cygrpc.SendInitialMetadataOperation(None, NO_FLAGS),
            cygrpc.ReceiveCloseOnServerOperation(NO_FLAGS),
            cygrpc.SendStatusFromServerOperation(trailers, code, details, NO_FLAGS),
        )
        self._call.start_server_batch(operations, _ignore)
        self._front.pending_ops += 1


def _ignore(event: Any) -> None:
    """A rejected call is over."""
