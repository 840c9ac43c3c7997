"""How sure a time or a ratio is: a bootstrap over turns.

Calls of one turn share what the machine was doing then, so turns are drawn whole, and the same ones for all
contenders that took them side by side (Efron 1979, percentile method; Künsch 1989 on blocks).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protos.turns import Times

DRAWS = 1000


@dataclass(frozen=True)
class Figure:
    """What was measured, with its 95 % interval.

    Args:
        value: of what was measured itself; it lies in the interval.
        low, high: ends of the interval.
    """

    value: float
    low: float
    high: float

    def apart(self, other: "Figure") -> bool:
        """Whether the two differ by more than both intervals allow."""
        return self.low > other.high or self.high < other.low


def percentile(times: Times, percent: float, seed: int) -> Figure:
    """A percentile of a contender's calls, in the unit of `times` (turns, calls)."""
    return _figure(float(np.percentile(times, percent)), _drawn(times, percent, seed))


def ratio(over: Sequence[Times], under: Sequence[Times], seed: int) -> Figure:
    """Sum of the medians of some contenders, over that of others.

    Args:
        over, under: (turns, calls) each, with as many turns, taken side by side.
    """
    value = sum(np.median(each) for each in over) / sum(np.median(each) for each in under)
    above, below = (sum(_drawn(each, 50, seed) for each in sides) for sides in (over, under))
    return _figure(float(value), np.asarray(above / below))


def _drawn(times: Times, percent: float, seed: int) -> Times:
    """The percentile of all calls in each draw of turns; equal seeds draw equal turns."""
    turns = np.random.default_rng(seed).integers(0, len(times), (DRAWS, len(times)))
    return np.asarray(np.percentile(times[turns].reshape(DRAWS, -1), percent, axis=1))


def _figure(value: float, drawn: Times) -> Figure:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Figure(value, min(value, float(low)), max(value, float(high)))
