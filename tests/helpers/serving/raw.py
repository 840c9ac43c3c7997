"""A connection that sends whatever a test likes, frame by frame: what no client of gRPC would do."""

import contextlib
import socket
import struct
import time
from collections.abc import Sequence

from tests.helpers.serving import http2 as frames
from tests.helpers.serving.http2 import Status, status_of, status_of_reset

WINDOW = (1 << 31) - 1
OPEN_WINDOWS = ((frames.HEADER_TABLE_SIZE, 0), (frames.INITIAL_WINDOW_SIZE, WINDOW))


def head(path: str, timeout_ms: int) -> bytes:
    """The header block of a call."""
    return frames.head(path, "127.0.0.1", timeout_ms)


class Raw:
    """Speaks HTTP/2 as far as a test wants it to.

    Args:
        address: of the server.
        settings: to begin with; None sends nothing, not even the preface.
        source: address to connect from; the system's choice if empty.

    Attributes:
        statuses: of calls that are over, by stream; of those that were reset, too.
        received: bytes of the answers, by stream.
        closed: the server has closed the connection.
    """

    def __init__(
        self, address: str, settings: Sequence[tuple[int, int]] | None = OPEN_WINDOWS, source: str = ""
    ) -> None:
        host, port = address.rsplit(":", 1)
        self.statuses: dict[int, Status] = {}
        self.received: dict[int, int] = {}
        self.closed = False
        self._stream = -1
        self._rest = b""
        self._unsent: list[bytes] = []
        self._socket = socket.create_connection((host, int(port)), 10, (source, 0))
        with contextlib.suppress(OSError):  # a server that refuses this address may have closed it already
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if settings is not None:
            self.send(frames.PREFACE, frames.settings(settings))
            self.send(frames.window_update(0, WINDOW - frames.DEFAULT_WINDOW))

    def send(self, *parts: bytes) -> None:
        """Send bytes as they are; a server that has hung up does not hear them."""
        try:
            self._socket.sendall(b"".join(parts))
        except OSError:
            self.closed = True

    def begin(self, path: str, timeout_ms: int = 10_000) -> int:
        """Begin a call, without a message; its stream."""
        self._stream += 2
        self.send(frames.frame(frames.HEADERS, frames.END_HEADERS, self._stream, head(path, timeout_ms)))
        return self._stream

    def message(self, stream: int, payload: bytes, last: bool = False) -> None:
        flags = frames.END_STREAM if last else 0
        self.send(frames.frame(frames.DATA, flags, stream, frames.message(payload)))

    def ask(self, path: str, payload: bytes, timeout_ms: int = 10_000) -> int:
        """Begin a call of one message, and send it; its stream."""
        stream = self.begin(path, timeout_ms)
        self.message(stream, payload, last=True)
        return stream

    def ask_framed(self, path: str, framed: bytes) -> int:
        """Begin a call of whatever stands in place of its messages, and send it with `flush`; its stream."""
        self._stream += 2
        begin = frames.frame(frames.HEADERS, frames.END_HEADERS, self._stream, head(path, 10_000))
        pieces = [framed[n : n + frames.LARGEST] for n in range(0, len(framed), frames.LARGEST)] or [b""]
        self._unsent += [begin, *(frames.frame(frames.DATA, 0, self._stream, each) for each in pieces[:-1])]
        self._unsent.append(frames.frame(frames.DATA, frames.END_STREAM, self._stream, pieces[-1]))
        return self._stream

    def flush(self) -> None:
        self.send(*self._unsent)
        self._unsent.clear()

    def reset(self, stream: int) -> None:
        self.send(frames.frame(frames.RST_STREAM, 0, stream, struct.pack(">I", frames.CANCEL)))

    def status(self, stream: int, seconds: float = 10.0) -> Status:
        until = time.monotonic() + seconds
        while stream not in self.statuses:
            assert not self.closed, "the connection was closed"
            assert time.monotonic() < until, "the call did not end"
            self.read(0.5)
        return self.statuses[stream]

    def read(self, seconds: float) -> None:
        """Take in what comes within this time; returns as soon as something has."""
        self._socket.settimeout(max(1e-6, seconds))
        try:
            data = self._socket.recv(1 << 18)
        except TimeoutError:
            return
        except OSError:
            data = b""
        self.closed |= not data
        data, start = self._rest + data, 0
        while len(data) - start >= frames.HEADER_BYTES:
            upper, lower, kind, flags, stream = frames.HEADER.unpack_from(data, start)
            end = start + frames.HEADER_BYTES + (upper << 8 | lower)
            if len(data) < end:
                break
            self._frame(kind, flags, stream, data[start + frames.HEADER_BYTES : end])
            start = end
        self._rest = data[start:]

    def close(self) -> None:
        """Be gone, whatever is on its way."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.DATA:
            self.received[stream] = self.received.get(stream, 0) + len(payload)
        elif kind == frames.HEADERS and flags & frames.END_STREAM:
            self.statuses[stream] = status_of(payload)
        elif kind == frames.RST_STREAM:
            self.statuses.setdefault(stream, status_of_reset(payload))
        elif kind in (frames.SETTINGS, frames.PING) and not flags & frames.ACK:
            self.send(frames.frame(kind, frames.ACK, 0, payload if kind == frames.PING else b""))
