"""Fair shares for clients: of what can be held, of refusals and of heavy work (of time: `fair_queue.py`).

A client is an address, and of IPv6 the first 64 bits of one.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import grpc

from twinspire.serving.address import client_of
from twinspire.serving.gateway.failures import CLOSE, HttpFailure
from twinspire.serving.rate_limit import RateLimit

REMEMBERED = 4096  # addresses whose clients are remembered
SAVED_SECONDS = 10  # for which a client saves up refusals
REFUSED_BYTES = 64 << 10  # of a refused body that count as one request
SWITCH_SECONDS = 1e-3  # for which the event loop waits for the interpreter while a thread does heavy work

Result = TypeVar("Result")

cached_client_of = lru_cache(REMEMBERED)(client_of)


def client_in(scope: Any) -> str:
    """The client of a request of ASGI."""
    client = scope.get("client")
    return cached_client_of(client[0]) if client else ""


class FairShare:
    """Units that clients hold, such as requests or bytes, up to a number.

    A client may hold as many units as are free, and no more (dynamic thresholds; Choudhury and Hahne,
    "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998). So one client gets half of
    them, n clients that want more get 1 / (n + 1) each, and as much is always free for the next one.

    Args:
        most: units at once.
        units: their name, for a failure.
        flag: that sets their number.
        headers: of a failure.

    Attributes:
        held: units now.
    """

    def __init__(
        self, most: int, units: str = "", flag: str = "", headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.most, self.held = most, 0
        self._units, self._flag, self._headers = units, flag, headers
        self._of: Counter[str] = Counter()

    def has_room(self, client: str, count: int = 1) -> bool:
        """Whether a client may hold this many units more."""
        return self._of[client] + count <= self.most - self.held

    def of(self, client: str) -> int:
        """Units that a client holds."""
        return self._of[client]

    def take(self, client: str, count: int = 1) -> None:
        """Hold units, for which there is room."""
        self.held += count
        self._of[client] += count

    def give_back(self, client: str, count: int = 1) -> None:
        """Hold units no longer."""
        self.held -= count
        self._of[client] -= count
        if not self._of[client]:
            del self._of[client]

    @contextmanager
    def hold(self, client: str, count: int = 1) -> Iterator[None]:
        """Hold units while the block lasts.

        Raises:
            HttpFailure: there is no room for them.
        """
        if not self.has_room(client, count):
            held = f"{self.of(client)} of {self.most}"
            text = f"this client has its share of the {self._units}: {held} ({self._flag})"
            headers = {**self._headers, "retry-after": "1"}
            raise HttpFailure(grpc.StatusCode.UNAVAILABLE, text, headers=headers)
        self.take(client, count)
        try:
            yield
        finally:
            self.give_back(client, count)


class FairPlaces:
    """Places that clients take for a while, in fair shares; those for whom there is none wait for one.

    A place that is given back goes to the waiting client that has fewest, so a client with fewer places than
    others waits for none of those that wait with it.

    Args:
        most: places.
    """

    def __init__(self, most: int) -> None:
        self._share = FairShare(most)
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def take(self, client: str) -> asyncio.Future[None]:
        """A future that is done when the client has a place; it may be cancelled before.

        If it is done and not cancelled, `give_back` has to follow.
        """
        future = asyncio.get_running_loop().create_future()
        if client not in self._waiting and self._share.has_room(client):
            self._share.take(client)
            future.set_result(None)
        else:
            self._waiting.setdefault(client, deque()).append(future)
            future.add_done_callback(lambda ended: self._forget(client, ended) if ended.cancelled() else None)
        return future

    def give_back(self, client: str) -> None:
        """A client has a place no longer."""
        self._share.give_back(client)
        while self._waiting:
            first = min(self._waiting, key=self._share.of)
            if not self._share.has_room(first):
                return
            waiting = self._waiting[first]
            future = waiting.popleft()
            if not waiting:
                del self._waiting[first]
            if not future.done():
                self._share.take(first)
                future.set_result(None)

    def _forget(self, client: str, future: "asyncio.Future[None]") -> None:
        """Let a future that was cancelled wait no longer."""
        waiting = self._waiting.get(client)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[client]


class Refusals:
    """Answers 429 to a client that sends too many invalid requests, which the service's rate limit misses.

    Args:
        per_second: refused requests of one client; each `REFUSED_BYTES` of a body count as one more.
    """

    def __init__(self, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = RateLimit(per_second, per_second * SAVED_SECONDS, clock=clock)

    def check(self, client: str) -> None:
        """Refuse every request of a client with too many refused ones.

        Raises:
            Failure: it has had too many.
        """
        wait = self._rate.wait(client)
        if wait > 0:
            message = (
                f"too many invalid requests of this client: expected at most {self._rate.per_second} a "
                f"second, of which each {REFUSED_BYTES >> 10} KiB count as one (--refused-per-second)"
            )
            headers = CLOSE | {"retry-after": str(int(wait) + 1)}
            raise HttpFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, message, headers=headers)

    def charge(self, client: str, size: int) -> None:
        """Count a refused request.

        Args:
            client: whose request it was.
            size: bytes that have arrived of it.
        """
        self._rate.charge(client, 1 + size / REFUSED_BYTES)


class HeavyWork:
    """One thread for what would hold the event loop for long: parsing large bodies, writing large answers.

    It does one piece of work at a time, and each client has at most one piece in its line.

    The thread shares the interpreter with the event loop, which gets it back within `SWITCH_SECONDS` where
    the process has set that (`sys.setswitchinterval`). A second thread would take as much from it again.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "heavy-work")
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self, client: str, function: Callable[..., Result], *given: object) -> Result:
        """What a function returns or raises, which is called on the thread when it is the client's turn."""
        turn = self._turns.setdefault(client, asyncio.Lock())
        async with turn:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *given)

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
