"""What the attackers share: the target, the pace, and a bare HTTP/2 connection that follows no rules."""

import contextlib
import errno
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.helpers.serving import http2 as frames
from tests.helpers.serving.http2 import Outgoing

WINDOW = 2**31 - 1
OPEN = ((frames.HEADER_TABLE_SIZE, 0), (frames.INITIAL_WINDOW_SIZE, WINDOW))
SHUT = ((frames.HEADER_TABLE_SIZE, 0), (frames.INITIAL_WINDOW_SIZE, 0))
CONNECT_SECONDS = 1.0
MAX_UNSENT = 1 << 20  # bytes of one connection that wait to be sent


@dataclass
class Attack:
    """What one attacker needs, and what it counts.

    Args:
        host: of the service.
        port: of the service.
        source: address that the attacker connects from.
        until: end of the attack, in `time.monotonic()`.
        seed: of the attacker's random numbers.
    """

    host: str
    port: int
    source: str
    until: float
    seed: int
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def ticks(self, seconds: float) -> Iterator[None]:
        """Yield at most once in `seconds`, until the attack is over."""
        due = time.monotonic()
        while (now := time.monotonic()) < self.until:
            yield
            due = max(due + seconds, now)
            time.sleep(max(0.0, min(due, self.until) - time.monotonic()))

    def connect(
        self, settings: Sequence[tuple[int, int]] | None = OPEN, receive_bytes: int | None = None
    ) -> "Connection":
        """A new connection.

        Args:
            settings: sent behind the preface, with the largest window of the connection; None sends nothing.
            receive_bytes: size of the socket's receive buffer; the system's own if not given.
        """
        return Connection(self, settings, receive_bytes)

    def renewed(self, connection: "Connection") -> "Connection":
        """The same connection while it is open, otherwise a new one."""
        return connection if not connection.closed else self.connect()


class Connection:
    """A connection. It never waits for the server, and a closed one ignores what is sent."""

    def __init__(
        self, attack: Attack, settings: Sequence[tuple[int, int]] | None, receive_bytes: int | None
    ) -> None:
        self.closed = False
        self.opened = time.monotonic()
        self.is_blocked = False  # the server takes no more bytes for now
        self._stream = -1
        self._unsent = bytearray()
        self._outgoing = Outgoing()
        self._rest = b""  # the start of a frame of which the end has not come
        self._counts = attack.counts
        self._socket = socket.socket()
        try:
            if receive_bytes is not None:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            self._socket.settimeout(CONNECT_SECONDS)
            self._socket.bind((attack.source, 0))
            self._socket.connect((attack.host, attack.port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A closed connection leaves no TIME_WAIT behind: thousands would use the ports up.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._socket.setblocking(False)
        except OSError as error:
            self._counts[f"connect failed: {errno.errorcode.get(error.errno or 0, 'timeout')}"] += 1
            self.close()
            return
        self._counts["connections"] += 1
        if settings is not None:
            window = frames.window_update(0, WINDOW - frames.DEFAULT_WINDOW)
            self.send(frames.PREFACE + frames.settings(settings) + window)

    def stream(self) -> int:
        """The number of the next stream."""
        self._stream += 2
        return self._stream

    def begin(self, block: bytes, flags: int = frames.END_HEADERS) -> int:
        """Send the HEADERS of a new stream; returns its number."""
        stream = self.stream()
        self.send(frames.frame(frames.HEADERS, flags, stream, block))
        return stream

    def ask(self, block: bytes, framed: bytes) -> int:
        """Make a whole call within the server's windows; returns its stream.

        Args:
            block: of its HEADERS.
            framed: its message with the five bytes before it, or whatever stands in their place.
        """
        stream = self.stream()
        if not self.is_full:
            self._outgoing.head(stream, block)
            self._outgoing.part(stream, framed, True)
            self._send_on()
        return stream

    def send(self, data: bytes) -> None:
        """Send bytes behind those that still wait; nothing where too many wait."""
        if not self.is_full:
            self._unsent += data
            self.flush()

    @property
    def is_full(self) -> bool:
        """Whether too many bytes wait to be sent, or the connection is closed."""
        return self.closed or len(self._unsent) > MAX_UNSENT

    def flush(self) -> None:
        """Give the socket what it takes."""
        try:
            while self._unsent and not self.closed:
                sent = self._socket.send(self._unsent)
                self._counts["bytes sent"] += sent
                del self._unsent[:sent]
                self.is_blocked = False
        except BlockingIOError:
            self.is_blocked = True
        except OSError:
            self._lose()

    def drain(self) -> None:
        """Read what has come and count it; SETTINGS and PING are acknowledged, as a client should."""
        try:
            while not self.closed:
                data = self._socket.recv(1 << 18)
                if not data:
                    self._lose()
                self._read(data)
        except BlockingIOError:
            return
        except OSError:
            self._lose()

    def was_closed(self) -> bool:
        """Whether the server has closed the connection; what it sent stays unread."""
        if not self.closed:
            try:
                if not self._socket.recv(1, socket.MSG_PEEK):
                    self._lose()
            except BlockingIOError:
                pass
            except OSError:
                self._lose()
        return self.closed

    def close(self) -> None:
        """Close the connection with a TCP reset."""
        self.closed = True
        with contextlib.suppress(OSError):
            self._socket.close()

    def _read(self, data: bytes) -> None:
        self._counts["bytes received"] += len(data)
        data, start = self._rest + data, 0
        while len(data) - start >= frames.HEADER_BYTES:
            upper, lower, kind, flags, stream = frames.HEADER.unpack_from(data, start)
            end = start + frames.HEADER_BYTES + (upper << 8 | lower)
            if end > len(data):
                break
            self._frame(kind, flags, stream, data[start + frames.HEADER_BYTES : end])
            start = end
        self._rest = data[start:]
        self._send_on()

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (frames.SETTINGS, frames.PING) and not flags & frames.ACK:
            self._unsent += frames.frame(kind, frames.ACK, 0, payload if kind == frames.PING else b"")
            for name, value in struct.iter_unpack(">HI", payload) if kind == frames.SETTINGS else ():
                if name == frames.INITIAL_WINDOW_SIZE:
                    self._outgoing.set_initial(value)
        elif kind == frames.WINDOW_UPDATE:
            self._outgoing.widen(stream, int.from_bytes(payload) & WINDOW)
        elif kind == frames.HEADERS and flags & frames.END_STREAM:
            self._counts["calls answered"] += 1
            self._outgoing.forget(stream)
        elif kind == frames.RST_STREAM:
            self._counts["calls reset by the server"] += 1
            self._outgoing.forget(stream)
        elif kind == frames.GOAWAY:
            self._counts["GOAWAY received"] += 1

    def _send_on(self) -> None:
        """Send what the server's windows have room for."""
        self._unsent += b"".join(self._outgoing.parts)
        self._outgoing.parts.clear()
        self.flush()

    def _lose(self) -> None:
        self._counts["closed by the server"] += 1
        self.close()
