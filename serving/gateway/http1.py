"""HTTP/1.1 of one connection: uvicorn's protocol on llhttp, with bounds on what a client can make it do.

Uvicorn's protocol on h11 takes 8 us for each chunk of a body, and this one .2 us. llhttp, which httptools
wraps, has no bound on a head, and uvicorn adds none; both are here, with the rules of RFC 9112 that neither
of them holds (one `Host`, `Transfer-Encoding` is `chunked` alone, no trailers among the headers).
"""

import asyncio
import socket
import time
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from twinspire.serving.fair_queue import Clients, FairQueue
from twinspire.serving.gateway.connections import CoalescingTransport, OpenConnections
from twinspire.serving.gateway.failures import HEAD_TOO_LARGE, HttpFailure, invalid
from twinspire.serving.gateway.fairness import Refusals, cached_client_of

HEAD_SECONDS = 10.0  # for the head of a request
REST_SECONDS = 10.0  # for the rest of a body that has been answered before it had arrived
HEAD_BYTES = 16 << 10  # of a request: its target and all its headers
READ_BYTES = 32 << 10  # that are read from a connection in one go
PARSED_BYTES = 4 << 10  # that are parsed in one go, so that few requests of a pipeline exist at once
LIGHT_BYTES = 2 << 10  # of a body in one go, for which a connection does not wait for its turn
# Bytes on the wire, and pieces, that are allowed in every body; and bytes more for each byte of content, and
# bytes of content for each further piece: framing <= 64 KiB + 8 x content, pieces <= 4,096 + content / 16. A
# one-byte chunk takes 6 bytes.
FREE_FRAMING_BYTES, FRAMING_BYTES = 64 << 10, 8
FREE_CHUNKS, CHUNK_BYTES = 4096, 16
TCP_CLOSE_WAIT = 8  # the first byte of Linux's `struct tcp_info`, after the peer has sent its last byte
FRAMING = (b"content-length", b"transfer-encoding")
VERSIONS = ("1.0", "1.1")


class ReadTurns:
    """Lets connections read on that are in the middle of a body: one in each pass of the event loop.

    So a pass takes milliseconds, however many connections send, and the next connection is of the client for
    whose bodies the least time has been spent.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._clients = Clients()
        self._queue: FairQueue[HttpConnection] = FairQueue(self._clients)
        self._is_due = False

    def wait(self, connection: "HttpConnection", seconds: float) -> None:
        """Let a connection read on when it is its turn.

        Args:
            connection: that has stopped reading.
            seconds: that its last part has taken.
        """
        client = self._clients.named(connection.client_host)
        self._queue.add(client, connection)
        self._clients.charge(client, seconds)
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._grant)

    def _grant(self) -> None:
        self._is_due = False
        while self._queue:
            if self._queue.take().take_turn():
                break
        if self._queue:
            self._is_due = True
            self._loop.call_soon(self._grant)


class GatewayState:
    """What the connections of one gateway share.

    Args:
        connections: that are open.
    """

    def __init__(
        self, connections: OpenConnections, refusals: Refusals, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.connections, self.refusals = connections, refusals
        self.turns = ReadTurns(loop)
        self.buffer = memoryview(bytearray(READ_BYTES))  # used up before another connection reads


class Flow(FlowControl):
    """Reading is paused while uvicorn wants that, as a body is not taken, and while the connection is held.

    Attributes:
        is_held: whether it waits for its turn, or for the answers to requests that it has sent before.
    """

    is_held = _is_full = False

    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`."""
        self._is_full = True
        super().pause_reading()

    def resume_reading(self) -> None:
        """Read on, unless the connection is held."""
        self._is_full = False
        if not self.is_held:
            super().resume_reading()

    def hold(self) -> None:
        """Read nothing until `release`."""
        self.is_held = True
        super().pause_reading()

    def release(self) -> None:
        """Read on, unless uvicorn wants to pause."""
        self.is_held = False
        if not self._is_full:
            super().resume_reading()


class HttpConnection(HttpToolsProtocol, asyncio.BufferedProtocol):
    """Uvicorn's connection, with bounds on how long a client may occupy it.

    It is closed where the head of a request does not arrive in time, and aborted where an answer is not read,
    or where others need its room.

    Args:
        shared: by all connections of the gateway.
        given: arguments of uvicorn's connection.

    Attributes:
        client_host: the client's address as it is limited.
    """

    flow: Flow
    client_host = ""
    _head_timer: asyncio.TimerHandle | None = None
    _rest_timer: asyncio.TimerHandle | None = None

    def __init__(self, shared: GatewayState, **given: Any) -> None:
        super().__init__(**given)
        self._shared = shared
        self._rest = b""  # was received, and waits until requests before it have been answered
        self._failure: HttpFailure | None = None  # why the parser was stopped by this class
        self._is_in_head = self._is_in_body = False
        self._size = 0  # bytes on the wire of the head so far, or of the body
        self._head = 0  # bytes of the target and the headers that have been read
        self._content = self._parts = 0  # bytes of the body, and how many pieces they came in
        self._framing = b""  # the header that says how long the body is
        self._is_repeated = False  # whether the head that is parsed is one of `_repeat_head`
        self._is_waiting = False  # for its turn

    @property
    def is_sending(self) -> bool:
        """Whether something waits to be sent."""
        return self.transport.get_write_buffer_size() > 0

    # Asyncio's protocol.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the head of the first request, or refuse the connection."""
        coalescing = CoalescingTransport(transport, self.loop, self._shared.connections.closed)
        super().connection_made(coalescing)  # type: ignore[arg-type]
        self.flow = Flow(self.transport)
        self.client_host = cached_client_of(self.client[0]) if self.client else ""
        if self._shared.connections.add(self):
            self._watch_head()
        else:
            transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where asyncio writes what the client sends."""
        return self._shared.buffer

    def buffer_updated(self, count: int) -> None:
        """Parse what was received, and bound the time until a head is complete."""
        self._unset_keepalive_if_required()
        begun = time.perf_counter()
        self._parse(self._shared.buffer[:count])
        if self._is_in_body and count > LIGHT_BYTES and not self.transport.is_closing():
            self.flow.hold()
            self._is_waiting = True
            self._shared.turns.wait(self, time.perf_counter() - begun)

    def on_response_complete(self) -> None:
        """Answer the next request that has arrived already, or wait for it."""
        if self._is_in_body and not self.pipeline and self._rest_timer is None:
            self._rest_timer = self.loop.call_later(REST_SECONDS, self.transport.close)
        super().on_response_complete()  # a request that was waiting may have begun
        if self.pipeline:
            return
        if not (self._is_waiting or self.transport.is_closing()):
            self.flow.release()
        rest, self._rest = self._rest, b""
        if rest:
            self._unset_keepalive_if_required()
        self._parse(memoryview(rest))

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers, and make room for another connection."""
        self._shared.connections.discard(self)
        self._rest = b""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn does so only without a reset
        self.transport.stop()  # type: ignore[attr-defined]
        for each in (self._head_timer, self._rest_timer):
            if each is not None:
                each.cancel()

    def take_turn(self) -> bool:
        """Read on, if the connection is still there."""
        self._is_waiting = False
        if self.transport.is_closing():
            return False
        if self._has_left():
            self.transport.abort()
            return False
        if self._rest:
            return False  # `on_response_complete` reads on
        self.flow.release()
        return True

    # Llhttp's callbacks.

    def on_message_begin(self) -> None:
        """A head begins."""
        if not self._is_repeated:
            super().on_message_begin()
            self._is_in_head = True
            self._size = self._head = 0
            self._framing = b""

    def on_url(self, url: bytes) -> None:
        """A part of the target has been read."""
        if self._is_in_head:
            self._add_to_head(len(url))
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has been read, or a trailer, which is left out: it is not part of the head."""
        if self._is_in_head:
            self._add_to_head(len(name) + len(value) + 4)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head is complete; the request begins."""
        if self._is_repeated:
            return
        self._check_head()
        super().on_headers_complete()  # may raise: then the head was no request, and `_refuse` answers it
        self._is_in_head, self._is_in_body = False, True
        self._size = self._content = self._parts = 0

    def on_body(self, body: bytes) -> None:
        """A part of the body has been read."""
        self._content += len(body)
        self._parts += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is complete; or llhttp leaves it out, because the client offers another protocol."""
        if self._framing and self.parser.should_upgrade():
            return
        self._is_in_body = False
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None
        super().on_message_complete()

    # The rest is of this class alone.

    @property
    def _has_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _parse(self, data: memoryview) -> None:
        """Parse until the end, or until there is a request that has to wait for the answer to another."""
        position = 0
        while position < len(data) and not self.pipeline and not self.transport.is_closing():
            position += self._feed(data[position : position + PARSED_BYTES])
        if self.pipeline:
            self._rest = bytes(data[position:])
            self.flow.hold()
        self._shared.connections.mark(self, is_idle=not self._has_request)
        if not self._has_request and self.cycle is not None and self.timeout_keep_alive_task is None:
            self._keep_alive()
        self._watch_head()

    def _feed(self, data: memoryview) -> int:
        """Parse a part; returns how many bytes that were."""
        taken = len(data)
        if self._is_in_head or self._is_in_body:
            self._size += taken
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            taken = upgrade.args[0]
            if self._is_in_body:
                self._repeat_head()
        except httptools.HttpParserError as error:
            self._refuse(self._failure or invalid(f"the request is no HTTP/1.1: {error}"))
            return taken
        if self._is_in_head and self._size > HEAD_BYTES:
            self._refuse(_large_head())
        framing = FREE_FRAMING_BYTES + FRAMING_BYTES * self._content
        if self._is_in_body and (
            self._size > framing or self._parts > FREE_CHUNKS + self._content // CHUNK_BYTES
        ):
            self._refuse(invalid("body: expected larger chunks, without extensions and trailers"))
        return taken

    def _repeat_head(self) -> None:
        """Let llhttp read the body of a request that offers another protocol, such as Java's clients send."""
        self._is_repeated = True
        self.parser = httptools.HttpRequestParser(self)  # the one before may skip all data after a close
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n\r\n" % self._framing)
        self._is_repeated = False

    def _add_to_head(self, size: int) -> None:
        self._head += size
        if self._head > HEAD_BYTES:
            self._failure = _large_head()
            raise ValueError("the head is too large")

    def _check_head(self) -> None:
        """Refuse what llhttp takes and this server does not.

        Raises:
            ValueError: the head is such a one; the parser stops.
        """
        version = self.parser.get_http_version()
        hosts = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding" and (
                value.strip(b" \t").lower() != b"chunked" or version != "1.1"
            ):
                self._stop("Transfer-Encoding: expected chunked, in HTTP/1.1")
            if name in FRAMING:
                self._framing = b"%s: %s" % (name, value)
        if version not in VERSIONS or self.parser.get_method() == b"CONNECT":
            self._stop("expected HTTP/1.1, and another method than CONNECT")
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            self._stop(f"Host: expected one, got {hosts}")

    def _stop(self, message: str) -> None:
        self._failure = invalid(message)
        raise ValueError(message)

    def _refuse(self, failure: HttpFailure) -> None:
        """Answer what is no request, and close; requests before it that are in progress get no answer."""
        self._shared.refusals.charge(self.client_host, self._size)
        is_own = not self.cycle.response_started if self._is_in_body else not self._has_request
        if is_own and not self.pipeline:
            body = failure.body
            head = [STATUS_LINE[failure.http]]
            for name, value in self.server_state.default_headers:
                head += [name, b": ", value, b"\r\n"]
            head.append(b"content-type: application/json\r\nconnection: close\r\n")
            self.transport.write(b"".join([*head, b"content-length: %d\r\n\r\n" % len(body), body]))
            if self._is_in_body:
                self.cycle.disconnected = True  # so that the application waits no more, and sends nothing
                self.cycle.message_event.set()
        self.transport.close()

    def _has_left(self) -> bool:
        """Whether the client has sent its last byte, so that it is not answered anyway."""
        connection = self.transport.get_extra_info("socket")
        try:
            state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        except (OSError, AttributeError):  # not on this system
            return False
        return bool(state[0] == TCP_CLOSE_WAIT)

    def _keep_alive(self) -> None:
        """Close the connection some time after the last data, which has begun no request.

        It was the rest of a body that had been answered before it had arrived, or a part of a head. Uvicorn
        cancels its timer for all data, and starts it again only after an answer.
        """
        if not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _head_is_late(self) -> None:
        self._shared.connections.closed.labels("head").inc()
        self.transport.abort()

    def _watch_head(self) -> None:
        """Bound the time of a head: the first of the connection, or one that has arrived in part."""
        is_expected = not self._has_request and (self.cycle is None or self._is_in_head)
        if is_expected and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)
        elif not is_expected and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _large_head() -> HttpFailure:
    return invalid(f"the request's head: expected at most {HEAD_BYTES} bytes", HEAD_TOO_LARGE)
