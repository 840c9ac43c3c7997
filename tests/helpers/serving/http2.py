"""The HTTP/2 and gRPC client of the load generator.

It replaces grpcio's client, which takes 150 us of processor time and more for each request. Load and server
share a machine, so the processor time of the load limits what can be measured. Here requests are encoded
once, before the test, and an answer takes 20 to 60 us. The framing is here because the `h2` library (4.4)
takes 122 us of processor time for a request and its answer, and this module 4 us (AMD EPYC, without sockets).
With its sockets, in a closed loop of 64 clients, h2 took 164 us at best and this module 55 (the same machine,
busy). So a load on h2 sends at most 6,100 requests a second on one core, fewer than a worker answers.

Supported: SETTINGS, PING, flow control in both directions, as many streams as the server allows, the status
from trailers or from a trailers-only response, RST_STREAM and GOAWAY. Not supported: TLS, padding, pushed
streams and compression. See RFC 9113 (frames), RFC 7541 (headers) and gRPC's `PROTOCOL-HTTP2.md`.

The client disables the server's dynamic header table, so equal header blocks have equal bytes. Each distinct
block is decoded once and then looked up.
"""

import gc
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

import grpc
import hpack

from twinspire.protos.errors import InvalidInput, Unavailable
from twinspire.serving.address import host_of, is_loopback

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM = ACK = 1
END_HEADERS = 4
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4

HEADER = struct.Struct(">HBBBI")  # length (upper 16 bits, lower 8 bits), type, flags, stream
HEADER_BYTES = 9
PREFIX_BYTES = 5  # bytes that gRPC writes before a message
LARGEST = 16_384  # bytes in a frame, the protocol's default
DEFAULT_WINDOW = 65_535  # bytes, the protocol's initial flow-control window
WINDOW = 16 << 20  # bytes that the server may send before a WINDOW_UPDATE
CANCEL, REFUSED_STREAM = 8, 7  # error codes of RST_STREAM
CACHED_HEADS = 65_536  # encoded header blocks: one for each deadline in milliseconds
CACHED_BLOCKS = 4096  # decoded header blocks; messages with ids or times in them never repeat
RECEIVE_BYTES = 256 << 10  # bytes per recv call
BLOCKED_BYTES = 64 << 10  # unsent bytes above which the server is considered not to read
HANDSHAKE_SECONDS = 5.0
DRAIN_SECONDS = 10.0  # longest wait for open calls at the end of a measurement
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

CODES = {code.value[0]: code.name for code in grpc.StatusCode}
RESETS = {8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}  # HTTP/2 error code -> gRPC code


class Status(NamedTuple):
    """How a call ended: the name of gRPC's code, and its message."""

    code: str
    message: str = ""


REFUSED = Status("UNAVAILABLE", "stream refused before the server processed it")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return HEADER.pack(size >> 8, size & 255, kind, flags, stream) + payload


def settings(values: Sequence[tuple[int, int]]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *each) for each in values))


def window_update(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame of `size` bytes; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def message(payload: bytes) -> bytes:
    """A gRPC message: uncompressed flag, length, payload."""
    return b"\0" + struct.pack(">I", len(payload)) + payload


@lru_cache(CACHED_HEADS)
def head(path: str, authority: str, timeout_ms: int) -> bytes:
    """The header block of a request with a deadline (`grpc-timeout`); each distinct one is encoded once."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": authority,
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-timeout": f"{timeout_ms}m",
    }
    never_indexed = [hpack.NeverIndexedHeaderTuple(*each) for each in fields.items()]
    return bytes(hpack.Encoder().encode(never_indexed, huffman=False))


@lru_cache(CACHED_BLOCKS)
def status_of(block: bytes) -> Status:
    """The status in the last header block of a call; each distinct block is decoded once."""
    try:
        fields = {str(name): str(value) for name, value in hpack.Decoder().decode(block)}
    except hpack.HPACKError as error:
        return Status("INTERNAL", f"headers that cannot be read: {error}")
    if "grpc-status" not in fields:
        return Status("UNKNOWN", f"HTTP status {fields.get(':status', 'missing')} without grpc-status")
    number = fields["grpc-status"]
    code = CODES.get(int(number), "UNKNOWN") if number.isdecimal() else "UNKNOWN"
    return Status(code, unquote(fields.get("grpc-message", "")))


def status_of_reset(payload: bytes) -> Status:
    """The status of a call whose stream the server has reset (RST_STREAM)."""
    reason = int.from_bytes(payload)
    return REFUSED if reason == REFUSED_STREAM else Status(RESETS.get(reason, "INTERNAL"), f"reset, {reason}")


class Outgoing:
    """Frames to send, within the server's flow-control windows (RFC 9113, section 5.2).

    `parts` may be sent now; the rest of the messages waits for window updates.
    """

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self._window = self._initial = DEFAULT_WINDOW
        self._windows: dict[int, int] = {}  # of streams whose messages take more than one frame
        # Stream, rest of its message, and whether the message is the last.
        self._waiting: deque[tuple[int, memoryview, bool]] = deque()

    def head(self, stream: int, block: bytes) -> None:
        """Open a stream."""
        size = len(block)
        self.parts += (HEADER.pack(size >> 8, size & 255, HEADERS, END_HEADERS, stream), block)

    def only(self, stream: int, message: bytes) -> None:
        """Send the only message of a stream and end the stream."""
        size = len(message)
        if size <= LARGEST and size <= self._window and size <= self._initial and not self._waiting:
            self._window -= size
            self.parts += (HEADER.pack(size >> 8, size & 255, DATA, END_STREAM, stream), message)
        else:
            self.part(stream, message, True)

    def part(self, stream: int, message: bytes, last: bool) -> None:
        """Send one of several messages of a stream; an empty last one only ends the stream."""
        self._windows.setdefault(stream, self._initial)
        self._waiting.append((stream, memoryview(message), last))
        self._send_waiting()

    def forget(self, stream: int) -> None:
        """The stream has ended; drop its unsent messages."""
        if self._windows.pop(stream, None) is not None:
            self._waiting = deque(each for each in self._waiting if each[0] != stream)

    def widen(self, stream: int, size: int) -> None:
        """Apply a WINDOW_UPDATE; stream 0 is the connection."""
        if stream == 0:
            self._window += size
        elif stream in self._windows:
            self._windows[stream] += size
        self._send_waiting()

    def set_initial(self, size: int) -> None:
        """Apply SETTINGS_INITIAL_WINDOW_SIZE, to open streams too."""
        for stream in self._windows:
            self._windows[stream] += size - self._initial
        self._initial = size
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting:
            stream, rest, last = self._waiting[0]
            size = min(len(rest), LARGEST, self._window, self._windows[stream])
            if rest and size <= 0:
                return
            self._waiting.popleft()
            self._window -= size
            self._windows[stream] -= size
            complete = size == len(rest)
            end = END_STREAM if last and complete else 0
            self.parts += (HEADER.pack(size >> 8, size & 255, DATA, end, stream), rest[:size])
            if not complete:
                self._waiting.appendleft((stream, rest[size:], last))


class Call:
    """An open call.

    Args:
        number: of its request, for the caller.
        started: start of its latency, in `time.perf_counter()` seconds.
        is_kept: keep the bytes of the response in `parts`.
    """

    __slots__ = ("number", "parts", "received", "started")

    def __init__(self, number: int, started: float, is_kept: bool = False) -> None:
        self.number, self.started = number, started
        self.parts: list[bytes] | None = [] if is_kept else None
        self.received = 0  # bytes since the last WINDOW_UPDATE


class Connection:
    """A connection of a pool. `flush` sends what the other methods have queued.

    Attributes:
        slot: its number in the pool.
        calls: open calls by stream.
        now: when the current data arrived, in `time.perf_counter()` seconds.
    """

    def __init__(self, pool: "ConnectionPool", slot: int) -> None:
        self.slot = slot
        self.calls: dict[int, Call] = {}
        self.now = 0.0
        self.closed = self._leaving = False
        self._finished, self._selector = pool.finished, pool.selector
        self._next_stream = 1
        self._max_streams = 100
        self._outgoing = Outgoing()
        self._unsent = bytearray()
        self._rest = b""  # an incomplete frame
        self._block: tuple[int, int, bytes] | None = None  # incomplete headers
        self._received = 0  # bytes since the last WINDOW_UPDATE
        self._got_settings = False
        self._events = READ
        server = host_of(pool.address), int(pool.address.rpartition(":")[2])
        try:
            self._socket = socket.create_connection(server, HANDSHAKE_SECONDS)
        except OSError as error:
            raise Unavailable(f"{pool.address}: cannot connect: {error}") from None
        try:
            self._handshake()
        except OSError as error:
            self._socket.close()
            raise Unavailable(f"{pool.address}: does not speak HTTP/2: {error}") from None
        self._selector.register(self._socket, READ, self)

    @property
    def usable(self) -> bool:
        """Whether new calls may start here."""
        return not (self.closed or self._leaving)

    @property
    def has_room(self) -> bool:
        """Whether the server accepts one more call now."""
        return len(self.calls) < self._max_streams and len(self._unsent) < BLOCKED_BYTES

    def request(self, head: bytes, message: bytes, call: Call) -> None:
        """Start a call of one message."""
        stream = self._next_stream
        self._next_stream += 2
        self.calls[stream] = call
        self._outgoing.head(stream, head)
        self._outgoing.only(stream, message)

    def cancel(self, stream: int) -> None:
        """Cancel a call; `finished` is not called."""
        del self.calls[stream]
        self._outgoing.forget(stream)
        self._outgoing.parts.append(frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL)))

    def flush(self) -> None:
        """Send as much as the socket accepts."""
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
        """Handle the selector's events."""
        try:
            if events & READ:
                self._receive()
        except BlockingIOError:
            pass
        except OSError as error:
            self._lose(f"the connection broke: {error}")
        self.flush()

    def close(self) -> None:
        """Close the connection; `finished` is not called for open calls."""
        if not self.closed:
            self.closed = True
            self._selector.unregister(self._socket)
            self._socket.close()

    def _handshake(self) -> None:
        wanted = [(HEADER_TABLE_SIZE, 0), (ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, WINDOW)]
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(PREFACE + settings(wanted) + window_update(0, WINDOW - DEFAULT_WINDOW))
        until = time.monotonic() + HANDSHAKE_SECONDS
        while not self._got_settings:
            self._socket.settimeout(max(0.01, until - time.monotonic()))
            self._receive()
        self._socket.setblocking(False)

    def _receive(self) -> None:
        """Handle what the socket has.

        Raises:
            OSError: the connection is closed or broken, or the data is not HTTP/2.
        """
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise OSError("it was closed")
        self._read(data)

    def _read(self, data: bytes) -> None:
        """Handle every complete frame; errors as of `_receive`."""
        self.now = time.perf_counter()
        if self._rest:
            data = self._rest + data
        position, end = 0, len(data)
        while end - position >= HEADER_BYTES and not self.closed:
            upper, lower, kind, flags, stream = HEADER.unpack_from(data, position)
            start = position + HEADER_BYTES
            after = start + (upper << 8 | lower)
            if after - start > LARGEST:
                raise OSError("the data is not HTTP/2")
            if after > end:
                break
            position = after
            if kind == DATA:
                self._data(flags, stream, data, start, after)
            elif kind == HEADERS and flags & END_STREAM and flags & END_HEADERS:
                self._end(stream, status_of(data[start:after]))
            elif kind != HEADERS or not flags & END_HEADERS:
                self._control(kind, flags, stream, data[start:after])
        self._rest = data[position:]

    def _data(self, flags: int, stream: int, data: bytes, start: int, after: int) -> None:
        self._received += after - start
        if self._received > WINDOW // 2:
            self._outgoing.parts.append(window_update(0, self._received))
            self._received = 0
        call = self.calls.get(stream)
        if call is None:
            return  # cancelled
        if call.parts is not None:
            call.parts.append(data[start:after])
        call.received += after - start
        if call.received > WINDOW // 2:
            self._outgoing.parts.append(window_update(stream, call.received))
            call.received = 0
        if flags & END_STREAM:
            self._end(stream, Status("INTERNAL", "a response without a status"))

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Handle a frame other than the DATA and trailers of a response."""
        if kind == SETTINGS and not flags & ACK:
            self._apply_settings(payload)
        elif kind == PING and not flags & ACK:
            self._outgoing.parts.append(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            self._outgoing.widen(stream, int.from_bytes(payload) & 0x7FFF_FFFF)
        elif kind == RST_STREAM:
            self._end(stream, status_of_reset(payload))
        elif kind == GOAWAY:
            self._leave(int.from_bytes(payload[:4]) & 0x7FFF_FFFF, payload[8:].decode("utf-8", "replace"))
        elif kind == HEADERS:
            self._block = (stream, flags, payload)
        elif kind == CONTINUATION and self._block is not None:
            stream, first, block = self._block
            self._block = (stream, first, block + payload)
            if flags & END_HEADERS and first & END_STREAM:
                self._end(stream, status_of(block + payload))

    def _apply_settings(self, payload: bytes) -> None:
        # The acknowledgement goes before the data that a wider window lets through: until the server has it,
        # the narrower window holds, and grpcio's server resets the stream (RFC 9113, section 6.5.3).
        self._outgoing.parts.append(frame(SETTINGS, ACK, 0))
        for name, value in struct.iter_unpack(">HI", payload):
            if name == MAX_CONCURRENT_STREAMS:
                self._max_streams = value
            elif name == INITIAL_WINDOW_SIZE:
                self._outgoing.set_initial(value)
        self._got_settings = True

    def _leave(self, last: int, reason: str) -> None:
        """GOAWAY: no new calls here, and calls after the last one were not processed."""
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


class ConnectionPool:
    """Connections to one server of this machine, on one thread; a lost connection is reopened.

    As a context manager it also disables garbage collection, which takes as long as a hundred requests.

    Args:
        address: of a server on this machine.
        count: number of connections.
        finished: called with the connection, the call and its status when a call ends.
    """

    connection_type: type[Connection] = Connection

    def __init__(
        self, address: str, count: int, finished: Callable[[Connection, Call, Status], None]
    ) -> None:
        if not is_loopback(host_of(address)):
            raise InvalidInput("address", f"{address} is not this machine; load stays on loopback")
        self.address, self.finished = address, finished
        self.selector = selectors.DefaultSelector()
        self._connections: list[Connection] = []
        try:
            for slot in range(count):
                self._connections.append(self.connection_type(self, slot))
        except Unavailable:
            self.close()
            raise

    def connection(self, slot: int) -> Connection:
        """The connection of a slot, reopened where it was lost."""
        connection = self._connections[slot]
        if not connection.usable:
            if not connection.calls:
                connection.close()
            connection = self._connections[slot] = self.connection_type(self, slot)
        return connection

    def open_connections(self) -> list[Connection]:
        """All open connections, including those that accept no new calls."""
        return [key.data for key in self.selector.get_map().values()]

    def head(self, path: str, timeout_ms: int) -> bytes:
        """The header block of a request to this server."""
        return head(path, self.address, timeout_ms)

    def poll(self, timeout: float) -> None:
        """Handle received data; wait up to `timeout` seconds, rounded up to milliseconds."""
        for key, events in self.selector.select(timeout):
            connection: Connection = key.data
            if not connection.closed:
                connection.ready(events)
                if not connection.usable and not connection.calls:
                    connection.close()

    def drain(self) -> int:
        """Wait until the server is idle, for the next measurement; returns the calls still open."""
        until = time.monotonic() + DRAIN_SECONDS
        while (left := sum(len(each.calls) for each in self.open_connections())) and time.monotonic() < until:
            self.poll(0.05)
        return left

    def close(self) -> None:
        for connection in self.open_connections():
            connection.close()
        self.selector.close()

    def __enter__(self) -> "ConnectionPool":
        gc.collect()
        gc.disable()
        return self

    def __exit__(self, *error: object) -> None:
        gc.enable()
        self.close()
