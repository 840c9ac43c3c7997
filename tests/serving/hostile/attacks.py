"""The attackers that send: bombs, floods, unread answers, watch storms and cancelled calls.

Each is a function of an `Attack` that returns when the attack is over, and runs in a process of its own. The
rates are constants here: an attack is bounded in time, in connections and in calls a second.
"""

import struct
import time
from collections import deque
from collections.abc import Callable, Sequence

from grpc_health.v1 import health_pb2

from protos import retrieval_pb2 as wire
from serving.load import frames
from tests.serving import fuzzed_frames, fuzzed_messages
from tests.serving.fuzzed_messages import HEALTH, RETRIEVAL, SEARCH
from tests.serving.hostile.lines import OPEN, SHUT, Attack, Line, blocked
from tests.serving.raw import head

TICK = 0.01  # seconds
FLOODING = 8  # connections of one flood, so that each worker has some
PATIENCE = 2.0  # seconds that a flood stays on a connection that takes no more bytes
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
    """SearchBatch of 256 queries with k = 1,000, four on their way at once; the answers are read."""
    _calls(attack, [(SEARCH_BATCH, batch(256, 1000))], connections=2, every=0.5)


def large_messages(attack: Attack) -> None:
    """The largest permitted batch: 256 texts of 10,000 letters; and messages just above 4 MiB."""
    above = frames.message(b"\x0a" * ((4 << 20) + 1))
    _calls(attack, [(SEARCH_BATCH, batch(256, 10, "k" * 10_000)), (SEARCH, above)], connections=2, every=0.5)


def broken_messages(attack: Attack) -> None:
    """Mutated, deeply nested and oversized protobuf messages, 500 a second."""
    line = attack.line()
    sent = fuzzed_messages.messages(attack.rng, 1 << 62)
    for _ in attack.ticks(TICK):
        line = attack.renewed(line)
        for _ in range(5):
            path, framed = next(sent)
            line.ask(head(path, DEADLINE_MS), framed)
            attack.counts["calls"] += 1
        line.drain()


def broken_frames(attack: Attack) -> None:
    """Connections that break the rules of HTTP/2 in many ways, 50 a second."""
    for _ in attack.ticks(0.02):
        line = attack.line(settings=None)
        for part in fuzzed_frames.attack(attack.rng):
            line.send(part)
            attack.counts["frames"] += 1
        line.drain()
        line.close()


def _calls(
    attack: Attack, calls: list[tuple[str, bytes]], connections: int, every: float, together: int = 2
) -> None:
    """Make calls on several connections, `together` at once on each, and read the answers."""
    lines = [attack.line() for _ in range(connections)]
    due = time.monotonic()
    for _ in attack.ticks(TICK):
        lines = [attack.renewed(line) for line in lines]
        if time.monotonic() >= due:
            due = time.monotonic() + every
            for line in lines:
                for path, framed in calls * together:
                    line.ask(head(path, DEADLINE_MS), framed)
                    attack.counts["calls"] += 1
        for line in lines:
            line.flush()
            line.drain()


# Floods: frames below the requests, and streams that are opened and reset.


def pings(attack: Attack) -> None:
    """PING frames, up to 2 million a second, from connections that read nothing."""
    some = frames.frame(frames.PING, 0, 0, bytes(8)) * 2560
    _flood(attack, lambda line: some)


def settings(attack: Attack) -> None:
    """SETTINGS frames, up to 1 million a second, from connections that read nothing."""
    some = frames.settings([(frames.INITIAL_WINDOW_SIZE, 65_535)]) * 1280
    _flood(attack, lambda line: some)


def resets(attack: Attack) -> None:
    """Rapid reset: streams that are opened and reset at once, 2,000 a second."""

    def some(line: Line) -> bytes:
        parts = []
        for _ in range(5):
            stream = line.stream()
            parts.append(frames.frame(frames.HEADERS, frames.END_HEADERS, stream, head(SEARCH, DEADLINE_MS)))
            parts.append(_reset(stream))
        return b"".join(parts)

    _flood(attack, some, every=0.02, reads=True)


def headers(attack: Attack) -> None:
    """Calls of methods that do not exist, 2,000 a second."""

    def some(line: Line) -> bytes:
        flags = frames.END_HEADERS | frames.END_STREAM
        block = head("/no.such.Service/Method", DEADLINE_MS)
        return b"".join(frames.frame(frames.HEADERS, flags, line.stream(), block) for _ in range(5))

    _flood(attack, some, every=0.02, reads=True)


def continuations(attack: Attack) -> None:
    """Header blocks that never end: CONTINUATION frames, up to 4 MB a second."""

    def some(line: Line) -> bytes:
        piece = frames.frame(frames.CONTINUATION, 0, 1, b"\0\1a\1b" * 100)
        if line.stream() == 1:
            return frames.frame(frames.HEADERS, 0, 1, head(SEARCH, DEADLINE_MS)) + piece
        return piece * 10

    _flood(attack, some)


def _flood(
    attack: Attack, some: Callable[[Line], bytes], every: float = TICK, reads: bool = False
) -> None:
    """Send what `some` gives on several connections; a connection that is full for long is replaced."""
    lines = [attack.line() for _ in range(FLOODING)]
    for _ in attack.ticks(every):
        for n, line in enumerate(lines):
            if blocked(line, PATIENCE):
                attack.counts["connections that took no more"] += 1
                line.close()
            if line.was_closed():
                lines[n] = attack.line()
            elif line.blocked_since is None:
                line.send(some(line))
                attack.counts["bursts"] += 1
            else:
                line.flush()
            if reads:
                line.drain()


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
    held: deque[Line] = deque()
    framed = batch(256, 1000)
    for _ in attack.ticks(1.0):
        if len(held) >= 32:
            held.popleft().close()
        line = attack.line(settings, receive_bytes)
        for _ in range(2):
            line.ask(head(SEARCH_BATCH, 99_999_999), framed)
            attack.counts["calls"] += 1
        held.append(line)
        attack.counts["closed by the server, seen"] = sum(each.was_closed() for each in held)


# Streams that have no end.


def watches(attack: Attack) -> None:
    """Health/Watch: ten connections that each open 16 more streams twice a second."""
    _streams(attack, WATCH, frames.message(health_pb2.HealthCheckRequest().SerializeToString()))


def streams(attack: Attack) -> None:
    """SearchStream: ten connections that each open 16 more streams twice a second."""
    _streams(attack, SEARCH_STREAM, search())


def _streams(attack: Attack, path: str, framed: bytes) -> None:
    lines = [attack.line() for _ in range(10)]
    for _ in attack.ticks(0.5):
        for n, line in enumerate(lines):
            line.drain()
            if line.closed or time.monotonic() - line.opened > 30:
                line.close()
                lines[n] = line = attack.line()
            for _ in range(16):
                stream = line.begin(head(path, 99_999_999))
                line.send(frames.frame(frames.DATA, 0, stream, framed))
                attack.counts["calls"] += 1


# Calls that are cancelled.


def cancels(attack: Attack) -> None:
    """Whole calls that are reset at once or a moment later: 600 Search and 50 SearchBatch a second."""
    lines = [attack.line() for _ in range(FLOODING)]
    one, many = search(), batch(64, 100)
    begun: list[tuple[Line, int]] = []
    for number, _ in enumerate(attack.ticks(0.02)):
        for line, stream in begun:
            line.send(_reset(stream))
        begun.clear()
        lines = [attack.renewed(line) for line in lines]
        for n in range(12):
            line = attack.rng.choice(lines)
            begun.append((line, line.ask(head(SEARCH, DEADLINE_MS), one)))
            if n % 2:
                line, stream = begun.pop()
                line.send(_reset(stream))
        line = lines[number % len(lines)]
        begun.append((line, line.ask(head(SEARCH_BATCH, DEADLINE_MS), many)))
        attack.counts["calls"] += 13
        for line in lines:
            line.drain()
