"""Percentiles and ratios of times, with 95 % bootstrap intervals over turns.

Calls of one turn ran under the same load of the machine, so the bootstrap draws whole turns, and the same
turns for all contenders that ran side by side (Efron 1979, percentile method; Künsch 1989, blocks).
"""

from dataclasses import dataclass

import numpy as np

from twinspire.protos.system.timing import Times

DRAWS = 1000


@dataclass(frozen=True)
class Estimate:
    """A measured value with its 95 % interval.

    Args:
        value: the measurement; it lies in the interval.
        low, high: ends of the interval.
    """

    value: float
    low: float
    high: float


def percentile(times: Times, percent: float, seed: int) -> Estimate:
    """A percentile of a contender's calls (turns, calls), in the unit of `times`."""
    return _estimate(float(np.percentile(times, percent)), _bootstrap(times, percent, seed))


def ratio(over: Times, under: Times, seed: int) -> Estimate:
    """The median of one contender divided by that of another.

    Args:
        over, under: (turns, calls), measured in the same turns.
    """
    draws = _bootstrap(over, 50, seed) / _bootstrap(under, 50, seed)
    return _estimate(float(np.median(over) / np.median(under)), draws)


def _bootstrap(times: Times, percent: float, seed: int) -> Times:
    """The percentile of all calls in each draw of turns, (draws,); equal seeds draw equal turns."""
    turns = np.random.default_rng(seed).integers(0, len(times), (DRAWS, len(times)))
    return np.asarray(np.percentile(times[turns].reshape(DRAWS, -1), percent, axis=1))


def _estimate(value: float, draws: Times) -> Estimate:
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(value, min(value, float(low)), max(value, float(high)))
