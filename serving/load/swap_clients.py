"""Clients that ask one request after the other while bundles are swapped, and look at every answer."""

import random
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from protos import retrieval_pb2 as wire
from protos.errors import Unavailable
from serving.load import frames
from serving.load.closed_loop import TIMEOUT_MS
from serving.load.connection import Call, Connection
from serving.load.content import PATH
from serving.load.frames import Status
from serving.load.loop import Loop
from serving.load.measured import Requests
from serving.load.versions import MIXED, PREFIX, Versions

INFO = -1  # in the place of a query's number
PAUSE = 0.1  # seconds before a client connects again to a server that does not take its connection
PATIENCE = 20.0  # seconds without any answer after which the server is gone


@dataclass
class Seen:
    """What came back: a place in each array for each right answer, times on the clock of `perf_counter`.

    Args:
        ends: when it came.
        latencies: seconds that it took.
        versions: place of the version that answered.
        failed: calls that ended otherwise than well, and connections that were not to be had, by their text.
        requests: calls that have ended, however they did.
    """

    ends: "array[float]" = field(default_factory=lambda: array("d"))
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    versions: "array[int]" = field(default_factory=lambda: array("b"))
    failed: Counter[str] = field(default_factory=Counter)
    requests: int = 0


class Clients:
    """All clients, and one more connection that asks for `Info`.

    Args:
        requests: a search of each query.
        versions: looks at the answers.
        clients: each a connection of its own, with one call on its way.
        pause: seconds before a client that was answered asks again.
        seed: of the orders in which they ask.

    Attributes:
        loop: that they run in; set it before anything else.
        seen: what came back.
        latest: the place of the version that answered each client last.
        info: what `Info` said last; None where it was not asked, or did not answer.
        asking: `Info` is being asked.
    """

    loop: Loop

    def __init__(
        self, requests: Requests, versions: Versions, clients: int, pause: float = 0.0, seed: int = 0
    ) -> None:
        self.seen = Seen()
        self.latest = [MIXED] * clients
        self.info: wire.InfoResponse | None = None
        self.asking = False
        self._requests, self._versions, self._pause = requests, versions, pause
        numbers = range(len(requests.messages))
        self._orders = [random.Random(seed * 1009 + n).sample(numbers, len(numbers)) for n in range(clients)]
        self._asked = [0] * clients
        self._parts: list[list[bytes]] = [[] for _ in range(clients + 1)]
        self._due: deque[tuple[float, int]] = deque()
        self._stopped = False
        self._heard = time.perf_counter()

    def start(self) -> None:
        """All clients ask."""
        self._heard = time.perf_counter()
        for slot in range(len(self.latest)):
            self._ask(slot)

    def stop(self) -> None:
        """Ask no more, and wait for what is on its way."""
        self._stopped = True
        self.loop.drain()
        left = sum(len(each.calls) for each in self.loop.open_connections())
        if left:
            self._fail("not answered when all was over", left)

    def turn(self, seconds: float) -> None:
        """Deal with what has come, and wait so long for it.

        Raises:
            Unavailable: nothing has come for a long time.
        """
        now = time.perf_counter()
        while self._due and self._due[0][0] <= now:
            self._ask(self._due.popleft()[1])
        if self._due:
            seconds = min(seconds, max(0.0, self._due[0][0] - now))
        self.loop.turn(seconds)
        if now - self._heard > PATIENCE:
            raise Unavailable(f"the service has not answered for {PATIENCE:g} s: {self.failures()}")

    def ask_info(self) -> None:
        """Ask for `Info`, which will be in `info`."""
        self.info = None
        self.asking = self._send(len(self.latest), INFO, f"{PATH}Info", frames.message(b""))

    def failures(self) -> str:
        """What went wrong, in short."""
        return ", ".join(f"{count} x {text}" for text, count in self.seen.failed.most_common(3)) or "nothing"

    def finished(self, connection: Connection, call: Call, status: Status) -> None:
        """Note what came back, and ask again."""
        parts = self._parts[connection.slot]
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        if status.code == "OK":
            self._heard = connection.now
        if call.number == INFO:
            self.asking = False
            if status.code == "OK":
                self.info = wire.InfoResponse.FromString(body[PREFIX:])
            else:
                self._fail(f"Info: {status.code}: {status.message}")
            return
        seen = self.seen
        seen.requests += 1
        if status.code == "OK":
            version = self.latest[connection.slot] = self._versions.of(call.number, body)
            if version != MIXED:
                seen.ends.append(connection.now)
                seen.latencies.append(connection.now - call.started)
                seen.versions.append(version)
        else:
            self._fail(f"{status.code}: {status.message}")
        if self._stopped:
            return
        if self._pause:
            self._due.append((connection.now + self._pause, connection.slot))
        else:
            self._ask(connection.slot)

    def _ask(self, slot: int) -> None:
        order, asked = self._orders[slot], self._asked[slot]
        self._asked[slot] = asked + 1
        number = order[asked % len(order)]
        if not self._send(slot, number, self._requests.path, self._requests.messages[number]):
            self._due.append((time.perf_counter() + max(PAUSE, self._pause), slot))

    def _send(self, slot: int, number: int, path: str, message: bytes) -> bool:
        """Begin a call; whether there is a connection for it."""
        try:
            connection = self.loop.connection(slot)
        except Unavailable as error:
            self._fail(str(error))
            return False
        reader: Callable[[bytes], None] = self._parts[slot].append
        connection.request(
            self.loop.head(path, TIMEOUT_MS), message, Call(number, time.perf_counter(), reader)
        )
        connection.flush()
        return True

    def _fail(self, text: str, count: int = 1) -> None:
        self.seen.failed[text] += count
