"""The load of a swap test: clients ask, the alias moves to and fro, and each swap has its window.

A window reaches from when the alias is told to move until every worker serves the other bundle: the last
answer of each client is from it, and `Info` says that no version is waiting to be served.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protos.errors import Unavailable
from serving.load.alias import Alias
from serving.load.loop import Loop
from serving.load.swap_clients import Clients, Seen

SLICE = 0.01  # seconds between two looks at a swap
OFTEN, SELDOM = 0.1, 1.0  # seconds between two questions whether all workers serve the other bundle
PATIENCE = 120.0  # seconds for one swap
WARM_UP = 2.0  # seconds that are not measured
LAST = 1.0  # seconds of load after a swap, at most, before the next


@dataclass
class Swap:
    """One swap; times on the clock of `perf_counter`.

    Args:
        to: place of the version that is to answer.
        asked: when the alias was told to move.
        done: when every worker served it; 0 where not yet.
    """

    to: int
    asked: float
    done: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """When the alias moves.

    Args:
        seconds: of load; more where the swaps take more.
        swaps: evenly spread over them.
        warm_up: seconds of load before those.
        first: place of the version that is served before the first swap.
    """

    seconds: float
    swaps: int
    warm_up: float = WARM_UP
    first: int = 0

    @property
    def spacing(self) -> float:
        """Seconds from one swap to the next."""
        return self.seconds / self.swaps if self.swaps else self.seconds

    @property
    def rest(self) -> float:
        """Seconds of load between two swaps, at least."""
        return min(LAST, self.spacing / 4)


@dataclass(frozen=True)
class Done:
    """What a load gave.

    Args:
        seen: every answer.
        swaps: in order.
        start: from when on answers are measured.
        stop: when the load ended.
    """

    seen: Seen
    swaps: Sequence[Swap]
    start: float
    stop: float


def run(
    address: str,
    clients: Clients,
    alias: Alias,
    versions: Sequence[str],
    schedule: Schedule,
    tick: Callable[[float], None] = lambda seconds: None,
    swapped: Callable[[], None] = lambda: None,
) -> Done:
    """Ask and swap.

    Args:
        address: of the service.
        clients: that ask.
        alias: to move.
        versions: of the bundles, in the order of their versions in the registry.
        schedule: when to move it.
        tick: called about every second with the seconds that have passed since the last time.
        swapped: called after each swap.

    Raises:
        Unavailable: the service is gone, refuses a bundle, or takes too long for it.
    """
    with Loop(address, len(clients.latest) + 1, clients.finished) as clients.loop:
        begun = time.perf_counter()
        start = told = begun + schedule.warm_up
        mover = _Mover(clients, alias, versions, schedule, start, swapped)
        clients.start()
        while True:
            now = time.perf_counter()
            mover.step(now)
            if mover.rested(now) and now >= start + schedule.seconds:
                break
            if now > told + 1:
                tick(now - told)
                told = now
            clients.turn(SLICE)
        clients.stop()
        return Done(clients.seen, mover.swaps, start, time.perf_counter())


class _Mover:
    """Moves the alias when it is time, and watches each swap until it is done."""

    def __init__(
        self,
        clients: Clients,
        alias: Alias,
        versions: Sequence[str],
        schedule: Schedule,
        start: float,
        swapped: Callable[[], None],
    ) -> None:
        self.swaps: list[Swap] = []
        self._clients, self._alias, self._versions = clients, alias, versions
        self._schedule, self._start, self._swapped = schedule, start, swapped
        self._open = self._moved = False
        self._look = self._told = 0.0

    def rested(self, now: float) -> bool:
        """Whether all swaps are done, and some load has followed the last."""
        if len(self.swaps) < self._schedule.swaps or self._open:
            return False
        return not self.swaps or now >= self.swaps[-1].done + self._schedule.rest

    def step(self, now: float) -> None:
        """What is to be done at this moment.

        Raises:
            Unavailable: the swap does not come to an end.
        """
        if now < self._look:
            return
        self._look = now + SLICE
        if not self._open:
            self._begin(now)
            return
        swap = self.swaps[-1]
        self._moved = self._moved or self._alias.moved()
        if self._moved and self._is_done(swap, now):
            swap.done, self._open = now, False
            self._swapped()
        elif now > swap.asked + PATIENCE:
            raise Unavailable(f"a swap is not over after {PATIENCE:g} s")

    def _begin(self, now: float) -> None:
        number, schedule = len(self.swaps), self._schedule
        due = self._start + schedule.spacing * (number + 0.5)
        if self.swaps:
            due = max(due, self.swaps[-1].done + schedule.rest)
        if number < schedule.swaps and now >= due:
            to = (schedule.first + number + 1) % 2
            self._alias.move(to + 1)
            self.swaps.append(Swap(to, now))
            self._open, self._moved = True, False
            self._clients.info = None

    def _is_done(self, swap: Swap, now: float) -> bool:
        """Ask `Info`, often once all clients have heard of the swap, and read what it says."""
        all_new = all(each == swap.to for each in self._clients.latest)
        if self._clients.asking:
            return False
        info = self._clients.info
        if now >= self._told + (OFTEN if all_new else SELDOM):
            self._told = now
            self._clients.ask_info()
        if info is None:
            return False
        following = info.state.following
        if following.candidate_stage == "refused":
            raise Unavailable(f"the service does not take the other bundle: {following.last_error}")
        served = info.state.bundles[0].bundle_version if info.state.bundles else ""
        return all_new and served == self._versions[swap.to] and not following.candidate
