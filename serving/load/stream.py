"""One stream of requests, so many of them on their way at once: closed loop over `SearchStream`."""

import random
import time
from collections import deque
from collections.abc import Callable

from serving.load.connection import Call, Connection
from serving.load.frames import Status
from serving.load.loop import Loop
from serving.load.measured import CHECKED, Measured, Requests

TIMEOUT_MS = 3_600_000


def run(
    address: str, requests: Requests, in_flight: int, seconds: float, warm_up: float = 0.5, seed: int = 0
) -> Measured:
    """As `closed_loop.run`, over one stream with so many requests on their way.

    A stream that ends before its time counts as one call with that code.

    Raises:
        Unavailable: the server is gone.
    """
    asker = _Asker(requests, in_flight, seconds, seed)
    with Loop(address, 1, asker.finished) as loop:
        asker.start = time.perf_counter() + warm_up
        asker.stop = asker.start + seconds
        asker.begin(loop.connection(0), loop.head(requests.path, TIMEOUT_MS))
        while (now := time.perf_counter()) < asker.stop and not asker.is_over:
            loop.turn(min(0.1, asker.stop - now))
        asker.end()
        loop.drain()
    return asker.measured


class Messages:
    """Bytes of an answer, put together to messages.

    Args:
        take: gets each, as gRPC writes it.
    """

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """More bytes have come."""
        data = self._rest + data if self._rest else data
        position = 0
        while len(data) - position >= 5:
            end = position + 5 + int.from_bytes(data[position + 1 : position + 5])
            if end > len(data):
                break
            self._take(data[position:end])
            position = end
        self._rest = data[position:]


class _Asker:
    """Sends a request for each answer."""

    start = stop = 0.0
    is_over = False

    def __init__(self, requests: Requests, in_flight: int, seconds: float, seed: int) -> None:
        self.measured = Measured(seconds)
        self._requests = requests
        self._width = in_flight
        numbers = range(len(requests.messages))
        self._order = random.Random(seed).sample(numbers, len(numbers))
        self._asked = 0
        self._on_their_way: deque[tuple[int, float, bool]] = deque()  # number, started, is it looked at

    def begin(self, connection: Connection, head: bytes) -> None:
        """Open the stream and fill it."""
        self._connection = connection
        call = Call(0, time.perf_counter(), Messages(self._answered).feed)
        self._stream = connection.open(head, call)
        for _ in range(self._width):
            self._ask()
        connection.flush()

    def end(self) -> None:
        """Ask no more."""
        if not self.is_over:
            self._connection.send(self._stream, b"", last=True)
            self._connection.flush()

    def finished(self, connection: Connection, call: Call, status: Status) -> None:
        """The stream is over; it must not be before all is answered."""
        self.is_over = True
        if status.code != "OK":
            self.measured.add(status, 0.0)
        elif self._on_their_way:
            lost = f"the stream ended with {len(self._on_their_way)} requests unanswered"
            self.measured.add(Status("INTERNAL", lost), 0.0)

    def _ask(self) -> None:
        number = self._order[self._asked % len(self._order)]
        looked_at = self._requests.check is not None and self._asked % CHECKED == 0
        self._asked += 1
        self._on_their_way.append((number, time.perf_counter(), looked_at))
        self._connection.send(self._stream, self._requests.messages[number])

    def _answered(self, message: bytes) -> None:
        number, started, looked_at = self._on_their_way.popleft()
        now = self._connection.now
        if self.start <= now <= self.stop:
            self.measured.offered += 1
            self.measured.add(Status("OK"), now - started)
        if looked_at and self._requests.check is not None:
            self._requests.check(number, message)
        if now < self.stop:
            self._ask()
