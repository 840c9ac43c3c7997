"""Calls timed in short turns, so that a ratio holds where the machine's speed drifts.

Turns are long enough that no contender pays for another's traces in the processor's caches: the first calls
of each are not counted. They are short enough that whatever slows the machine down meets all of them.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Call = Callable[[], object]
Times = npt.NDArray[np.float64]  # microseconds, (turns, calls)

WARM_UP = 0.25  # seconds that are not counted: what is short gets faster for hundreds of calls
FIRST = 30  # calls of each that tell how long turns may be; fewer where they would take longer than a turn
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


class Taken(NamedTuple):
    """Microseconds of each counted call, (turns, calls).

    Args:
        wall: by the clock.
        cpu: that the calling thread spent on a processor meanwhile; less where others use the machine, too.
    """

    wall: Times
    cpu: Times


def take_turns(contenders: Mapping[str, Sequence[Call]], effort: Effort) -> dict[str, Taken]:
    """Time each contender's calls, one after the other and again from the first.

    Args:
        contenders: name -> calls, each on other inputs; in a turn all take those at the same places.

    Returns:
        name -> what its calls took, of the same shape for all.
    """
    warm = time.perf_counter() + WARM_UP
    slowest = max(_shortest(calls) for calls in contenders.values())
    length = max(1, min(TURN, effort.iterations // TURNS, int(TURN_SECONDS / slowest)))
    settling = SETTLING if length > SETTLING else 1

    def turns(number: int) -> Iterator[tuple[str, list[tuple[float, float]]]]:
        for name in sorted(contenders, reverse=bool(number % 2)):
            time.sleep(effort.pause)
            yield name, turn(contenders[name], number * length, length, settling)

    for number in itertools.count():
        if time.perf_counter() >= warm:
            break
        for _ in turns(number):
            pass
    taken: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in contenders}
    until = time.perf_counter() + effort.seconds
    for number in range(-(-effort.iterations // length)):
        if number * length >= effort.fewest and time.perf_counter() > until:
            break
        for name, times in turns(number):
            taken[name].append(times)
    both = {name: np.moveaxis(np.array(each), -1, 0) for name, each in taken.items()}  # (2, turns, calls)
    return {name: Taken(*each) for name, each in both.items()}


def turn(
    calls: Sequence[Call], first: int, length: int, settling: int = SETTLING
) -> list[tuple[float, float]]:
    """Microseconds by the clock and on a processor of so many calls, after some that are not counted.

    Args:
        calls: to be called one after the other, and again from the first.
        first: place of the first that counts.
    """
    return [_timed(calls[(first + n) % len(calls)]) for n in range(-settling, length)][settling:]


def _timed(call: Call) -> tuple[float, float]:
    on_cpu = time.thread_time_ns()
    begun = time.perf_counter_ns()
    call()
    taken = time.perf_counter_ns() - begun
    return taken / 1000, (time.thread_time_ns() - on_cpu) / 1000


def _shortest(calls: Sequence[Call]) -> float:
    """Seconds that the shortest of the first calls takes."""
    shortest, until = float("inf"), time.perf_counter() + TURN_SECONDS
    for n in range(FIRST):
        shortest = min(shortest, _timed(calls[n % len(calls)])[0] / 1e6)
        if n and time.perf_counter() > until:
            break
    return shortest
