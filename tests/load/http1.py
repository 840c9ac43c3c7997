"""HTTP/1.1 for the load generator: connections that are kept, each with one request on its way."""

import socket
import time
from functools import cache

from tests.helpers.serving.http2 import Call, Connection, ConnectionPool, Status

END_OF_HEAD = b"\r\n\r\n"


class HttpConnection(Connection):
    """As a `Connection`; the code of a response that is not OK is `HTTP` and its number."""

    def request(self, head: bytes, message: bytes, call: Call) -> None:
        """Send a request; the last one has been answered."""
        self.calls[0] = call
        self._outgoing.parts += (head, b"%d" % len(message), END_OF_HEAD, message)

    def _handshake(self) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)

    def _read(self, data: bytes) -> None:
        """Handle the response, once it is complete.

        Raises:
            OSError: it does not say how long it is, or there was no request.
        """
        self.now = time.perf_counter()
        received = self._rest = self._rest + data if self._rest else data
        head = received.find(END_OF_HEAD)
        if head < 0:
            return
        length = received[:head].lower().find(b"content-length:")
        if length < 0:
            raise OSError(f"an answer without content-length: {received[:head]!r}")
        start = head + len(END_OF_HEAD)
        if len(received) < start + int(received[length + 15 : received.index(b"\r\n", length)]):
            return
        self._rest, number, body = b"", int(received[9:12]), received[start:]
        if 0 not in self.calls:
            raise OSError(f"an answer without a request: {received[:head]!r}")
        if (parts := self.calls[0].parts) is not None:
            parts.append(body)
        is_ok = number == 200
        self._end(0, Status("OK") if is_ok else Status(f"HTTP {number}", body[:200].decode(errors="replace")))


class HttpPool(ConnectionPool):
    """Connections for requests of JSON."""

    connection_type = HttpConnection

    def head(self, path: str, timeout_ms: int) -> bytes:
        """The head of a request, up to the value of its last field, `Content-Length`."""
        return _head(path, self.address)


@cache
def _head(path: str, address: str) -> bytes:
    fields = f"Host: {address}\r\nContent-Type: application/json\r\nContent-Length: "
    return f"POST {path} HTTP/1.1\r\n{fields}".encode()
