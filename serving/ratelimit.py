"""How often one client may ask, counted once for all workers of a service.

    limit = RateLimit.create(per_second=100, burst=200)  # before the fork
    limit.admit("search-frontend", cost=32)              # in any worker; raises RateLimited

The generic cell rate algorithm (ITU-T I.371, annex A): a client is one number, the time at which it
will have paid for all that it was given. That is a leaky bucket without anything that leaks, and so
without a thread, a queue or a clean-up.
"""

import hashlib
import math
import mmap
import secrets
import time
from collections.abc import Callable

from protos.errors import RateLimited

SLOTS = 1 << 16  # 512 KiB; a client shares its slot with one of 1,000 others at about 1.5 %
ITEMS_PER_TOKEN = 20
SLACK_SECONDS = 1e-6  # far above what doubles round off a clock, far below what a client could use


def tokens(queries: int, items: int) -> int:
    """What a request costs: 1 token a query, and 1 more for each `ITEMS_PER_TOKEN` items of a query.

    A search for 1,000 items takes 50 to 100 times as long as one for 10.

    Args:
        queries: in the request.
        items: that their searches look for in all: those wanted and those excluded.
    """
    return queries * (1 + items // (ITEMS_PER_TOKEN * queries))


class RateLimit:
    """A limit for each client; `create` makes one that forked processes share.

    Memory does not grow with clients: a client's slot is a keyed hash of its name, and clients of one
    slot share one allowance. Nobody can choose names to hit another's slot without the key.

    There is no lock: one that a killed worker held would hold up all others. What a call stores is
    worked out first, and is stored only if nobody else has stored anything since; another process can
    come in between that last look and the store alone, about 0.1 us. Its count is then lost, and the
    client has been given that call for nothing: of a client's thousands of calls a second, fewer than
    one in a thousand. A process that the system sets aside at that very point takes back what others
    have counted until it goes on: at most burst + per_second * the length of that pause.

    Args:
        per_second: tokens that a client may spend in the long run.
        burst: tokens that it may spend at once after a pause.
        table: of float64, all zero, one for each slot.
        clock: seconds, the same for all processes; CLOCK_MONOTONIC is.
    """

    def __init__(
        self,
        per_second: float,
        burst: int,
        table: "memoryview[float]",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < per_second < math.inf:
            raise ValueError(f"per_second: expected more than 0, got {per_second}")
        if burst < 1:
            raise ValueError(f"burst: expected at least 1, got {burst}")
        self.per_second = per_second
        self._interval = 1 / per_second
        self._burst = burst
        self._paid = table  # by slot: when what was given is paid for, in seconds of the clock
        self._clock = clock
        self._key = secrets.token_bytes(16)

    @classmethod
    def create(cls, per_second: float, burst: int, slots: int = SLOTS) -> "RateLimit":
        """A limit whose table is shared with the processes that are forked after this.

        Args:
            per_second: tokens that a client may spend in the long run.
            burst: tokens that it may spend at once after a pause.
            slots: clients that can be told apart, less collisions; eight bytes each.

        Raises:
            ValueError: an argument is out of its range.
        """
        if slots < 1:
            raise ValueError(f"slots: expected at least 1, got {slots}")
        return cls(per_second, burst, memoryview(mmap.mmap(-1, 8 * slots)).cast("d"))

    def admit(self, client: str, cost: int = 1) -> None:
        """Count a request, or refuse it without counting it.

        A request that costs more than the burst is let through when the whole burst is there, and is
        counted in full: the client then waits until it has paid. In any t seconds a client therefore
        gets at most max(burst, the largest cost) + per_second * t.

        Args:
            client: who is asking.
            cost: tokens of the request.

        Raises:
            RateLimited: it has asked too often; the error's `retry_after` is when this request will
                be let through, if the client sends nothing else until then.
            ValueError: the cost is below 1.
        """
        if cost < 1:
            raise ValueError(f"cost: expected at least 1, got {cost}")
        digest = hashlib.blake2b(client.encode(errors="replace"), digest_size=8, key=self._key).digest()
        slot = int.from_bytes(digest, "little") % len(self._paid)
        spared = (self._burst - min(cost, self._burst)) * self._interval
        while True:
            seen, now = self._paid[slot], self._clock()
            start = max(seen, now)
            wait, then = start - now - spared, start + cost * self._interval
            if wait > SLACK_SECONDS:
                raise RateLimited("this client asks more often than it may", wait)
            if self._paid[slot] == seen:
                self._paid[slot] = then
                return
