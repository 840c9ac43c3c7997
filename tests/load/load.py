"""Closed loops: each client, or one stream, sends its next request when an earlier one has been answered.

So the load never exceeds the server's capacity; `open_loop` offers more. Both count calls in `LoadResult`.
"""

import itertools
import math
import random
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tests.load.http2 import PREFIX_BYTES, Call, Connection, ConnectionPool, Status

CHECK_EVERY = 20  # one in this many responses is compared with the expected answer
CALL_TIMEOUT_MS, STREAM_TIMEOUT_MS = 10_000, 3_600_000
OK = Status("OK")
UNANSWERED = Status("UNAVAILABLE", "not answered before the end of the test")

Tick = Callable[[], None]  # called between polls
Say = Callable[[str], None]  # receives what is being measured


@dataclass(frozen=True)
class Requests:
    """Encoded requests of one method."""

    path: str  # of the method
    messages: Sequence[bytes]  # at least one, as the protocol of `pool` sends them
    queries: int = 1  # in each message
    # Compares a response with the expected one: takes the number of its message, and its bytes.
    check: Callable[[int, bytes], None] | None = None
    pool: type[ConnectionPool] = ConnectionPool  # its protocol is that of the messages

    def shuffled(self, seed: int, check_every: int = CHECK_EVERY) -> Iterator[tuple[int, bool]]:
        """Numbers of messages, over and over in one random order, and whether to keep each response."""
        order = random.Random(seed).sample(range(len(self.messages)), len(self.messages))  # now: it takes ms
        return ((number, sent % check_every == 0) for sent, number in enumerate(itertools.cycle(order)))

    def compare(self, call: Call, status: Status) -> None:
        """Compare a response that was kept."""
        if self.check is not None and call.parts is not None and status.code == "OK":
            self.check(call.number, b"".join(call.parts))


@dataclass
class LoadResult:
    """The responses to a load; latencies and lags in seconds."""

    seconds: float  # that were measured
    queries: int = 1  # in each call
    until: float = math.inf  # end of the measured time, on the clock of `add`
    offered: int = 0  # calls that were due
    given_up: int = 0  # calls that were never sent because their clients left first
    latencies: "array[float]" = field(default_factory=lambda: array("d"))  # answered in the measured time
    left_over: "array[float]" = field(default_factory=lambda: array("d"))  # answered after it
    lags: "array[float]" = field(default_factory=lambda: array("d"))  # from due times until taken up
    codes: Counter[str] = field(default_factory=Counter)  # number of calls by gRPC code
    messages: dict[str, str] = field(default_factory=dict)  # first message of each code

    def add(self, status: Status, latency: float, now: float = 0.0) -> None:
        """Record a call that ended after `latency` seconds."""
        self.codes[status.code] += 1
        if status.code == "OK":
            (self.latencies if now <= self.until else self.left_over).append(latency)
        else:
            self.messages.setdefault(status.code, status.message)

    @property
    def rps(self) -> float:
        """Calls answered per second."""
        return len(self.latencies) / self.seconds

    @property
    def qps(self) -> float:
        """Queries answered per second."""
        return self.rps * self.queries

    @property
    def answered_share(self) -> float:
        """Share of the due calls that were answered in the measured time; NaN where none was due.

        The percentiles are of these calls alone.
        """
        return len(self.latencies) / self.offered if self.offered else math.nan

    @property
    def errors(self) -> dict[str, int]:
        """Number of failed calls by code."""
        return {code: count for code, count in sorted(self.codes.items()) if code != "OK"}

    def percentile_us(self, percent: float) -> float:
        """A percentile of the latencies in microseconds; NaN without any."""
        return percentile(self.latencies, percent) * 1e6


def percentile(values: "Sequence[float] | npt.NDArray[np.float64]", percent: float) -> float:
    """A percentile; NaN without values."""
    return float(np.percentile(values, percent)) if len(values) else math.nan


class Clients:
    """Clients that send one request after the other, each on a connection and in a random order of its own.

    The body of one in `check_every` responses is kept.
    """

    pool: ConnectionPool  # of their connections; it is set before the first request

    def __init__(self, requests: Requests, count: int, seed: int, check_every: int = CHECK_EVERY) -> None:
        self.requests = requests
        self._orders = [requests.shuffled(seed * 1009 + slot, check_every) for slot in range(count)]

    def send_next(self, slot: int) -> None:
        """Send the next request of a client."""
        number, is_kept = next(self._orders[slot])
        connection = self.pool.connection(slot)
        head = self.pool.head(self.requests.path, CALL_TIMEOUT_MS)
        call = Call(number, time.perf_counter(), is_kept)
        connection.request(head, self.requests.messages[number], call)
        connection.flush()


def closed_loop(
    address: str,
    requests: Requests,
    clients: int,
    seconds: float,
    warm_up: float = 0.5,
    seed: int = 0,
    tick: Tick = lambda: None,
) -> LoadResult:
    """Run a closed loop and report the calls that ended within the seconds after the warm-up."""
    result, senders = LoadResult(seconds, requests.queries), Clients(requests, clients, seed)
    start = stop = math.inf

    def finished(connection: Connection, call: Call, status: Status) -> None:
        if start <= connection.now <= stop:
            result.offered += 1
            result.add(status, connection.now - call.started)
        requests.compare(call, status)
        if connection.now < stop:
            senders.send_next(connection.slot)

    with requests.pool(address, clients, finished) as senders.pool:
        start = time.perf_counter() + warm_up
        stop = start + seconds
        for slot in range(clients):
            senders.send_next(slot)
        while (now := time.perf_counter()) < stop:
            senders.pool.poll(min(0.1, stop - now))
            tick()
        for _ in range(senders.pool.drain()):
            result.add(UNANSWERED, 0.0)
    return result


def stream_loop(
    address: str, requests: Requests, in_flight: int, seconds: float, warm_up: float = 0.5, seed: int = 0
) -> LoadResult:
    """Run a closed loop over one stream that has `in_flight` unanswered requests.

    A stream that ends too early counts as one call with its code.
    """
    result, order = LoadResult(seconds), requests.shuffled(seed)
    unanswered: deque[Call] = deque()
    ended: list[Status] = []

    def send_next() -> None:
        number, is_kept = next(order)
        unanswered.append(Call(number, time.perf_counter(), is_kept))
        connection.send(stream, requests.messages[number])

    def answered(message: bytes) -> None:
        call, now = unanswered.popleft(), connection.now
        if start <= now <= stop:
            result.offered += 1
            result.add(OK, now - call.started)
        if call.parts is not None:
            call.parts.append(message)
        requests.compare(call, OK)
        if now < stop:
            send_next()

    def finished(connection: Connection, call: Call, status: Status) -> None:
        if status.code == "OK" and unanswered:
            status = Status("INTERNAL", f"the stream ended with {len(unanswered)} requests unanswered")
        if status.code != "OK":
            result.add(status, 0.0)
        ended.append(status)

    with ConnectionPool(address, 1, finished) as pool:
        connection = pool.connection(0)
        whole = Call(0, time.perf_counter())
        whole.reader = MessageReader(answered).feed
        stream = connection.open(pool.head(requests.path, STREAM_TIMEOUT_MS), whole)
        start = time.perf_counter() + warm_up
        stop = start + seconds
        for _ in range(in_flight):
            send_next()
        connection.flush()
        while (now := time.perf_counter()) < stop and not ended:
            pool.poll(min(0.1, stop - now))
        if not ended:
            connection.send(stream, b"", last=True)
            connection.flush()
        pool.drain()
    return result


class MessageReader:
    """Splits the bytes of a streamed response into messages with gRPC's prefix, which `take` receives."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        data = self._rest + data if self._rest else data
        position = 0
        while len(data) - position >= PREFIX_BYTES:
            end = position + PREFIX_BYTES + int.from_bytes(data[position + 1 : position + PREFIX_BYTES])
            if end > len(data):
                break
            self._take(data[position:end])
            position = end
        self._rest = data[position:]
