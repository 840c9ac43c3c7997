"""Open loops: requests arrive at a given rate, as those of many independent clients do.

Latency starts when a request was due, not when the generator sent it: otherwise one stall of the server would
hide all requests that were due meanwhile (coordinated omission; Tene, "How NOT to Measure Latency").
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tests.helpers.serving.http2 import REFUSED, Call, Connection, ConnectionPool, Status
from tests.load.load import LoadResult, Requests, Tick

CHUNK = 4096  # arrivals that are drawn together
HOLD_SECONDS = 0.01  # pause of a connection after a refused stream: the server still counts ended streams
SWEEP_SECONDS = 0.01  # between two checks for calls past their deadline
SPIN_SECONDS = 0.002  # before an arrival: polls without sleeping, as waits are whole milliseconds
LATE = Status("DEADLINE_EXCEEDED", "no answer within the deadline")


class Segment(NamedTuple):
    """A constant rate."""

    rate: float  # requests per second
    seconds: float  # duration
    # At the end of the segment its clients leave, and drop the requests that they could not send. Otherwise
    # these are still sent until their deadline.
    leaves: bool = False


class OfferedLoad(NamedTuple):
    """The load of an open loop."""

    segments: Sequence[Segment]  # one after another without a pause
    deadline: float = 1.0  # seconds of each request, from when it is due
    connections: int = 64  # that requests are spread over, in turn
    seed: int = 0  # of the arrivals and of the order of requests


def arrivals(offered: OfferedLoad, start: float) -> Iterator[tuple[float, int]]:
    """When each request of a Poisson process is due, on the clock of `start`, and its segment's number."""
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
