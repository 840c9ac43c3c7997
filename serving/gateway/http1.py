"""HTTP/1.1 of one connection: uvicorn's own on h11, with what it lacks against slow and greedy clients.

h11 bounds the bytes of a head, refuses what RFC 9112 forbids, and reads the next request of a connection when
the one before has been answered. But uvicorn lets a connection wait for its first request without end, and
h11 takes 8 us for each chunk of a body.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from twinspire.serving.gateway.failures import invalid
from twinspire.serving.gateway.fairness import client_in
from twinspire.serving.gateway.gateway import Gateway

HEAD_SECONDS = 10.0  # for the head of a request
STALL_SECONDS = 120.0  # for a client to read an answer, but for the last part that waits to be sent
HEAD_BYTES = 16 << 10  # of a head that has not arrived whole; of one that has, so much more as a read has
READ_BYTES = 16 << 10  # that are read from a connection in one go, so that connections take turns
FREE_CHUNKS, CHUNK_BYTES = 256, 16  # chunks in every body, and bytes of it for each further one


class HttpReader(h11.Connection):
    """Reads requests; refuses bodies in small chunks, and those whose length may be read in two ways."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, HEAD_BYTES)
        self._chunks = self._content = 0  # of a body: pieces, and bytes

    def next_event(self) -> Any:
        """The next event of the client.

        Raises:
            RemoteProtocolError: the client has sent no valid HTTP.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._content = 0
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names and (b"content-length" in names or event.http_version != b"1.1"):
                raise h11.RemoteProtocolError("expected one length of the body")
        elif isinstance(event, h11.Data):
            self._chunks += 1
            self._content += len(event.data)
            if self._chunks > FREE_CHUNKS + self._content // CHUNK_BYTES:
                raise h11.RemoteProtocolError("expected larger chunks")
        return event


class HttpConnection(H11Protocol, asyncio.BufferedProtocol):
    """Uvicorn's connection, closed where a head does not arrive, or an answer is not read, in time.

    Args:
        gateway: that counts what is refused and closed.
        buffer: of `READ_BYTES`, which all connections of the gateway use, one after the other.
        given: arguments of uvicorn's connection.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def __init__(self, gateway: Gateway, buffer: memoryview, **given: Any) -> None:
        super().__init__(**given)
        self.conn = HttpReader()
        self._gateway, self._buffer = gateway, buffer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the head of the first request."""
        super().connection_made(transport)
        self._watch_head()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where asyncio writes what the client sends."""
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        """Parse what was received."""
        self.data_received(bytes(self._buffer[:count]))
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn does so only without a reset
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """Bound the time for the client to read, for it reads more slowly than the gateway writes."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self._end, "stall")

    def resume_writing(self) -> None:
        """The client has read nearly all."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, in the form of all errors, and close the connection."""
        self._gateway.refusals.charge(client_in({"client": self.client}), 0)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = invalid(f"the request is no HTTP/1.1, or its head has more than {HEAD_BYTES} bytes").body
            headers = [
                *self.server_state.default_headers,
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            ]
            response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:  # so that its request waits no more for a body, and sends nothing
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _watch_head(self) -> None:
        """Bound the time until a request begins: the first of the connection, or after other data."""
        is_in_progress = self.cycle is not None and not self.cycle.response_complete
        if self._head_timer is None and not is_in_progress:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._end, "head")
        elif self._head_timer is not None and is_in_progress:
            self._head_timer.cancel()
            self._head_timer = None

    def _end(self, reason: str) -> None:
        self._gateway.metrics.closed.labels(reason).inc()
        self.transport.abort()
