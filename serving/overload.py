"""Whether more comes than can be answered: told by refusals that last.

A burst after a pause of the machine is no overload: what waits of it is answered. In an overload less may
wait (`Bounds.overload_queue`). Before it and after it, when somebody has been refused of late, what came last
goes first: what fills the queue is late already, and would make all that comes after it as late (Maurer, "Fail
at Scale", 2015: adaptive LIFO).
"""

import math
import time
from collections.abc import Callable

ONSET_SECONDS = 0.2  # of refusals that make an overload
GAP_SECONDS = 0.2  # between two of them
LASTING_SECONDS = 0.1  # that it lasts from its last refusal
CALM_BATCHES = 4  # that must have been answered since, for time passes in a pause of the machine, too
AFTERMATH_SECONDS = 1.0  # from the last refusal; without any batch an overload is over, too


class Overload:
    """Is told of refusals and of batches. For one thread.

    Args:
        clock: of seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.until = -math.inf  # if nobody else is refused
        self._clock = clock
        self._since = self._refused = -math.inf
        self._calm = 0

    @property
    def is_on(self) -> bool:
        """Whether refusals have lasted, and the last one is not long ago."""
        over_for = self._clock() - self.until
        return over_for < 0 or (over_for < AFTERMATH_SECONDS and self._calm < CALM_BATCHES)

    @property
    def newest_first(self) -> bool:
        """Whether what has come last is to be answered first."""
        return self._clock() < self._refused + AFTERMATH_SECONDS and not self.is_on

    def refused(self) -> None:
        """There was no room for one more."""
        now = self._clock()
        if now > self._refused + GAP_SECONDS:
            self._since = now
        self._refused = now
        if self.is_on or now >= self._since + ONSET_SECONDS:
            self.until, self._calm = now + LASTING_SECONDS, 0

    def answered(self) -> None:
        """A batch has been answered."""
        self._calm += 1
