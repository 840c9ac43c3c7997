"""Whether more comes than can be answered, or only much at once.

In an overload a long queue delays everybody and answers nobody more (Nichols and Jacobson, "Controlling Queue
Delay", 2012), so that little more than a batch may wait; the sooner it is told, the fewer wait for long. But
after a pause of the machine the queue is as long, with what should have come meanwhile. Those calls are in
arrear. They are soon answered, for no more come than before, and none of them is refused. How many they are
follows from how long no call has come, where nothing but a pause kept any from coming.
"""

import math
import time
from collections.abc import Callable

ONSET_SECONDS = 0.03  # that the queue is too long before that is an overload
GAP_SECONDS = 0.2  # for which it may be shorter meanwhile
LASTING_SECONDS = 0.1  # that an overload lasts from its last refusal
CALM_BATCHES = 4  # that must have been answered since, for time passes in a pause of the machine, too
CALM_SECONDS = 1.0  # after which it is over without as many
SILENCE_SECONDS = 0.03  # without a call, after which some are in arrear
LONGEST_SECONDS = 0.5  # of a silence that counts
ARREARS_SECONDS = 2.0  # within which those are answered, at least
DRAIN = 8  # times the silence that it takes at the most, while others come
READ_SECONDS = 0.2  # within which those are read; that the queue is short tells nothing before
RATE_SECONDS = 0.5  # over which calls are counted
SHORT = 64  # queries in a queue that holds nobody up


class Overload:
    """Is told of calls, batches and refusals. For one thread.

    Args:
        long: queries in a queue that is too long if no calls were in arrear.
        clock: of seconds.
    """

    def __init__(self, long: int = 512, clock: Callable[[], float] = time.monotonic) -> None:
        self.until = -math.inf  # if nobody else is refused
        self._long, self._clock = long, clock
        self._since = self._long_at = -math.inf  # since when, and when last, the queue was too long
        self._calm = 0
        self._called_at = self._counted_at = clock()
        self._waiting = self._calls = 0  # at the last call; since they were counted
        self._rate = 0.0  # calls a second
        self._arrears = 0.0  # calls
        self._silent_at = self._arrears_until = -math.inf  # when the last silence ended, and so the arrears

    @property
    def is_on(self) -> bool:
        """Whether more comes than can be answered."""
        if self.until < 0:  # as it is as long as there has been none
            return False
        over_for = self._clock() - self.until
        return over_for < 0 or (over_for < CALM_SECONDS and self._calm < CALM_BATCHES)

    def called(self, waiting: int) -> None:
        """A call has come in while so many queries waited."""
        now = self._clock()
        self._expect(now, waiting)
        self._waiting = waiting
        if waiting < self._long + self._arrears:
            return
        if now > self._long_at + GAP_SECONDS:
            self._since = now
        self._long_at = now
        if now >= self._since + ONSET_SECONDS:
            self.refused()

    def answered(self) -> None:
        """A batch has been answered."""
        self._calm += 1

    def refused(self) -> None:
        """There is no room for one more, and an overload lasts, or begins."""
        self.until, self._calm = self._clock() + LASTING_SECONDS, 0

    def _expect(self, now: float, waiting: int) -> None:
        """Know how many calls are in arrear."""
        if now > self._arrears_until or (now > self._silent_at + READ_SECONDS and waiting < SHORT):
            self._arrears = 0.0
        silence, self._called_at = now - self._called_at, now
        # Where more waited than was to be expected it is the queue that keeps clients from calling.
        if silence > SILENCE_SECONDS and self._waiting < SHORT + self._arrears:
            silence = min(silence, LONGEST_SECONDS)
            self._arrears += self._rate * silence
            self._silent_at = now
            drained = max(now, self._arrears_until) + DRAIN * silence
            self._arrears_until = max(now + ARREARS_SECONDS, drained)
        self._calls += 1
        counted = now - self._counted_at
        if counted >= RATE_SECONDS:
            self._rate = self._calls / counted
            self._calls, self._counted_at = 0, now
