"""One HTTP/2 connection that speaks just enough gRPC to put load on a server.

Why not grpcio's own client: it spends 150 us and more of processor time on a request. With the load on the
same two cores as the server, or on one beside it, what the load itself costs decides what can be
measured; the requests of this one are bytes made beforehand, and an answer costs it 20 to 60 us.

What it does: preface and SETTINGS, PING, flow control in both directions, as many streams as the server
allows, the status out of trailers or of headers that are trailers too, RST_STREAM and GOAWAY. What it
does not: TLS, padding, pushed streams, compression.
"""

import selectors
import socket
import struct
import time
from collections.abc import Callable

from protos.errors import Unavailable
from serving.load import frames
from serving.load.frames import Status
from serving.load.outgoing import Outgoing

WINDOW = 16 << 20  # bytes that the server may send before it hears from us
PATIENCE = 5.0  # seconds for the handshake
RECEIVE = 256 << 10  # bytes that are read at once
BLOCKED = 64 << 10  # bytes that the server has not taken off us: it does not read
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

Reader = Callable[[bytes], None]


class Call:
    """One call on its way.

    Args:
        number: of its request, for who sent it.
        started: when its latency began to count, in `time.perf_counter()`.
        reader: gets the bytes of the answer as they come; nobody looks at them if not given.
    """

    __slots__ = ("number", "reader", "received", "started")

    def __init__(self, number: int, started: float, reader: Reader | None = None) -> None:
        self.number, self.started, self.reader = number, started, reader
        self.received = 0  # bytes since the last WINDOW_UPDATE


class Connection:
    """A connection to a server on this machine. What is sent goes out with `flush`.

    Args:
        host: of the server.
        port: of the server.
        selector: that says when there is something to read; the connection registers itself.
        finished: called with the connection, the call and its status when a call is over.
        statuses: that all connections share.
        slot: of this connection, for who uses it.

    Attributes:
        calls: that are open, by their stream.
        now: when what is being dealt with came in, in `time.perf_counter()`.

    Raises:
        Unavailable: nobody answers there, or nobody who speaks HTTP/2.
    """

    def __init__(
        self,
        host: str,
        port: int,
        selector: selectors.BaseSelector,
        finished: Callable[["Connection", Call, Status], None],
        statuses: frames.Statuses,
        slot: int = 0,
    ) -> None:
        self.slot = slot
        self.calls: dict[int, Call] = {}
        self.now = 0.0
        self.closed = self._leaving = False
        self._finished, self._statuses, self._selector = finished, statuses, selector
        self._next = 1
        self._most = 100  # streams
        self._outgoing = Outgoing()
        self._unsent = bytearray()
        self._rest = b""  # a frame of which the end is missing
        self._block: tuple[int, int, bytes] | None = None  # headers of which the end is missing
        self._received = 0  # bytes since the last WINDOW_UPDATE
        self._greeted = False
        self._events = READ
        try:
            self._socket = socket.create_connection((host, port), PATIENCE)
        except OSError as error:
            raise Unavailable(f"{host}:{port}: cannot connect: {error}") from None
        self._greet(f"{host}:{port}")
        selector.register(self._socket, READ, self)

    @property
    def usable(self) -> bool:
        """Whether a new call may be begun."""
        return not (self.closed or self._leaving)

    @property
    def has_room(self) -> bool:
        """Whether the server takes one more call now."""
        return len(self.calls) < self._most and len(self._unsent) < BLOCKED

    def request(self, head: bytes, message: bytes, call: Call) -> None:
        """Begin a call with one message, and no more."""
        self._outgoing.only(self._begin(head, call), message)

    def open(self, head: bytes, call: Call) -> int:
        """Begin a call of many messages; the stream that `send` wants."""
        return self._begin(head, call)

    def send(self, stream: int, message: bytes, last: bool = False) -> None:
        """Send a message of such a call, or just its end, where the message is empty."""
        self._outgoing.part(stream, message, last)

    def cancel(self, stream: int) -> None:
        """Forget a call; the server hears of it, the caller does not."""
        del self.calls[stream]
        self._outgoing.forget(stream)
        self._say(frames.frame(frames.RST_STREAM, 0, stream, struct.pack(">I", frames.CANCEL)))

    def flush(self) -> None:
        """Give the socket what there is to send, as far as it takes it."""
        if self.closed:
            return
        if parts := self._outgoing.parts:
            self._unsent += b"".join(parts)
            parts.clear()
        if self._unsent:
            try:
                del self._unsent[: self._socket.send(self._unsent)]
            except BlockingIOError:
                pass
            except OSError as error:
                self._lose(f"the connection broke: {error}")
                return
        events = READ | WRITE if self._unsent else READ
        if events != self._events:
            self._events = events
            self._selector.modify(self._socket, events, self)

    def ready(self, events: int) -> None:
        """The selector says that there is something to do."""
        if events & READ:
            self._receive()
        self.flush()

    def close(self) -> None:
        """Be gone; calls that are open hear nothing."""
        if not self.closed:
            self.closed = True
            self._selector.unregister(self._socket)
            self._socket.close()

    def _greet(self, address: str) -> None:
        """Say who we are, and hear how many streams the server allows."""
        wanted = [
            (frames.HEADER_TABLE_SIZE, 0),
            (frames.ENABLE_PUSH, 0),
            (frames.INITIAL_WINDOW_SIZE, WINDOW),
        ]
        more = frames.window_update(0, WINDOW - frames.DEFAULT_WINDOW)
        until = time.monotonic() + PATIENCE
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(frames.PREFACE + frames.settings(wanted) + more)
            while not self._greeted:
                self._socket.settimeout(max(0.01, until - time.monotonic()))
                data = self._socket.recv(RECEIVE)
                if not data:
                    raise OSError("it closed the connection")
                self._read(data)
        except OSError as error:
            self._socket.close()
            raise Unavailable(f"{address}: does not speak HTTP/2: {error}") from None
        self._socket.setblocking(False)

    def _begin(self, head: bytes, call: Call) -> int:
        stream = self._next
        self._next += 2
        self.calls[stream] = call
        self._outgoing.head(stream, head)
        return stream

    def _say(self, frame: bytes) -> None:
        self._outgoing.parts.append(frame)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(RECEIVE)
            if not data:
                raise OSError("it was closed")
            self._read(data)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(f"the connection broke: {error}")

    def _read(self, data: bytes) -> None:
        """Deal with every whole frame.

        Raises:
            OSError: what came is none.
        """
        self.now = time.perf_counter()
        if self._rest:
            data = self._rest + data
        position, end = 0, len(data)
        while end - position >= frames.HEADER_BYTES and not self.closed:
            upper, lower, kind, flags, stream = frames.HEADER.unpack_from(data, position)
            start = position + frames.HEADER_BYTES
            after = start + (upper << 8 | lower)
            if after - start > frames.LARGEST:
                raise OSError("what came is no HTTP/2")
            if after > end:
                break
            position = after
            if kind == frames.DATA:
                self._data(flags, stream, data, start, after)
            elif kind == frames.HEADERS and flags & frames.END_STREAM and flags & frames.END_HEADERS:
                self._end(stream, self._statuses.of(data[start:after]))
            elif kind != frames.HEADERS or not flags & frames.END_HEADERS:
                self._control(kind, flags, stream, data[start:after])
        self._rest = data[position:]

    def _data(self, flags: int, stream: int, data: bytes, start: int, after: int) -> None:
        self._received += after - start
        if self._received > WINDOW // 2:
            self._say(frames.window_update(0, self._received))
            self._received = 0
        call = self.calls.get(stream)
        if call is None:
            return  # it was cancelled
        if call.reader is not None:
            call.reader(data[start:after])
        call.received += after - start
        if call.received > WINDOW // 2:
            self._say(frames.window_update(stream, call.received))
            call.received = 0
        if flags & frames.END_STREAM:
            self._end(stream, Status("INTERNAL", "an answer without a status"))

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """A frame that is not one of the usual two of an answer."""
        if kind == frames.SETTINGS and not flags & frames.ACK:
            self._settings(payload)
        elif kind == frames.PING and not flags & frames.ACK:
            self._say(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.WINDOW_UPDATE:
            self._outgoing.widen(stream, int.from_bytes(payload) & 0x7FFF_FFFF)
        elif kind == frames.RST_STREAM:
            self._end(stream, frames.reset(payload))
        elif kind == frames.GOAWAY:
            self._leave(int.from_bytes(payload[:4]) & 0x7FFF_FFFF, payload[8:].decode("utf-8", "replace"))
        elif kind == frames.HEADERS:
            self._block = (stream, flags, payload)
        elif kind == frames.CONTINUATION and self._block is not None:
            stream, first, block = self._block
            self._block = (stream, first, block + payload)
            if flags & frames.END_HEADERS and first & frames.END_STREAM:
                self._end(stream, self._statuses.of(block + payload))

    def _settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == frames.MAX_CONCURRENT_STREAMS:
                self._most = value
            elif name == frames.INITIAL_WINDOW_SIZE:
                self._outgoing.set_initial(value)
        self._greeted = True
        self._say(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _leave(self, last: int, reason: str) -> None:
        """The server takes no new call here, and has not begun those after the last."""
        self._leaving = True
        for stream in [each for each in self.calls if each > last]:
            self._end(stream, Status("UNAVAILABLE", f"the server goes away: {reason}"))

    def _end(self, stream: int, status: Status) -> None:
        call = self.calls.pop(stream, None)
        if call is not None:
            self._outgoing.forget(stream)
            self._finished(self, call, status)

    def _lose(self, reason: str) -> None:
        self.now = time.perf_counter()
        self.close()
        for stream in list(self.calls):
            self._end(stream, Status("UNAVAILABLE", reason))
