"""Answers scrapes of Prometheus over HTTP, by the official client."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

from twinspire.protos.errors import Unavailable
from twinspire.serving.address import join, listen_error


@contextmanager
def serve_registry(registry: CollectorRegistry, host: str, port: int) -> Iterator[int]:
    """Answer scrapes on threads of their own until the block ends; yields the port.

    Args:
        registry: the metrics.
        port: to listen on; 0 lets the system choose.

    Raises:
        Unavailable: the address cannot be listened on, most likely because it is in use.
    """
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"{join(host, port)}: cannot serve metrics there: {listen_error(error)}") from None
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
