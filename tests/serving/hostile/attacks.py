"""The attackers that send: bombs, floods, unread answers, watch storms and cancelled calls.

Each is a function of an `Attack` that returns when the attack is over, and runs in a process of its own. The
rates are constants here: an attack is bounded in time, in connections and in calls a second.
"""

import struct
import time
from collections import deque
from collections.abc import Callable, Sequence

from grpc_health.v1 import health_pb2

from tests.helpers.serving import fuzzed_frames, fuzzed_messages
from tests.helpers.serving import http2 as frames
from tests.helpers.serving.fuzzed_messages import HEALTH, RETRIEVAL, SEARCH
from tests.helpers.serving.raw import head
from tests.serving.hostile.connection import OPEN, SHUT, Attack, Connection
from twinspire.protos import retrieval_pb2 as wire

TICK = 0.01  # seconds
FLOODING = 8  # connections of one flood, so that each worker has some
BURST = 4 << 20  # bytes of one burst
HELD = 10  # connections that stay open after their burst
DEADLINE_MS = 10_000
TEXTS = ("bavuti xelike mopy", "nusora tivuxe", "zobake limonu")
SEARCH_BATCH, SEARCH_STREAM = f"{RETRIEVAL}/SearchBatch", f"{RETRIEVAL}/SearchStream"
WATCH = f"{HEALTH}/Watch"


def batch(queries: int, k: int, text: str = TEXTS[0]) -> bytes:
    """A SearchBatch message with its gRPC frame."""
    request = wire.SearchBatchRequest(queries=[{"text": text}] * queries, k=k)
    return frames.message(request.SerializeToString())


def search(k: int = 10) -> bytes:
    """A Search message with its gRPC frame."""
    return frames.message(wire.SearchRequest(query={"text": TEXTS[0]}, k=k).SerializeToString())


# Bombs: permitted requests that cost the most, and messages that are none.


def large_batches(attack: Attack) -> None:
    """A SearchBatch of 256 queries with k = 1,000, which is refused, and the largest that is answered."""
    _calls(attack, [(SEARCH_BATCH, batch(256, 1000)), (SEARCH_BATCH, batch(256, 64))])


def large_messages(attack: Attack) -> None:
    """The largest permitted batch, 256 texts of 10,000 letters, and a message just above 4 MiB."""
    above = frames.message(b"\x0a" * ((4 << 20) + 1))
    _calls(attack, [(SEARCH_BATCH, batch(256, 10, "k" * 10_000)), (SEARCH, above)])


def broken_messages(attack: Attack) -> None:
    """Mutated, deeply nested and oversized protobuf messages, 500 a second."""
    connection = attack.connect()
    sent = fuzzed_messages.messages(attack.rng, 1 << 62)
    for _ in attack.ticks(TICK):
        connection = attack.renewed(connection)
        for _ in range(5):
            path, framed = next(sent)
            connection.ask(head(path, DEADLINE_MS), framed)
            attack.counts["calls"] += 1
        connection.drain()


def broken_frames(attack: Attack) -> None:
    """Connections that break the rules of HTTP/2 in many ways, 50 a second."""
    for _ in attack.ticks(0.02):
        connection = attack.connect(settings=None)
        for part in fuzzed_frames.attack(attack.rng):
            connection.send(part)
            attack.counts["frames"] += 1
        connection.drain()
        connection.close()


def _calls(attack: Attack, calls: list[tuple[str, bytes]]) -> None:
    """Make each call on six connections, twice a second, and read the answers."""
    connections = [attack.connect() for _ in range(6)]
    due = time.monotonic()
    for _ in attack.ticks(TICK):
        connections = [attack.renewed(connection) for connection in connections]
        if time.monotonic() >= due:
            due = time.monotonic() + 0.5
            for connection in connections:
                for path, framed in calls:
                    connection.ask(head(path, DEADLINE_MS), framed)
                    attack.counts["calls"] += 1
        for connection in connections:
            connection.drain()


# Floods: frames below the requests, and streams that are opened and reset.


def pings(attack: Attack) -> None:
    """PING frames from connections that read nothing: each second a connection with 4 MB of them."""
    _burst(attack, frames.frame(frames.PING, 0, 0, bytes(8)))


def settings(attack: Attack) -> None:
    """SETTINGS frames from connections that read nothing: each second a connection with 4 MB of them."""
    _burst(attack, frames.settings([(frames.INITIAL_WINDOW_SIZE, 65_535)]))


def resets(attack: Attack) -> None:
    """Rapid reset: streams that are opened and reset at once, 2,000 a second."""

    def some(connection: Connection) -> bytes:
        parts = []
        for _ in range(5):
            stream = connection.stream()
            parts.append(frames.frame(frames.HEADERS, frames.END_HEADERS, stream, head(SEARCH, DEADLINE_MS)))
            parts.append(_reset(stream))
        return b"".join(parts)

    _flood(attack, some, every=0.02)


def headers(attack: Attack) -> None:
    """Calls of methods that do not exist, 2,000 a second."""

    def some(connection: Connection) -> bytes:
        flags = frames.END_HEADERS | frames.END_STREAM
        block = head("/no.such.Service/Method", DEADLINE_MS)
        return b"".join(frames.frame(frames.HEADERS, flags, connection.stream(), block) for _ in range(5))

    _flood(attack, some, every=0.02)


def continuations(attack: Attack) -> None:
    """Header blocks that break off: each second a connection with 1 MB of CONTINUATION frames."""
    start = frames.frame(frames.HEADERS, 0, 1, head(SEARCH, DEADLINE_MS))
    piece = frames.frame(frames.CONTINUATION, 0, 1, b"\0\1a\1b" * 100)
    block = piece * ((1 << 20) // len(piece))
    _held(attack, [start, block, frames.frame(frames.PING, 0, 0, bytes(8))])


def _burst(attack: Attack, frame: bytes) -> None:
    _held(attack, [frame * (BURST // 16 // len(frame))] * 16)


def _held(attack: Attack, parts: Sequence[bytes]) -> None:
    """Send these on a new connection each second, as fast as the server takes them; some stay open."""
    held: deque[tuple[Connection, int]] = deque()
    due = time.monotonic()
    for _ in attack.ticks(TICK):
        if time.monotonic() >= due:
            due = time.monotonic() + 1.0
            if len(held) >= HELD:
                held.popleft()[0].close()
            held.append((attack.connect(), 0))
        for n, (connection, sent) in enumerate(held):
            if connection.is_blocked:
                connection.flush()
            elif sent < len(parts) and not connection.was_closed():
                connection.send(parts[sent])
                held[n] = connection, sent + 1


def _flood(attack: Attack, some: Callable[[Connection], bytes], every: float = TICK) -> None:
    """Send what `some` gives on several connections, and read what comes."""
    connections = [attack.connect() for _ in range(FLOODING)]
    for _ in attack.ticks(every):
        for n, connection in enumerate(connections):
            connection.drain()
            if connection.closed:
                connections[n] = attack.connect()
            elif connection.is_blocked:
                connection.flush()
            else:
                connection.send(some(connection))
                attack.counts["bursts"] += 1


def _reset(stream: int) -> bytes:
    return frames.frame(frames.RST_STREAM, 0, stream, struct.pack(">I", frames.CANCEL))


# Answers that are not read.


def unread_calls(attack: Attack) -> None:
    """Large answers on streams whose HTTP/2 window is zero."""
    _unread(attack, SHUT, None)


def unread_sockets(attack: Attack) -> None:
    """Large answers on connections with open HTTP/2 windows whose socket is never read."""
    _unread(attack, OPEN, 4096)


def _unread(attack: Attack, settings: Sequence[tuple[int, int]], receive_bytes: int | None) -> None:
    """Each second a connection with two such calls; up to 32 of them are held."""
    held: deque[Connection] = deque()
    framed = batch(256, 64)  # the largest that is not refused
    for _ in attack.ticks(1.0):
        if len(held) >= 32:
            held.popleft().close()
        connection = attack.connect(settings, receive_bytes)
        for _ in range(2):
            connection.ask(head(SEARCH_BATCH, 99_999_999), framed)
            attack.counts["calls"] += 1
        held.append(connection)
        attack.counts["closed by the server, seen"] = sum(each.was_closed() for each in held)


# Streams that have no end.


def watches(attack: Attack) -> None:
    """Health/Watch: ten connections that each open 16 more streams twice a second."""
    _streams(attack, WATCH, frames.message(health_pb2.HealthCheckRequest().SerializeToString()))


def streams(attack: Attack) -> None:
    """SearchStream: ten connections that each open 16 more streams twice a second."""
    _streams(attack, SEARCH_STREAM, search())


def _streams(attack: Attack, path: str, framed: bytes) -> None:
    connections = [attack.connect() for _ in range(10)]
    for _ in attack.ticks(0.5):
        for n, connection in enumerate(connections):
            connection.drain()
            if connection.closed or time.monotonic() - connection.opened > 30:
                connection.close()
                connections[n] = connection = attack.connect()
            for _ in range(16):
                stream = connection.begin(head(path, 99_999_999))
                connection.send(frames.frame(frames.DATA, 0, stream, framed))
                attack.counts["calls"] += 1


# Calls that are cancelled.


def cancels(attack: Attack) -> None:
    """Whole calls that are reset at once or a moment later: 600 Search and 50 SearchBatch a second."""
    connections = [attack.connect() for _ in range(FLOODING)]
    one, many = search(), batch(64, 100)
    begun: list[tuple[Connection, int]] = []
    for number, _ in enumerate(attack.ticks(0.02)):
        for connection, stream in begun:
            connection.send(_reset(stream))
        begun.clear()
        connections = [attack.renewed(connection) for connection in connections]
        for n in range(12):
            connection = attack.rng.choice(connections)
            begun.append((connection, connection.ask(head(SEARCH, DEADLINE_MS), one)))
            if n % 2:
                connection, stream = begun.pop()
                connection.send(_reset(stream))
        connection = connections[number % len(connections)]
        begun.append((connection, connection.ask(head(SEARCH_BATCH, DEADLINE_MS), many)))
        attack.counts["calls"] += 13
        for connection in connections:
            connection.drain()
