"""The gateway's HTTP connections: bounds on their number, and on the time of a client to send and to read."""

import asyncio
import fcntl
import struct
import termios
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # for the head of a request
STALL_SECONDS = 120.0  # without progress, after which a connection with unsent bytes is closed
STALL_CHECKS = 8  # of the progress, within `STALL_SECONDS`
CLOSE_CHECK_SECONDS = 0.2  # between checks whether all bytes have been sent


class CoalescingTransport:
    """A transport that joins successive writes, such as the head and the body of an answer.

    Uvicorn writes them one by one, and each would be a packet of its own and wake the client. The connection
    is aborted when bytes wait to be sent and the client has read none for `STALL_SECONDS`, also after
    `close`.

    Args:
        transport: The transport of the connection, which it wraps.
        loop: The event loop of the connection.
        closed: Counts connections that the gateway closes, by reason.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, closed: Counter[str]
    ) -> None:
        self._transport, self._loop, self._closed = transport, loop, closed
        self._parts: list[bytes] = []
        self._written = self._read = 0  # bytes
        self._read_at = 0.0
        self._stall_timer: asyncio.TimerHandle | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        # Methods of the wrapped transport that uvicorn calls, unchanged.
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading

    def write(self, data: bytes) -> None:
        """Send bytes, together with others that are written in the same pass of the event loop."""
        if not data:
            return
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Send what was written, and close."""
        self._flush()
        if self._close_timer is not None:
            return
        if self.get_extra_info("ssl_object") is None or not self._buffered():
            self._transport.close()
            return
        # After TLS is closed, asyncio aborts at a fixed timeout, even while the client still reads.
        self._transport.pause_reading()
        self._close_later()

    def is_closing(self) -> bool:
        """Whether the connection ends, or has ended."""
        return self._close_timer is not None or self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        """Bytes that wait to be sent."""
        return self._buffered() + sum(map(len, self._parts))

    def stop(self) -> None:
        """Cancel the timers; the connection has ended."""
        for each in (self._stall_timer, self._close_timer):
            if each is not None:
                each.cancel()

    def _close_later(self) -> None:
        self._close_timer = self._loop.call_later(CLOSE_CHECK_SECONDS, self._close_if_sent)

    def _close_if_sent(self) -> None:
        if self._buffered():
            self._close_later()
        else:
            self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            data, self._parts = b"".join(self._parts), []
            self._written += len(data)
            self._transport.write(data)
            if self._stall_timer is None and self._buffered():
                self._read, self._read_at = self._bytes_read(), self._loop.time()
                self._check_later()

    def _check_later(self) -> None:
        self._stall_timer = self._loop.call_later(STALL_SECONDS / STALL_CHECKS, self._check)

    def _check(self) -> None:
        self._stall_timer = None
        if not self._buffered():
            return
        read, now = self._bytes_read(), self._loop.time()
        if read > self._read:
            self._read, self._read_at = read, now
        elif now - self._read_at >= STALL_SECONDS:
            self._closed["stall"] += 1
            self._transport.abort()
            return
        self._check_later()

    def _bytes_read(self) -> int:
        """Of what was written, the bytes that the client's machine has confirmed; with TLS about as many."""
        return self._written - self._buffered() - self._in_kernel()

    def _buffered(self) -> int:
        """Bytes that wait in this process; asyncio's transport of TLS leaves out what it has encrypted."""
        found: int = self._transport.get_write_buffer_size()
        inner = getattr(getattr(self._transport, "_ssl_protocol", None), "_transport", None)
        return found if inner is None else found + inner.get_write_buffer_size()

    def _in_kernel(self) -> int:
        connection = self.get_extra_info("socket")
        descriptor = -1 if connection is None else connection.fileno()
        if descriptor < 0:  # the connection has ended
            return 0
        try:
            unread: int = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0]
        except OSError:  # a system may refuse it; then progress is what leaves this process
            return 0
        return unread


class OpenConnections:
    """The connections that are open; a new one takes the room of an idle one when there are too many.

    Args:
        limit: The number of connections that may be open at once.
        closed: Counts connections that the gateway closes, by reason.
    """

    def __init__(self, limit: int, closed: Counter[str]) -> None:
        self._limit, self.closed = limit, closed
        self._open: set[Protocol] = set()
        self._of_client: Counter[str] = Counter()
        self._idle: dict[Protocol, None] = {}  # the longest idle first

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: "Protocol") -> bool:
        """Add a connection without a request; returns whether there is room for it.

        Where there is none, an idle connection is closed: of the client that has most of them, the one that
        has been idle longest, and one whose last answer is still being sent only if there is no other.
        """
        if len(self._open) >= self._limit:
            if not self._idle:
                self.closed["full"] += 1
                return False
            evicted = min(
                self._idle, key=lambda each: (each.is_sending, -self._of_client[each.client_host])
            )  # the first of several
            self.discard(evicted)
            self.closed["evicted"] += 1
            evicted.transport.abort()
        self._open.add(connection)
        self._of_client[connection.client_host] += 1
        self._idle[connection] = None
        return True

    def discard(self, connection: "Protocol") -> None:
        """Remove a connection, if it is there."""
        if connection in self._open:
            self._open.discard(connection)
            self._idle.pop(connection, None)
            self._of_client[connection.client_host] -= 1
            if not self._of_client[connection.client_host]:
                del self._of_client[connection.client_host]

    def mark(self, connection: "Protocol", is_idle: bool) -> None:
        """Record whether a connection waits for its next request."""
        if not is_idle:
            self._idle.pop(connection, None)
        elif connection in self._open:
            self._idle.setdefault(connection)


class Protocol(H11Protocol):
    """Uvicorn's connection, with bounds on how long a client may occupy it.

    It is closed where the head of a request does not arrive in time, and aborted where an answer is not read,
    or where others need its room while it is idle.

    Args:
        open_connections: The open connections of the gateway, to which it adds itself.
        given: The arguments of uvicorn's connection.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def __init__(self, open_connections: OpenConnections, **given: Any) -> None:
        super().__init__(**given)
        self._open_connections = open_connections

    @property
    def client_host(self) -> str:
        """The address of the client, without its port."""
        return self.client[0] if self.client else ""

    @property
    def is_sending(self) -> bool:
        """Whether something waits to be sent."""
        return self.transport.get_write_buffer_size() > 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the head of the first request, or refuse the connection."""
        coalescing = CoalescingTransport(transport, self.loop, self._open_connections.closed)
        super().connection_made(coalescing)  # type: ignore[arg-type]
        if self._open_connections.add(self):
            self._watch_head()
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read, and bound the time until a head is complete."""
        super().data_received(data)
        if self._has_request:
            self._open_connections.mark(self, is_idle=False)
        elif self.cycle is not None and self.timeout_keep_alive_task is None:
            self._keep_alive()
        self._watch_head()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()  # a request that was waiting may have begun
        self._open_connections.mark(self, is_idle=not self._has_request)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers, and make room for another connection."""
        self._open_connections.discard(self)
        super().connection_lost(exc)
        self.transport.stop()  # type: ignore[attr-defined]
        if self._head_timer is not None:
            self._head_timer.cancel()

    @property
    def _has_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

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
        self._open_connections.closed["head"] += 1
        self.transport.abort()

    def _watch_head(self) -> None:
        """Bound the time of a head: the first of the connection, or one that has arrived in part."""
        is_expected = (
            not self._has_request
            and self.conn.their_state is h11.IDLE
            and (self.cycle is None or bool(self.conn.trailing_data[0]))
        )
        if is_expected and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)
        elif not is_expected and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
