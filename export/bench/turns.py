"""Calls timed in short turns, so that a ratio holds where the machine's speed drifts.

Turns are long enough that no contender pays for another's traces in the processor's caches: the first calls
of each are not counted. They are short enough that whatever slows the machine down meets all of them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Call = Callable[[], object]
Times = npt.NDArray[np.float64]  # microseconds, (turns, calls)

WARM_UP = 30  # calls of each before the first turn; fewer where they would take longer than a turn
TURN = 30  # counted calls of one contender before the other's turn
TURNS = 10  # at least, for a bootstrap draws whole turns
TURN_SECONDS = 0.25  # of the slowest contender
SETTLING = 3  # calls at the start of a turn that are not counted


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Args:
        iterations: counted calls of each contender; filled up to whole turns.
        fewest: counted calls of each that are made however long they take.
        seconds: after which no more than `fewest` are made.
        pause: seconds before each turn, in which the threads of the one before stop waiting for work.
    """

    iterations: int
    fewest: int
    seconds: float
    pause: float = 0.0


def take_turns(contenders: Mapping[str, Sequence[Call]], effort: Effort) -> dict[str, Times]:
    """Time each contender's calls, one after the other and again from the first.

    Args:
        contenders: name -> calls, each on other inputs; in a turn all take those at the same places.

    Returns:
        name -> microseconds (turns, calls), of the same shape for all.
    """
    slowest = max(_warmed_up(calls) for calls in contenders.values())
    length = max(1, min(TURN, effort.iterations // TURNS, int(TURN_SECONDS / slowest)))
    settling = SETTLING if length > SETTLING else 1
    taken: dict[str, list[list[float]]] = {name: [] for name in contenders}
    until = time.perf_counter() + effort.seconds
    for turn in range(-(-effort.iterations // length)):
        if turn * length >= effort.fewest and time.perf_counter() > until:
            break
        for name in sorted(contenders, reverse=bool(turn % 2)):
            time.sleep(effort.pause)
            taken[name].append(_turn(contenders[name], turn * length, length, settling))
    return {name: np.array(each) for name, each in taken.items()}


def _warmed_up(calls: Sequence[Call]) -> float:
    """Seconds that a call takes once it is warm: the shortest seen."""
    shortest, until = float("inf"), time.perf_counter() + TURN_SECONDS
    for n in range(WARM_UP):
        begun = time.perf_counter()
        calls[n % len(calls)]()
        now = time.perf_counter()
        shortest = min(shortest, now - begun)
        if n and now > until:
            break
    return shortest


def _turn(calls: Sequence[Call], first: int, length: int, settling: int) -> list[float]:
    """Microseconds of each counted call of a turn."""
    taken = []
    for n in range(-settling, length):
        call = calls[(first + n) % len(calls)]
        begun = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - begun) / 1000)
    return taken[settling:]
