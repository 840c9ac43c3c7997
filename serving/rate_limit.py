"""A rate limit for each client, counted over all workers of a service.

    limit = RateLimit(per_second=100, burst=200)  # before the fork
    limit.admit("search-frontend", cost=32)              # in any worker; raises RateLimited
    limit.charge("search-frontend", cost=3)              # work that was not known before; never refused

The generic cell rate algorithm (ITU-T I.371, annex A): the state of a client is one number, the time at which
it will have paid for all its requests. This is a leaky bucket that needs no thread, queue or clean-up.
"""

import hashlib
import math
import mmap
import secrets
import time
from collections.abc import Callable

from twinspire.protos.errors import RateLimited

SLOTS = 1 << 16  # 512 KiB; with 1,000 clients a client shares its slot with probability 1.5 %
ITEMS_PER_TOKEN = 20
SLACK_SECONDS = 1e-6  # far above rounding errors, far below what a client could exploit


def tokens(queries: int, items: int) -> int:
    """The cost of a request: 1 token a query, and 1 more for each `ITEMS_PER_TOKEN` items of a query.

    A search for 1,000 items takes 50 to 100 times as long as one for 10.

    Args:
        queries: in the request, at least 1.
        items: wanted and excluded over all queries, and the number that costs as much as the filters.
    """
    return queries * (1 + items // (ITEMS_PER_TOKEN * queries))


class RateLimit:
    """A limit for each client, shared with the processes that are forked after this.

    Memory does not grow with the number of clients: a client's slot is a keyed hash of its name, and clients
    of one slot share one allowance. Without the key a client cannot choose a name that hits another client's
    slot.

    There is no lock, because a killed worker that held it would block all others. A process computes the new
    value, and stores it only if the slot has not changed meanwhile. Only between this last check and the
    store, about 0.1 us, another process may store its value; its count is then lost, and that call is free:
    fewer than one in a thousand of a client's thousands of calls a second. If the kernel preempts a process
    at that point, its store undoes what others have counted meanwhile: at most burst + per_second * the
    length of that pause.

    Args:
        per_second: tokens that a client may spend in the long run.
        burst: tokens that it may spend at once after a pause.
        slots: number of slots, of 8 bytes each.
        clock: gives seconds, the same in all processes, as CLOCK_MONOTONIC does.

    Raises:
        ValueError: `per_second` is not a positive number, or another number is below 1.
    """

    def __init__(
        self,
        per_second: float,
        burst: float,
        slots: int = SLOTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < per_second < math.inf:
            raise ValueError(f"per_second: expected more than 0, got {per_second}")
        for name, number in (("burst", burst), ("slots", slots)):
            if number < 1:
                raise ValueError(f"{name}: expected at least 1, got {number}")
        self.per_second = per_second
        self._interval = 1 / per_second
        self._burst = burst
        # By slot: when all requests will be paid for, in seconds of the clock.
        self._paid = memoryview(mmap.mmap(-1, 8 * slots)).cast("d")
        self._clock = clock
        self._key = secrets.token_bytes(16)

    def admit(self, client: str, cost: int = 1) -> None:
        """Count a request, or refuse it without counting it.

        A request that costs more than the burst is admitted when the whole burst is available, and is counted
        in full: the client then waits until it has paid. So in any t seconds a client gets at most max(burst,
        the largest cost) + per_second * t tokens, and what `charge` has counted for these requests.

        Args:
            client: name of the client.
            cost: tokens of the request.

        Raises:
            RateLimited: the client sends too many requests; this one will be admitted after the error's
                `retry_after`, if the client sends nothing else until then.
            ValueError: the cost is below 1.
        """
        if cost < 1:
            raise ValueError(f"cost: expected at least 1, got {cost}")
        slot, spared = self._slot(client), (self._burst - min(cost, self._burst)) * self._interval
        while True:
            seen, now = self._paid[slot], self._clock()
            start = max(seen, now)
            wait, then = start - now - spared, start + cost * self._interval
            if wait > SLACK_SECONDS:
                raise RateLimited("this client sends too many requests", wait)
            if self._paid[slot] == seen:
                self._paid[slot] = then
                return

    def wait(self, client: str) -> float:
        """Seconds until a client has paid for all but the burst, at most 0 if it has; counts nothing."""
        return self._paid[self._slot(client)] - self._clock() - self._burst * self._interval

    def charge(self, client: str, cost: float) -> None:
        """Count work of a client that is not refused; its next request waits.

        Args:
            client: name of the client.
            cost: tokens beyond those that `admit` has counted.
        """
        slot = self._slot(client)
        while True:
            seen = self._paid[slot]
            then = max(seen, self._clock()) + cost * self._interval
            if self._paid[slot] == seen:
                self._paid[slot] = then
                return

    def _slot(self, client: str) -> int:
        digest = hashlib.blake2b(client.encode(errors="replace"), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little") % len(self._paid)
