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
from twinspire.serving.gateway.metrics import OTHER

HEAD_SECONDS = 10.0  # for the head of a request
STALL_SECONDS = 120.0  # in which a client has to read the unsent rest of an answer
HEAD_BYTES = 16 << 10  # of a head that has not arrived whole; of one that has, so much more as a read has
READ_BYTES = 16 << 10  # that are read from a connection in one go, so that connections take turns
FREE_CHUNKS, CHUNK_BYTES = 256, 16  # chunks in every body, and bytes of it for each further one
TOO_LONG = 431  # h11's status for a head, or a line between chunks, above `HEAD_BYTES`
REASON_LENGTH = 200  # of an answer's text; h11's own texts may quote a whole head


class HttpReader(h11.Connection):
    """Reads requests; refuses bodies in small chunks, and those whose length may be read in two ways.

    Attributes:
        reason: why the last request was refused.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, HEAD_BYTES)
        self.reason = ""
        self._chunks = self._content = 0  # of a body, and its bytes

    def next_event(self) -> Any:
        """The next event of the client.

        Raises:
            RemoteProtocolError: the client has sent no valid HTTP.
        """
        try:
            event = super().next_event()
            self._check(event)
        except h11.RemoteProtocolError as error:
            is_too_long = error.error_status_hint == TOO_LONG
            self.reason = f"a head or line has more than {HEAD_BYTES} bytes" if is_too_long else str(error)
            raise
        return event

    def _check(self, event: Any) -> None:
        if isinstance(event, h11.Request):
            self._chunks = self._content = 0
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names and (b"content-length" in names or event.http_version != b"1.1"):
                raise h11.RemoteProtocolError("expected either Content-Length, or chunks in HTTP/1.1")
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._content += len(event.data)
            if self._chunks > FREE_CHUNKS + self._content // CHUNK_BYTES:
                most = f"{FREE_CHUNKS} and one for each {CHUNK_BYTES} bytes of the body"
                raise h11.RemoteProtocolError(f"too many chunks: expected at most {most}")


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
        self.conn = self._reader = HttpReader()
        self._gateway, self._buffer = gateway, buffer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the head of the first request."""
        super().connection_made(transport)
        self._watch_head()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where asyncio writes what the client sends."""
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        """Parse what was received; over TLS more may arrive while the connection is closed."""
        if self.transport.is_closing():
            return
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
        self._watch_reader()

    def on_response_complete(self) -> None:
        """Bound the time for the client to read the answer, and to send the rest of what it has begun."""
        super().on_response_complete()
        self._watch_reader()
        self._watch_head()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, in the form of all errors, and close the connection."""
        self._gateway.refusals.charge(client_in({"client": self.client}), 0)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._gateway.metrics.answered(OTHER, 400, 0.0)
            body = invalid(f"the request cannot be read: {self._reader.reason[:REASON_LENGTH]}").body
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
        self._watch_reader()

    @property
    def _is_in_progress(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch_head(self) -> None:
        """Bound the time for the first head, for the rest of one, and of a body that was answered early."""
        if self.transport.is_closing():
            return
        is_whole = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        if not self._is_in_progress and (self.cycle is None or not is_whole):
            self._head_timer = self._head_timer or self.loop.call_later(HEAD_SECONDS, self._end, "head")
            return
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if not self._is_in_progress and self.timeout_keep_alive_task is None:  # data came after the answer
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _watch_reader(self) -> None:
        """Bound the time in which the client has to read the unsent rest of an answer."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        if self.transport.get_write_buffer_size():
            self._stall_timer = self.loop.call_later(STALL_SECONDS, self._end_stalled)

    def _end_stalled(self) -> None:
        # The client has read on in an answer that is still being sent: the unsent bytes are newer ones.
        goes_on = self._is_in_progress and not self.flow.write_paused and not self.transport.is_closing()
        if self.transport.get_write_buffer_size() and not goes_on:
            self._end("stall")

    def _end(self, reason: str) -> None:
        self._gateway.metrics.closed.labels(reason).inc()
        self.transport.abort()
