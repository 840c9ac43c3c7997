"""The channel arguments of the service's front."""

from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.wire.converters import RequestLimits

KEEPALIVE_TIMEOUT_SECONDS = 20  # for the answer to a ping, and for a client to read what is sent
READ_CHUNK_BYTES = 16 << 10
RECEIVE_BUFFER_BYTES = 256 << 10


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
