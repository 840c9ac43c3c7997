"""The process of a gateway: it listens, answers, and finishes what it has begun before it ends."""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from protos.errors import Unavailable
from serving.address import join
from serving.gateway.app import application
from serving.gateway.gateway import Gateway
from serving.gateway.options import GatewayOptions
from serving.gateway.pages import HEADERS

log = logging.getLogger(__name__)

IMPATIENT_SECONDS = 1.0  # a second signal that comes sooner is the same one, sent to the whole process group
KEEP_ALIVE_SECONDS = 75  # longer than the 60 s that proxies usually keep a connection
HEAD_BYTES = 16 << 10  # of a request, all its headers
BACKLOG = 2048


@dataclass(frozen=True)
class Listening:
    """Where a gateway listens."""

    url: str
    host: str
    port: int


class Server(uvicorn.Server):
    """Uvicorn's server, which ends by itself instead of by the signal that stopped it.

    Args:
        config: of uvicorn.
        gateway: that it serves.
        ready: called when requests are answered.
    """

    def __init__(self, config: uvicorn.Config, gateway: Gateway, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._gateway, self._ready = gateway, ready
        self._first = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer requests from now on."""
        await super().startup(sockets)
        self._ready()

    def stop(self) -> None:
        """Take no new requests, and finish those in progress; a second time, at once."""
        now = time.monotonic()
        if not self.should_exit:
            log.info("stopping: %d connections are open", len(self.server_state.connections))
            self._first, self.should_exit = now, True
            self._gateway.stop()
        elif now - self._first >= IMPATIENT_SECONDS:
            log.warning("stopping at once: a second signal")
            self.force_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for each in signals:
            loop.add_signal_handler(each, self.stop)
        try:
            yield
        finally:
            for each in signals:
                loop.remove_signal_handler(each)


def serve(options: GatewayOptions, ready: Callable[[Listening], None]) -> None:
    """Answer until SIGTERM or SIGINT.

    Args:
        options: of the gateway.
        ready: called as soon as requests are answered.

    Raises:
        DataError: a certificate or a key cannot be used.
        Unavailable: the address cannot be listened on.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it warns of each request that is no HTTP
    tls = options.tls()
    app, gateway = application(options)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        loop="asyncio",
        lifespan="on",
        proxy_headers=False,
        headers=list(HEADERS),
        limit_concurrency=options.bounds.http_connections,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(options.grace)),
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    config.load()
    config.ssl = tls
    with _listen(options) as listener:
        port = int(listener.getsockname()[1])
        scheme = "http" if tls is None else "https"
        listening = Listening(f"{scheme}://{join(options.host, port)}", options.host, port)
        server = Server(config, gateway, lambda: ready(listening))
        asyncio.run(server.serve([listener]))


def _listen(options: GatewayOptions) -> socket.socket:
    try:
        found: list[Any] = socket.getaddrinfo(
            options.host, options.port, 0, socket.SOCK_STREAM, socket.IPPROTO_TCP, socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        # asyncio turns Nagle's algorithm off for sockets that name TCP as their protocol alone.
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise Unavailable(
            f"{join(options.host, options.port)}: cannot be listened on: {error.strerror}"
        ) from None
    return listener
