"""How soon a call for which there is no room is refused: at once, unless refusing would be all that is done.

Reading a call and refusing it costs about a quarter of what a search does. Under many times the load that the
service bears, refusing each at once would leave no time for answers, and whoever is refused would soon be
back. So refusing has a share of the time. Calls beyond it wait for their refusal, which is what holds their
clients back: a connection has only so many calls open (HTTP/2, RFC 9113, section 5.1.2). When the overload is
over, those that have not waited for long are answered after all, and the others hear at once that they are
not.
"""

import time
from collections import deque
from collections.abc import Callable

SHARE = 0.04  # of the time, for refusing
IDLE_SHARE = 1.0  # the same while nothing waits for an answer
COST = 50e-6  # seconds, to read a call and to refuse it
SAVED = 0.02  # seconds of that time that a quiet service may have saved up
FRESH = 0.05  # seconds that a call may have waited and still be answered
MOST = 8192  # calls that may wait for it; memory has a bound


class Refusals:
    """Who is to be refused, and how soon. For one thread.

    Args:
        clock: of seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: deque[tuple[float, Callable[[], None], Callable[[], None]]] = deque()
        self._saved = SAVED
        self._since = clock()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, refuse: Callable[[], None], answer: Callable[[], None]) -> None:
        """Refuse a call by calling `refuse`, now or later, or have it answered by calling `answer`."""
        self._earn()
        if (self._saved >= COST and not self._waiting) or len(self._waiting) >= MOST:
            self._saved -= COST
            refuse()
        else:
            self._waiting.append((self._since, refuse, answer))

    def pay(self, share: float = SHARE) -> None:
        """Refuse those that have waited longest, as many as there is time for.

        Args:
            share: of the time since the last look that is for that.
        """
        if not self._waiting:
            return
        self._earn(share)
        while self._waiting and self._saved >= COST:
            self._saved -= COST
            _, refuse, _ = self._waiting.popleft()
            refuse()

    def settle(self, room: int) -> None:
        """There is time for all: answer as many as there is room for, of the fresh; refuse all others."""
        self._earn()
        while self._waiting:
            since, refuse, answer = self._waiting.pop()
            if room > 0 and self._since - since <= FRESH:
                room -= 1
                answer()
            else:
                refuse()

    def _earn(self, share: float = SHARE) -> None:
        now = self._clock()
        self._saved = min(SAVED, self._saved + (now - self._since) * share)
        self._since = now
