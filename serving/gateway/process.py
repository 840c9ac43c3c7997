"""The process of a gateway: it listens, answers, and finishes the requests in progress before it ends.

`Listener` accepts the connections, and closes those of a client that has too many.
"""

import asyncio
import contextlib
import contextvars
import logging
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc.aio
import uvicorn
from prometheus_client import Counter

from twinspire.protos.errors import Unavailable
from twinspire.serving import heap
from twinspire.serving.address import is_loopback, join, listen_error
from twinspire.serving.client import protocol
from twinspire.serving.descriptors import fitting
from twinspire.serving.gateway.app import application
from twinspire.serving.gateway.fairness import SWITCH_SECONDS, FairShare, cached_client_of
from twinspire.serving.gateway.gateway import Gateway
from twinspire.serving.gateway.http1 import READ_BYTES, HttpConnection
from twinspire.serving.gateway.options import GatewayOptions
from twinspire.serving.gateway.pages import COMMON_HEADERS
from twinspire.serving.rate_limit import RateLimit

log = logging.getLogger(__name__)

SIGNAL_DEBOUNCE_SECONDS = 1.0  # a second signal within it is the same one, sent to a whole process group
DRAIN_SECONDS = 0.3  # after the signal, for requests that clients have sent already
KEEP_ALIVE_SECONDS = 75  # longer than the 60 s that proxies usually keep a connection
BACKLOG = 2048
CLOSED = 256  # connections over a bound that one call of `accept` closes
SAVED_SECONDS = 2.0  # a client may save up this many seconds of its rate
OTHER_DESCRIPTORS = 64  # of connections to services, and of the process itself


class AcceptedConnection(socket.socket):
    """An accepted connection, which counts as its client's until it is closed."""

    _share: FairShare | None = None

    def count(self, share: FairShare, client: str) -> None:
        """Hold one unit of a share until the connection is closed."""
        self._share, self._client = share, client
        share.take(client)

    def close(self) -> None:
        """Close the connection, which counts no more."""
        super().close()
        share, self._share = self._share, None
        if share is not None:
            share.give_back(self._client)


class Listener(socket.socket):
    """Closes a connection at once if its client has too many, or opens them too often.

    Connections are accepted in the order in which they came, so those of one client would delay all others.
    Those in a handshake of TLS count, too.
    """

    _open: FairShare

    def limit(self, connections: FairShare, per_second: float, closed: Counter) -> None:
        """Bound the connections of each client; to be called before `accept`.

        Args:
            connections: that are open.
            per_second: new connections of one client.
            closed: counts connections that the gateway closes, by reason.
        """
        self._open, self._counter = connections, closed
        self._rate = RateLimit(per_second, SAVED_SECONDS * per_second)

    def accept(self) -> tuple[socket.socket, Any]:
        """A connection that has arrived, and the address of its client.

        Raises:
            BlockingIOError: there is none, or many were closed, and others have their turn.
        """
        for _ in range(CLOSED):
            plain, address = super().accept()
            client = cached_client_of(address[0])
            if self._rate.wait(client) > 0:
                reason = "rate"
            elif not self._open.has_room(client):
                reason = "full"
            else:
                self._rate.charge(client, 1)
                connection = AcceptedConnection(plain.family, plain.type, plain.proto, plain.detach())
                connection.count(self._open, client)
                return connection, address
            self._counter.labels(reason).inc()
            plain.close()
        raise BlockingIOError


class GatewayServer(uvicorn.Server):
    """Uvicorn's server; after a signal `serve` returns, where uvicorn's own raises the signal again.

    Args:
        gateway: that it serves.
        ready: called when requests are answered.
    """

    def __init__(self, config: uvicorn.Config, gateway: Gateway, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.gateway, self._ready = gateway, ready
        self._stopped_at = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer requests from now on."""
        bounds, metrics = self.gateway.options.bounds, self.gateway.metrics
        others = OTHER_DESCRIPTORS + 2 * bounds.connections
        connections = FairShare(fitting(bounds.http_connections, others, "--http-connections"))
        metrics.show("connections", "Open HTTP connections.", lambda: connections.held)
        for each in sockets or ():
            if isinstance(each, Listener):
                each.limit(connections, bounds.connections_per_second, metrics.closed)
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish the requests in progress.

        Each answer that begins after the signal has the header that closes its connection. After
        `DRAIN_SECONDS`, connections without a request are closed.
        """
        await asyncio.sleep(DRAIN_SECONDS)
        await super().shutdown(sockets)

    def stop(self) -> None:
        """Take no new requests, and finish those in progress; a second time, at once."""
        now = time.monotonic()
        if not self.should_exit:
            log.info("stopping: %d connections are open", len(self.server_state.connections))
            self._stopped_at, self.should_exit = now, True
            self.gateway.stop()
        elif now - self._stopped_at >= SIGNAL_DEBOUNCE_SECONDS:
            log.warning("stopping at once: a second signal")
            self.force_exit = True

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop on SIGTERM and SIGINT, outside the request that the signal has interrupted."""
        asyncio.get_running_loop().call_soon_threadsafe(self.stop, context=contextvars.Context())


def serve(options: GatewayOptions, ready: Callable[[int], None]) -> None:
    """Answer until SIGTERM or SIGINT.

    Args:
        ready: called as soon as requests are answered, with the port.

    Raises:
        DataError: a certificate or a key cannot be used.
        Unavailable: the address cannot be listened on.
    """
    if options.security.certificate is not None and not is_loopback(options.host):
        log.warning(
            "%s: any client that reaches this address calls with the gateway's --certificate; give the "
            "service --tokens, too",
            options.host,
        )
    heap.use_one_arena()
    sys.setswitchinterval(SWITCH_SECONDS)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(options))
        server = make_server(options, lambda: ready(listener.getsockname()[1]))
        trimmer = heap.HeapTrimmer()
        trimmer.start()
        stack.callback(trimmer.stop)
        asyncio.run(server.serve([listener]))


def make_server(options: GatewayOptions, ready: Callable[[], None]) -> GatewayServer:
    """A server that has not been started; arguments and errors as of `serve`."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it warns of each request that is no HTTP
    tls = options.tls()
    # Created once here for their errors: in `Gateway.open`, uvicorn would end the process with its own text.
    options.security.credentials()
    for address in options.addresses:
        protocol.ClientConnection(grpc.aio, address, options.timeout, options.security, retries=False)
    app, gateway = application(options)
    config = uvicorn.Config(
        app,
        http=partial(HttpConnection, gateway, memoryview(bytearray(READ_BYTES))),  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        loop="asyncio",
        lifespan="on",
        proxy_headers=False,
        headers=list(COMMON_HEADERS),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        backlog=BACKLOG,
    )
    config.load()
    config.ssl = tls
    config.timeout_graceful_shutdown = options.grace  # type: ignore[assignment] # for asyncio.wait_for
    return GatewayServer(config, gateway, ready)


def listen(options: GatewayOptions) -> Listener:
    """A socket that listens.

    Raises:
        Unavailable: the address cannot be listened on.
    """
    try:
        address = options.host, options.port
        family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        both = family is socket.AF_INET6
        bound = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both)
        return Listener(fileno=bound.detach())
    except (OSError, UnicodeError) as error:
        place = join(options.host, options.port)
        raise Unavailable(f"{place}: cannot be listened on: {listen_error(error)}") from None
