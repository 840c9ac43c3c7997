"""The gateway's connections: bounds on their number, and on the time of a client to read."""

import asyncio
import fcntl
import struct
import termios
from typing import Any, Protocol

from prometheus_client import Counter

STALL_SECONDS = 120.0  # without progress, after which a connection with unsent bytes is closed
STALL_CHECKS = 8  # of the progress, within `STALL_SECONDS`


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
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, closed: Counter
    ) -> None:
        self._transport, self._loop, self._closed = transport, loop, closed
        self._parts: list[bytes] = []
        self._written = self._read = 0  # bytes
        self._read_at = 0.0
        self._stall_timer: asyncio.TimerHandle | None = None
        # Methods of the wrapped transport that uvicorn calls, unchanged.
        self.abort, self.is_closing = transport.abort, transport.is_closing
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
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        """Bytes that wait to be sent."""
        return self._buffered() + sum(map(len, self._parts))

    def stop(self) -> None:
        """Cancel the timer; the connection has ended."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()

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
            self._closed.labels("stall").inc()
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


class TrackedConnection(Protocol):
    """What `OpenConnections` has to know of a connection."""

    transport: Any

    @property
    def client_host(self) -> str:
        """The client."""

    @property
    def is_sending(self) -> bool:
        """Whether something waits to be sent."""


class _OfClient:
    """The connections of one client: idle ones, and those with a request, each the oldest first."""

    def __init__(self) -> None:
        self.idle: dict[TrackedConnection, None] = {}
        self.busy: dict[TrackedConnection, None] = {}

    def __len__(self) -> int:
        return len(self.idle) + len(self.busy)


class OpenConnections:
    """The connections that are open; a new one takes the room of another when there are too many.

    Args:
        limit: The number of connections that may be open at once.
        closed: Counts connections that the gateway closes, by reason.
    """

    def __init__(self, limit: int, closed: Counter) -> None:
        self._limit, self.closed = limit, closed
        self._clients: dict[str, _OfClient] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, connection: TrackedConnection) -> bool:
        """Add a connection without a request; returns whether there is room for it.

        Where there is none, another is closed. If its client would have more than its fair share, it is the
        one of its own that has been idle longest. If another client has more than its fair share, it is one
        of that client: the one that has been idle longest, or if none is idle the one that has had a request
        longest. Otherwise it is an idle one, of the client with most connections that has any.
        """
        if self._count >= self._limit:
            evicted = self._spare(connection.client_host)
            if evicted is None:
                self.closed.labels("full").inc()
                return False
            self.discard(evicted)
            self.closed.labels("evicted").inc()
            evicted.transport.abort()
        self._clients.setdefault(connection.client_host, _OfClient()).idle[connection] = None
        self._count += 1
        return True

    def discard(self, connection: TrackedConnection) -> None:
        """Remove a connection, if it is there."""
        client = self._clients.get(connection.client_host)
        if client is None:
            return
        for each in (client.idle, client.busy):
            if connection in each:
                del each[connection]
                self._count -= 1
        if not client:
            del self._clients[connection.client_host]

    def mark(self, connection: TrackedConnection, is_idle: bool) -> None:
        """Record whether a connection waits for its next request."""
        client = self._clients.get(connection.client_host)
        if client is None:
            return
        before, after = (client.busy, client.idle) if is_idle else (client.idle, client.busy)
        if connection in before:
            del before[connection]
            after[connection] = None

    def _spare(self, newcomer: str) -> TrackedConnection | None:
        """The connection to close for one of a newcomer; None if there is none."""
        own = self._clients.get(newcomer)
        if own and (len(own) + 1) * len(self._clients) > self._limit:
            return _longest_idle(own)
        name = max(self._clients, key=lambda each: len(self._clients[each]))
        largest = self._clients[name]
        if name != newcomer and len(largest) * len(self._clients.keys() | {newcomer}) > self._limit:
            return _longest_idle(largest) or next(iter(largest.busy))
        with_idle = [each for each in self._clients.values() if each.idle]
        return _longest_idle(max(with_idle, key=len)) if with_idle else None


def _longest_idle(client: _OfClient) -> TrackedConnection | None:
    """One whose last answer is still being sent only if there is no other."""
    return next((each for each in client.idle if not each.is_sending), next(iter(client.idle), None))
