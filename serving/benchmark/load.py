"""The three kinds of load: closed loop, one stream, and open loop.

In a closed loop each client sends its next request when the last one has been answered, so the load never
exceeds the server's capacity. In an open loop requests arrive at a given rate, as those of many independent
clients do. An open loop's latency starts when a request was due, not when the generator sent it: otherwise
one stall of the server would hide all requests that were due meanwhile (coordinated omission; Tene, "How NOT
to Measure Latency").
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

from serving.benchmark.http2 import PREFIX_BYTES, REFUSED, Call, Connection, ConnectionPool, Status

CHECK_EVERY = 20  # one in this many responses is compared with the expected answer
CALL_TIMEOUT_MS, STREAM_TIMEOUT_MS = 10_000, 3_600_000
CHUNK = 4096  # arrivals that are drawn together
OK, LATE = Status("OK"), Status("DEADLINE_EXCEEDED", "no answer within the deadline")
UNANSWERED = Status("UNAVAILABLE", "not answered before the end of the test")
HOLD_SECONDS = 0.01  # pause of a connection after a refused stream: the server still counts ended streams
SWEEP_SECONDS = 0.01  # between two checks for calls past their deadline
SPIN_SECONDS = 0.002  # before an arrival: polls without sleeping, as waits are whole milliseconds

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


def _doubles() -> "array[float]":
    return array("d")


@dataclass
class LoadResult:
    """The responses to a load; latencies and lags in seconds."""

    seconds: float  # that were measured
    queries: int = 1  # in each call
    until: float = math.inf  # end of the measured time, on the clock of `add`
    offered: int = 0  # calls that were due
    given_up: int = 0  # calls that were never sent because their clients left first
    latencies: "array[float]" = field(default_factory=_doubles)  # of calls answered in the measured time
    left_over: "array[float]" = field(default_factory=_doubles)  # of calls answered after it
    lags: "array[float]" = field(default_factory=_doubles)  # from a call's due time until it was taken up
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
        """Calls answered in the measured time over those that were due; NaN where none was.

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
    """Clients that send one request after the other, each on a connection of its own.

    Args:
        requests: sent by each client over and over, in a random order of its own.
        count: number of clients.
        seed: of the orders.
        check_every: keep the body of one in this many responses.

    Attributes:
        pool: of their connections; set it before the first request.
    """

    pool: ConnectionPool

    def __init__(self, requests: Requests, count: int, seed: int, check_every: int = CHECK_EVERY) -> None:
        self.requests = requests
        self._orders = [requests.shuffled(seed * 1009 + slot, check_every) for slot in range(count)]

    def send_next(self, slot: int) -> None:
        """Send the next request of a client.

        Raises:
            Unavailable: the server is gone.
        """
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
    """Run a closed loop and report the calls that ended within the measured seconds.

    Args:
        address: of a server on this machine.
        requests: sent by each client in a random order.
        clients: number of connections, each with one open call.
        seconds: to measure, after the warm-up.
        warm_up: seconds of load before those.
        seed: of the orders.
        tick: called between polls.

    Raises:
        Unavailable: the server is gone.
    """
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

    Raises:
        Unavailable: the server is gone.
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
    """Splits the bytes of a streamed response into messages.

    Args:
        take: receives each message with gRPC's prefix.
    """

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


@dataclass(frozen=True)
class Segment:
    """A constant rate."""

    rate: float  # requests per second
    seconds: float  # duration
    # At the end of the segment its clients leave, and drop the requests that they could not send. Otherwise
    # these are still sent until their deadline.
    leaves: bool = False


@dataclass(frozen=True)
class OfferedLoad:
    """The load of an open loop."""

    segments: Sequence[Segment]  # one after another without a pause
    deadline: float = 1.0  # seconds of each request, from when it is due
    connections: int = 64  # that requests are spread over, in turn
    seed: int = 0  # of the arrivals and of the order of requests


def arrivals(offered: OfferedLoad, start: float) -> Iterator[tuple[float, int]]:
    """When each request is due, on the clock of `start`, and the number of its segment.

    Requests arrive as a Poisson process: the gaps between them are exponentially distributed.
    """
    draw = np.random.default_rng(offered.seed)
    begin = start
    for number, segment in enumerate(offered.segments):
        end, due = begin + segment.seconds, begin
        while due < end:
            times = due + np.cumsum(draw.exponential(1 / segment.rate, CHUNK))
            yield from ((each, number) for each in times[times < end].tolist())
            due = float(times[-1])
        begin = end


def open_loop(
    address: str, requests: Requests, offered: OfferedLoad, tick: Tick = lambda: None
) -> list[LoadResult]:
    """Run an open loop and report each segment's requests.

    A request for which no connection has room waits in the generator. The newest is sent first: otherwise in
    an overload every request would be sent just before its deadline. Requests that are still waiting at the
    end of their segment may be answered later, but do not count among its latencies.

    Raises:
        Unavailable: the server is gone.
    """
    loop = _OpenLoop(requests, offered)
    with ConnectionPool(address, offered.connections, loop.finished) as loop.pool:
        loop.run(tick)
    return loop.results


class _OpenCall(Call):
    __slots__ = ("late", "segment")

    def __init__(self, number: int, due: float, late: float, segment: int, is_kept: bool) -> None:
        super().__init__(number, due, is_kept)
        self.late, self.segment = late, segment


class _OpenLoop:
    pool: ConnectionPool

    def __init__(self, requests: Requests, offered: OfferedLoad) -> None:
        self.results = [LoadResult(segment.seconds) for segment in offered.segments]
        self._requests, self._offered = requests, offered
        self._order = requests.shuffled(offered.seed + 1)
        self._waiting: list[deque[_OpenCall]] = [deque() for _ in range(offered.connections)]
        self._held_until = [0.0] * offered.connections

    def run(self, tick: Tick) -> None:
        """Send everything, and wait for the last response or deadline."""
        start = end = time.perf_counter() + 0.01
        for result in self.results:
            result.until = end = end + result.seconds
        calls = self._calls(start)
        following = next(calls, None)
        sweep = start + SWEEP_SECONDS
        leaving = [n for n, segment in enumerate(self._offered.segments) if segment.leaves]
        while (now := time.perf_counter()) < end or following or self._is_busy():
            following = self._send_due(following, calls, now)
            while leaving and now >= self.results[leaving[0]].until:
                self._give_up(leaving.pop(0))
            if now >= sweep:
                self._expire(now)
                sweep = now + SWEEP_SECONDS
                tick()
            until = min(sweep, following.started if following else sweep) - time.perf_counter()
            self.pool.poll(0.0 if until < SPIN_SECONDS else until - SPIN_SECONDS / 2)

    def finished(self, connection: Connection, call: Call, status: Status) -> None:
        """Record the result of a call, and send the next waiting call of its connection."""
        assert isinstance(call, _OpenCall)
        slot, now = connection.slot, connection.now
        if status is REFUSED and now <= call.late:
            self._waiting[slot].append(call)  # transparent retry (gRFC A6)
            self._held_until[slot] = now + HOLD_SECONDS
            return
        status = LATE if now > call.late else status
        self._requests.compare(call, status)
        self.results[call.segment].add(status, now - call.started, now)
        if self._waiting[slot]:
            self._send(slot, now)

    def _calls(self, start: float) -> Iterator[_OpenCall]:
        for due, segment in arrivals(self._offered, start):
            number, is_kept = next(self._order)
            yield _OpenCall(number, due, due + self._offered.deadline, segment, is_kept)

    def _send_due(
        self, following: _OpenCall | None, calls: Iterator[_OpenCall], now: float
    ) -> _OpenCall | None:
        """Send all requests that are due; returns the next one that is not."""
        touched: set[int] = set()
        while following is not None and following.started <= now:
            result = self.results[following.segment]
            slot = result.offered % self._offered.connections
            result.offered += 1
            result.lags.append(now - following.started)
            self._waiting[slot].append(following)
            touched.add(slot)
            following = next(calls, None)
        for slot in touched:
            self._send(slot, now)
            self.pool.connection(slot).flush()
        return following

    def _send(self, slot: int, now: float) -> None:
        """Send as many waiting requests as the connection has room for."""
        waiting = self._waiting[slot]
        connection = self.pool.connection(slot)
        path, messages = self._requests.path, self._requests.messages
        while waiting and connection.has_room and now >= self._held_until[slot]:
            call = waiting.pop()
            timeout_ms = int((call.late - now) * 1000)
            if timeout_ms < 1:
                self.results[call.segment].add(LATE, 0.0)
                continue
            connection.request(self.pool.head(path, timeout_ms), messages[call.number], call)

    def _give_up(self, segment: int) -> None:
        """Drop the unsent requests of a segment whose clients leave."""
        for slot, waiting in enumerate(self._waiting):
            self._waiting[slot] = deque(call for call in waiting if call.segment != segment)
            self.results[segment].given_up += len(waiting) - len(self._waiting[slot])

    def _expire(self, now: float) -> None:
        """Cancel calls past their deadline, as gRPC's clients do."""
        for waiting in self._waiting:
            while waiting and waiting[0].late <= now:
                self.results[waiting.popleft().segment].add(LATE, 0.0)
        for connection in self.pool.open_connections():
            for stream, call in list(connection.calls.items()):
                assert isinstance(call, _OpenCall)
                if call.late <= now:
                    connection.cancel(stream)
                    self.finished(connection, call, LATE)
            if self._waiting[connection.slot]:
                self._send(connection.slot, now)
            connection.flush()

    def _is_busy(self) -> bool:
        return any(self._waiting) or any(each.calls for each in self.pool.open_connections())
