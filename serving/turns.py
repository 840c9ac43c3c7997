"""Calls timed in short turns, so that whatever slows the machine down meets all contenders alike.

One call in a hundred is interrupted by the machine, and the 99th percentile of single calls would be that of
the interruptions. So each query is timed five times, at different moments, and the median counts: what is
left in the tail are the queries that take long.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.turns import Call, turn

TURN = 25  # counted calls of one contender before the other's turn
PASSES = 5  # calls of a query in a round, of which the median counts
WARM_UP = 50  # calls of each before the first turn
QUANTILES = 101  # evenly spaced, from the shortest to the longest


def take_turns(
    contenders: Mapping[str, Sequence[Call]], rounds: int, iterations: int
) -> dict[str, dict[str, Any]]:
    """Time each contender's calls, one after the other and again from the first.

    Args:
        contenders: name -> calls, each of another query; in each turn all take those at the same places.
        rounds: parts of equal length that the time is divided into; each has its own percentiles.
        iterations: counted calls of each contender, at least; they are filled up to whole turns.

    Returns:
        name -> `p50_us` and `p99_us` of each round, and the rounds' median `quantiles_us`.
    """
    turns = -(-iterations // (rounds * PASSES * TURN))
    for calls in contenders.values():
        for n in range(WARM_UP):
            calls[n % len(calls)]()
    taken = {name: np.empty((rounds, PASSES, turns * TURN)) for name in contenders}
    for n in range(rounds * PASSES * turns):
        round_, pass_, own = np.unravel_index(n, (rounds, PASSES, turns))
        for name in sorted(contenders, reverse=bool(n % 2)):
            first = int(round_ * turns + own) * TURN
            place = slice(own * TURN, (own + 1) * TURN)
            taken[name][round_, pass_, place] = [wall for wall, _ in turn(contenders[name], first, TURN)]
    return {name: _summary(np.median(each, axis=1)) for name, each in taken.items()}


def _summary(microseconds: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Of (rounds, queries a round)."""
    quantiles = np.quantile(microseconds, np.linspace(0, 1, QUANTILES), axis=1)  # (QUANTILES, rounds)
    return {
        "p50_us": np.percentile(microseconds, 50, axis=1).tolist(),
        "p99_us": np.percentile(microseconds, 99, axis=1).tolist(),
        "quantiles_us": np.median(quantiles, axis=1).tolist(),
    }
