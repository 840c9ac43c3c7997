"""Open loop: requests come when they come, whatever becomes of those before them.

So do those of many independent clients. A latency counts from when the request should have been sent, not
from when the generator came round to it: otherwise one stall of the server would hide the requests that
should have been sent meanwhile (Tene, "How NOT to Measure Latency": coordinated omission).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from serving.load.connection import Call, Connection
from serving.load.frames import REFUSED, Status
from serving.load.loop import Loop
from serving.load.measured import CHECKED, Measured, Requests

Spacing = Literal["poisson", "even"]
CHUNK = 4096  # arrivals that are drawn together
LATE = Status("DEADLINE_EXCEEDED", "no answer within the deadline")
HOLD_SECONDS = 0.01  # after a stream was refused that should be allowed: others still count that have ended
SWEEP_SECONDS = 0.01  # between looks for calls that are late
SPIN_SECONDS = (
    0.002  # before an arrival in which nothing sleeps: the system's waits are of whole milliseconds
)


@dataclass(frozen=True)
class Segment:
    """A rate for a while.

    Args:
        rate: requests a second.
        seconds: of it.
        leaves: its clients go when it ends: requests that no connection has had room for are given up.
            Otherwise they go on, and are sent until their deadline.
    """

    rate: float
    seconds: float
    leaves: bool = False


@dataclass(frozen=True)
class Offer:
    """What is offered, and how.

    Args:
        segments: one after another without a pause.
        deadline: seconds of each request, from when it should have been sent.
        connections: that requests are spread over, in turn.
        seed: of the arrivals and of the order of requests.
        spacing: of arrivals: as a Poisson process has it, or even.
    """

    segments: Sequence[Segment]
    deadline: float = 1.0
    connections: int = 64
    seed: int = 0
    spacing: Spacing = "poisson"


def run(
    address: str, requests: Requests, offer: Offer, tick: Callable[[float], None] | None = None
) -> list[Measured]:
    """Offer the load and report what became of each segment's requests.

    A request that no connection has room for waits in the generator, where its deadline may pass. The newest
    goes first: otherwise an overload would be answered with nothing but what is just too late. What a segment
    has left waiting in the generator at its end may still be answered, but is not counted among its answers.

    Args:
        address: of a server on this machine.
        requests: sent over and over in a random order.
        offer: how many, when.
        tick: called about every second with the seconds that have passed since the last time.

    Raises:
        Unavailable: the server is gone.
    """
    generator = _Generator(requests, offer)
    with Loop(address, offer.connections, generator.finished) as generator.loop:
        generator.go(tick or (lambda seconds: None))
    return generator.measured


def arrivals(offer: Offer, start: float) -> Iterator[tuple[float, int]]:
    """When each request should be sent, on the clock of `start`, and the number of its segment."""
    draw = np.random.default_rng(offer.seed)
    begin = start
    for number, segment in enumerate(offer.segments):
        end, due = begin + segment.seconds, begin
        while due < end:
            if offer.spacing == "even":
                gaps = np.full(CHUNK, 1 / segment.rate)
            else:
                gaps = draw.exponential(1 / segment.rate, CHUNK)
            times = due + np.cumsum(gaps)
            yield from ((each, number) for each in times[times < end].tolist())
            due = float(times[-1])
        begin = end


class _Call(Call):
    """A call of some segment, and when it is too late for an answer."""

    __slots__ = ("late", "parts", "segment")

    def __init__(self, number: int, due: float, late: float, segment: int, looked_at: bool) -> None:
        self.parts: list[bytes] | None = [] if looked_at else None
        super().__init__(number, due, None if self.parts is None else self.parts.append)
        self.late, self.segment = late, segment


class _Generator:
    """Sends what is due, and notes what comes back."""

    loop: Loop

    def __init__(self, requests: Requests, offer: Offer) -> None:
        self.measured = [Measured(segment.seconds) for segment in offer.segments]
        self._requests, self._offer = requests, offer
        numbers = np.random.default_rng(offer.seed + 1).permutation(len(requests.messages))
        self._order: list[int] = numbers.tolist()
        self._waiting: list[deque[_Call]] = [deque() for _ in range(offer.connections)]
        self._held = [0.0] * offer.connections  # until when nothing is sent

    def go(self, tick: Callable[[float], None]) -> None:
        """Offer everything, and wait for the last answer or deadline."""
        start = time.perf_counter() + 0.01
        end = start
        for measured in self.measured:
            measured.until = end = end + measured.seconds
        due_calls = self._calls(start)
        following = next(due_calls, None)
        sweep, told = start + SWEEP_SECONDS, start
        leaving = [n for n, segment in enumerate(self._offer.segments) if segment.leaves]
        while (now := time.perf_counter()) < end or self._is_busy():
            following = self._send_due(following, due_calls, now)
            while leaving and now >= self.measured[leaving[0]].until:
                self._give_up(leaving.pop(0))
            if now >= sweep:
                self._expire(now)
                sweep = now + SWEEP_SECONDS
            if now >= told + 1:
                tick(now - told)
                told = now
            until = min(sweep, following.started if following else sweep) - time.perf_counter()
            self.loop.turn(0.0 if until < SPIN_SECONDS else until - SPIN_SECONDS / 2)

    def finished(self, connection: Connection, call: Call, status: Status) -> None:
        """Note what came back; whoever waits for the room takes it."""
        assert isinstance(call, _Call)
        if status is REFUSED and connection.now <= call.late:
            self._waiting[connection.slot].append(call)  # as gRPC's clients do (gRFC A6)
            self._held[connection.slot] = connection.now + HOLD_SECONDS
            return
        if connection.now > call.late:
            status = LATE  # its client would have gone
        elif call.parts is not None and status.code == "OK" and self._requests.check is not None:
            self._requests.check(call.number, b"".join(call.parts))
        self.measured[call.segment].add(status, connection.now - call.started, connection.now)
        if self._waiting[connection.slot]:
            self._send(connection.slot, connection.now)

    def _calls(self, start: float) -> Iterator[_Call]:
        order, deadline = self._order, self._offer.deadline
        for n, (due, segment) in enumerate(arrivals(self._offer, start)):
            looked_at = self._requests.check is not None and n % CHECKED == 0
            yield _Call(order[n % len(order)], due, due + deadline, segment, looked_at)

    def _send_due(self, following: _Call | None, calls: Iterator[_Call], now: float) -> _Call | None:
        """Send all that should have been sent by now; the next that should be."""
        touched: set[int] = set()
        while following is not None and following.started <= now:
            measured = self.measured[following.segment]
            slot = measured.offered % self._offer.connections
            measured.offered += 1
            measured.lags.append(now - following.started)
            self._waiting[slot].append(following)
            touched.add(slot)
            following = next(calls, None)
        for slot in touched:
            self._send(slot, now)
            self.loop.connection(slot).flush()
        return following

    def _send(self, slot: int, now: float) -> None:
        """Of what waits for a connection, send as much as it has room for."""
        waiting = self._waiting[slot]
        connection = self.loop.connection(slot)
        path, messages = self._requests.path, self._requests.messages
        while waiting and connection.has_room and now >= self._held[slot]:
            call = waiting.pop()
            timeout_ms = int((call.late - now) * 1000)
            if timeout_ms < 1:
                self.measured[call.segment].add(LATE, 0.0)
                continue
            connection.request(self.loop.head(path, timeout_ms), messages[call.number], call)

    def _give_up(self, segment: int) -> None:
        """The clients of a segment go, and with them what they have not been able to send."""
        for slot, waiting in enumerate(self._waiting):
            self._waiting[slot] = deque(call for call in waiting if call.segment != segment)
            self.measured[segment].given_up += len(waiting) - len(self._waiting[slot])

    def _expire(self, now: float) -> None:
        """Give up what is late, as gRPC's clients do."""
        for waiting in self._waiting:
            while waiting and waiting[0].late <= now:
                self.measured[waiting.popleft().segment].add(LATE, 0.0)
        for connection in self.loop.open_connections():
            late = [each for each in connection.calls.items() if _late(each[1]) <= now]
            for stream, call in late:
                connection.cancel(stream)
                self.finished(connection, call, LATE)
            if self._waiting[connection.slot]:
                self._send(connection.slot, now)
            connection.flush()

    def _is_busy(self) -> bool:
        return any(self._waiting) or any(each.calls for each in self.loop.open_connections())


def _late(call: Call) -> float:
    assert isinstance(call, _Call)
    return call.late
