"""Closed loops: each client sends its next request when the one before has been answered.

So the load never exceeds the server's capacity; `open_loop` offers more. Both count calls in `LoadResult`.
"""

import itertools
import math
import random
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tests.helpers.serving.http2 import Call, Connection, ConnectionPool, Status

CHECK_EVERY = 20  # one in this many responses is compared with the expected answer
CALL_TIMEOUT_MS = 10_000
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
    """The responses to a load; latencies in seconds."""

    seconds: float  # that were measured
    queries: int = 1  # in each call
    until: float = math.inf  # end of the measured time, on the clock of `add`
    offered: int = 0  # calls that were due
    given_up: int = 0  # calls that were never sent because their clients left first
    latencies: "array[float]" = field(default_factory=lambda: array("d"))  # answered in the measured time
    left_over: "array[float]" = field(default_factory=lambda: array("d"))  # answered after it
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
