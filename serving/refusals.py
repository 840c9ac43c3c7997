"""How soon a call for which there is no room is refused: at once, unless refusing would be all that is done.

Reading a call and refusing it costs about a quarter of what a search does. Under many times the load that the
service bears, refusing each at once would leave no time for answers, and whoever is refused would soon be
back. So refusing has a share of the time. Calls beyond it wait for their refusal, which is what holds their
clients back: a connection has only so many calls open (HTTP/2, RFC 9113, section 5.1.2). When the overload is
over, those that have not waited for long are answered after all, and the others hear at once that they are
not.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

SHARE = 0.04  # of the time, for refusing
IDLE_SHARE = 1.0  # the same while nothing waits for an answer
COST = 50e-6  # seconds, to read a call and to refuse it
SAVED = 0.02  # seconds of that time that a quiet service may have saved up
FRESH = 0.05  # seconds that a call may have waited and still be answered
MOST = 8192  # calls that may wait for it; memory has a bound

Call = Callable[[], None]


class Waiting(NamedTuple):
    """A call that waits for its refusal.

    Args:
        refuse: tells the client.
        answer: has it answered after all.
        expire: its deadline has passed: nobody is told, and what there is of it may go.
        late: when that is, in `time.time()`.
        since: when it came, by the clock of `Refusals`.
    """

    refuse: Call
    answer: Call
    expire: Call
    late: float
    since: float


class Refusals:
    """Who is to be refused, and how soon. For one thread.

    Args:
        clock: of seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: deque[Waiting] = deque()
        self._saved = SAVED
        self._since = clock()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, refuse: Call, answer: Call, expire: Call, late: float = math.inf) -> None:
        """Refuse a call now or later, or have it answered; arguments as of `Waiting`."""
        self._earn()
        if (self._saved >= COST and not self._waiting) or len(self._waiting) >= MOST:
            self._saved -= COST
            refuse()
        else:
            self._waiting.append(Waiting(refuse, answer, expire, late, self._since))

    def pay(self, share: float = SHARE) -> None:
        """Refuse those that have waited longest, as many as there is time for; those that are late just go.

        Args:
            share: of the time since the last look that is for that.
        """
        if not self._waiting:
            return
        self._earn(share)
        now = time.time()
        while self._waiting:
            if self._waiting[0].late <= now:
                self._waiting.popleft().expire()
            elif self._saved >= COST:
                self._saved -= COST
                self._waiting.popleft().refuse()
            else:
                break

    def settle(self, room: int) -> None:
        """There is time for all: answer as many as there is room for, of the fresh; refuse all others."""
        self._earn()
        now = time.time()
        while self._waiting:
            call = self._waiting.pop()
            if call.late <= now:
                call.expire()
            elif room > 0 and self._since - call.since <= FRESH:
                room -= 1
                call.answer()
            else:
                call.refuse()

    def _earn(self, share: float = SHARE) -> None:
        now = self._clock()
        self._saved = min(SAVED, self._saved + (now - self._since) * share)
        self._since = now
