"""Calls timed in short turns, so that ratios hold although the machine's speed drifts.

All contenders take turns, so whatever slows the machine down affects all of them. The first calls of a turn
are not counted: they refill the processor's caches, which the contender before has used.

`take_turns` returns what each call took. `median_of_passes` is for percentiles of queries: about one call in
a hundred is interrupted by the system, so the 99th percentile of single calls would be that of interruptions.
It times each query several times, at different moments, and returns the median. `in_rounds` is for calls of
seconds, such as the start of a process.
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

WARM_UP = 0.25  # seconds that are not counted: short calls get faster over hundreds of calls
FIRST = 30  # first calls of each contender, which decide the length of turns; fewer where they are slow
TURN = 30  # counted calls in a turn
TURNS = 10  # at least, within the time limit: the bootstrap draws whole turns
TURN_SECONDS = 0.25  # longest turn of the slowest contender
SETTLING = 3  # calls at the start of a turn that are not counted
PASSES = 5  # calls of a query of which the median counts
PASS_TURN = 25  # counted calls in a turn of a pass
PASS_WARM_UP = 50  # calls of each contender before the first pass
P99_CALLS = 1000  # fewer calls leave less than ten above the 99th percentile


@dataclass(frozen=True)
class Effort:
    """The number of calls.

    Args:
        iterations: most counted calls of each contender; filled up to whole turns.
        fewest: counted calls of each contender that are made despite the time limit.
        seconds: time limit, from the first call on, after which only `fewest` are made.
        pause: seconds before each turn, in which the threads of the contender before stop spinning.
        narrow: a share of the median: no more turns are made once half the 95 % interval of each contender's
            median is smaller, after `TURNS` turns; 0 makes all calls.
    """

    iterations: int
    fewest: int
    seconds: float
    pause: float = 0.0
    narrow: float = 0.0


class Taken(NamedTuple):
    """Microseconds of each counted call, (turns, calls).

    Args:
        wall: by the clock.
        cpu: processor time of the calling thread; less than `wall` where other processes use the machine.
    """

    wall: Times
    cpu: Times


def take_turns(contenders: Mapping[str, Sequence[Call]], effort: Effort) -> dict[str, Taken]:
    """Time each contender's calls in turns.

    Args:
        contenders: name -> calls, each on other inputs, called over and over; in a turn all contenders take
            the calls at the same places.

    Returns:
        name -> its times, of the same shape for all.
    """
    begun = time.perf_counter()
    slowest = max(_shortest_call(calls) for calls in contenders.values())
    length = max(1, min(TURN, effort.iterations // TURNS, int(TURN_SECONDS / slowest)))
    settling = min(SETTLING, length - 1)  # none before a long call, which fills the caches itself

    def turns(number: int) -> Iterator[tuple[str, list[tuple[float, float]]]]:
        for name in sorted(contenders, reverse=bool(number % 2)):
            time.sleep(effort.pause)
            yield name, turn(contenders[name], number * length, length, settling)

    for number in itertools.count():
        if time.perf_counter() >= begun + WARM_UP:
            break
        for _ in turns(number):
            pass
    taken: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in contenders}
    for number in range(-(-effort.iterations // length)):
        if number * length >= effort.fewest and time.perf_counter() > begun + effort.seconds:
            break
        if number >= TURNS and all(half_interval(each) < effort.narrow for each in taken.values()):
            break
        for name, times in turns(number):
            taken[name].append(times)
    both = {name: np.moveaxis(np.array(each), -1, 0) for name, each in taken.items()}  # (2, turns, calls)
    return {name: Taken(*each) for name, each in both.items()}


def median_of_passes(contenders: Mapping[str, Sequence[Call]], rounds: int, queries: int) -> dict[str, Times]:
    """Time each contender's queries several times, and take the median of each query.

    Args:
        contenders: name -> calls, one per query; in a turn all take those at the same places.
        rounds: equal parts, each with queries of its own.
        queries: in a round; filled up to whole turns.

    Returns:
        name -> microseconds by the clock, (rounds, queries).
    """
    turns = -(-queries // PASS_TURN)
    for calls in contenders.values():
        for n in range(PASS_WARM_UP):
            calls[n % len(calls)]()
    taken = {name: np.empty((rounds, PASSES, turns * PASS_TURN)) for name in contenders}
    for n in range(rounds * PASSES * turns):
        round_, pass_, own = np.unravel_index(n, (rounds, PASSES, turns))
        for name in sorted(contenders, reverse=bool(n % 2)):
            first = int(round_ * turns + own) * PASS_TURN
            place = slice(own * PASS_TURN, (own + 1) * PASS_TURN)
            times = turn(contenders[name], first, PASS_TURN)
            taken[name][round_, pass_, place] = [wall for wall, _ in times]
    return {name: np.asarray(np.median(each, axis=1)) for name, each in taken.items()}


def in_rounds(contenders: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Time long calls once in each round, every other one in reverse order; a round before is not counted.

    Returns:
        name -> seconds of each round.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name in sorted(contenders, reverse=number > 0 and number % 2 == 0):
            begun = time.perf_counter()
            contenders[name]()
            taken[name].append(time.perf_counter() - begun)
    return {name: seconds[1:] for name, seconds in taken.items()}


def p99_remark(calls: Mapping[str, int]) -> str:
    """A remark on 99th percentiles that few calls decide; empty if there are none.

    Args:
        calls: what was timed -> number of calls.
    """
    few = [f"{name} ({count:,})" for name, count in calls.items() if count < P99_CALLS]
    text = f"p99 is uncertain where fewer than {P99_CALLS:,} calls were timed: "
    return text + ", ".join(few) if few else ""


def turn(
    calls: Sequence[Call], first: int, length: int, settling: int = SETTLING
) -> list[tuple[float, float]]:
    """Time one turn.

    Args:
        calls: called over and over.
        first: place of the first counted call.
        length: counted calls.
        settling: calls before those that are not counted.

    Returns:
        microseconds of each call by the clock and on a processor.
    """
    return [_timed(calls[(first + n) % len(calls)]) for n in range(-settling, length)][settling:]


def half_interval(turns: Sequence[Sequence[tuple[float, float]]]) -> float:
    """Half the 95 % interval of the median by the clock, over the median, by the medians of the turns."""
    medians = np.median(np.array(turns)[..., 0], axis=1)
    return float(1.96 * medians.std(ddof=1) / np.sqrt(len(medians)) / np.median(medians))


def _timed(call: Call) -> tuple[float, float]:
    on_cpu = time.thread_time_ns()
    begun = time.perf_counter_ns()
    call()
    taken = time.perf_counter_ns() - begun
    return taken / 1000, (time.thread_time_ns() - on_cpu) / 1000


def _shortest_call(calls: Sequence[Call]) -> float:
    """Seconds of the shortest of the first calls."""
    shortest, until = float("inf"), time.perf_counter() + TURN_SECONDS
    for n in range(FIRST):
        shortest = min(shortest, _timed(calls[n % len(calls)])[0] / 1e6)
        if n and time.perf_counter() > until:
            break
    return shortest
