"""The follower: the process that serves whatever an alias of the registry names.

    Role("follower", follower(plan.follow, board, plan.workers, plan.item_tower))

At every poll it asks the registry what the alias names. If that is another version than the one that is
served, it is fetched (`cache.py`), tried in a process of its own (`trial.py`), and told to the workers
(`target.py`), each of which loads it beside the old one and changes over. Whatever goes wrong on the way, the
champion stays: the version is refused, and tried again after a while that doubles from the poll's interval
up to five minutes. Another version is tried at once. A registry that does not answer is asked again after a
while that doubles likewise, up to a minute or eight times the interval. All of it can be read in the board's
note `following`, with the same of the canary and the shadow under their names.

A canary and a shadow follow their own alias in the same way, and where that fails there is none.
"""

import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from protos import bundle, drafts
from serving.board import Board
from serving.following import memory
from serving.following.cache import Cache, last_served
from serving.following.registry import Registry
from serving.following.registry_process import RegistryProcess
from serving.following.shadow_log import ShadowLog
from serving.following.target import Bundle, Clock, Workers, bundle_at
from serving.following.track import Place, Track
from serving.following.trial import Tried, try_bundle
from serving.plan import Follow
from serving.releases import FOLLOWING
from serving.workers import Lifeline

log = logging.getLogger(__name__)

SHADOW_TARGET = "shadow target"
LONGEST_SILENCE = 60.0  # seconds before a registry that does not answer is asked again, or
SILENT_POLLS = 8  # times what lies between two looks otherwise, where that is less
JITTER = 0.1  # of the interval, so that many servers do not ask at once
NICE = 10  # verifying a download shall take no time from who answers
LAST_PATIENCE = (
    8.0  # seconds for the registry when the service stops: MLflow may have to be imported once more
)


def follower(
    follow: Follow, board: Board, workers: int, item_tower: bool = False
) -> Callable[[Lifeline], None]:
    """What the follower's process does, from start to stop.

    Args:
        follow: what to follow.
        board: with the notes `target`, `following` and those of the workers, and `shadow target` and `shadow`
            where there is a shadow.
        workers: processes that answer.
        item_tower: the item tower is offered.
    """

    def run(lifeline: Lifeline) -> None:
        lifeline.ready()
        stop = threading.Event()

        def await_end() -> None:
            lifeline.wait()
            stop.set()

        threading.Thread(target=await_end, name="lifeline", daemon=True).start()
        os.nice(NICE)
        clock = Clock(stop)
        with RegistryProcess(stop) as registry:
            attempt = trial(follow, item_tower, stop)
            own = Follower(follow, board, Cache(follow.cache, owns=True), registry, attempt, clock, workers)
            own.begin()
            while not stop.is_set():
                clock.pause(own.step())
            registry.hurry(LAST_PATIENCE)
            own.end()

    return run


def trial(follow: Follow, item_tower: bool, stop: threading.Event) -> Callable[[Path, int], float]:
    """How a bundle is tried for as many processes: for room, then for its answers; gives seconds to load.

    A bundle that passes leaves its catalogue in the cache, made ready for the workers. It is not tried again:
    to go back to what was served before takes no longer than to load it.
    """
    cache = Cache(follow.cache)
    passed: dict[str, Tried] = {}

    def attempt(folder: Path, copies: int) -> float:
        manifest = bundle.read_manifest(folder)
        tried = passed.get(manifest.bundle_version)
        if tried is None:
            memory.check_room(memory.estimate(manifest, item_tower), copies, follow.memory_mib << 20)
            tried = try_bundle(folder, item_tower, stop, cache.ready(folder))
            passed[manifest.bundle_version] = tried
        memory.check_room(tried.resident_bytes, copies, follow.memory_mib << 20)
        return tried.load_s

    return attempt


class Follower:
    """What the follower knows and does, one look at a time.

    Args:
        follow: what to follow.
        board: as of `follower`.
        cache: to put bundles into.
        registry: to ask.
        attempt: tries a bundle for as many processes as the second argument says.
        clock: to wait by.
        copies: workers.
        workers: to tell what to serve, made of the board if not given.
    """

    def __init__(
        self,
        follow: Follow,
        board: Board,
        cache: Cache,
        registry: Registry,
        attempt: Callable[[Path, int], float],
        clock: Clock,
        copies: int,
        workers: Workers | None = None,
    ) -> None:
        self._follow, self._board, self._cache, self._clock = follow, board, cache, clock
        self._workers = workers or Workers(board, clock)
        note = board.read(FOLLOWING)

        def track(model: str, place: Place, processes: int, before: dict[str, Any]) -> Track:
            return Track(
                model,
                place,
                registry,
                cache,
                lambda folder: attempt(folder, processes),
                clock,
                follow.poll_seconds,
                before,
                self._note,
            )

        self._champion = track(follow.model, self._champion_place(), copies, note)
        self._others: dict[str, Track] = {}
        if follow.canary:
            place = self._canary_place()
            self._others["canary"] = track(follow.canary, place, copies, note.get("canary", {}))
        self._shadow_log: ShadowLog | None = None
        if follow.shadow:
            self._others["shadow"] = track(follow.shadow, self._shadow_place(), 1, note.get("shadow", {}))
            self._shadow_log = ShadowLog(follow.model, board, registry, clock)

    def begin(self) -> None:
        """Go on from the board. A change that the process before left undone is brought to its end."""
        removed = drafts.clear(self._cache.folder)
        if removed:
            log.info("%d downloads that were broken off are removed", removed)
        self._note()
        self._workers.forget()
        champion = self._workers.target.champion
        pointer = self._cache.pointer(self._follow.model)
        if pointer and pointer.bundle_version == champion.bundle_version:
            return
        try:
            self._workers.settle()
            self._cache.point(self._follow.model, champion.bundle_version, champion.model_version)
        except Exception as error:  # of any kind: the follower goes on
            if not self._clock.stop.is_set():
                log.warning("%s: version %s: %s", self._follow.model, champion.model_version, error)
                if self._workers.target.serial > 1:
                    self._go_back()

    def step(self) -> float:
        """One look at the registry; gives the seconds until the next."""
        self._champion.look()
        for track in self._others.values() if not self._champion.silent else ():
            track.look()
        if self._shadow_log:
            self._shadow_log.look()
        self._cache.prune([each.bundle_version for each in self._at_work()])
        poll = self._follow.poll_seconds
        longest = max(poll, min(LONGEST_SILENCE, SILENT_POLLS * poll))
        delay = min(longest, poll * 2.0 ** min(self._champion.silent, 16))
        delay *= random.uniform(1 - JITTER, 1 + JITTER)
        for track in (self._champion, *self._others.values()):
            track.state["next_check"] = self._clock.time() + delay
        self._note()
        return delay

    def end(self) -> None:
        """The service stops: what there is to say to the registry is said now."""
        if self._shadow_log:
            self._shadow_log.end()

    def _champion_place(self) -> Place:
        def install(new: Bundle | None, load_s: float) -> None:
            assert new is not None
            target = self._workers.target
            canary = target.canary
            if canary and canary.bundle_version == new.bundle_version:
                canary = None  # it has been promoted
            self._keep_figures()
            self._workers.change(new, canary, target.share, load_s)

        return Place(lambda: self._workers.target.champion, install, lambda: "", optional=False)

    def _canary_place(self) -> Place:
        def install(new: Bundle | None, load_s: float) -> None:
            self._workers.change(self._workers.target.champion, new, self._follow.canary_share, load_s)

        return Place(lambda: self._workers.target.canary, install, self._champion_version, optional=True)

    def _shadow_place(self) -> Place:
        def install(new: Bundle | None, load_s: float) -> None:
            self._keep_figures()
            serial = self._board.turn(SHADOW_TARGET) + 1
            self._board.write(SHADOW_TARGET, {"serial": serial, **vars(new)} if new else {})

        def served() -> Bundle | None:
            return Bundle.of(self._board.read(SHADOW_TARGET))

        return Place(served, install, self._champion_version, optional=True)

    def _keep_figures(self) -> None:
        if self._shadow_log:
            self._shadow_log.keep()

    def _champion_version(self) -> str:
        return self._workers.target.champion.bundle_version

    def _go_back(self) -> None:
        """The process before was killed while the workers took a champion that they could not take."""
        try:
            folder, model_version = last_served(self._cache, self._follow.model)
            version = bundle.read_manifest(folder).bundle_version
            self._workers.change(bundle_at(folder, version, model_version), self._workers.target.canary)
        except Exception as error:
            log.error("%s: no way back to what was served before: %s", self._follow.model, error)

    def _at_work(self) -> Iterator[Bundle]:
        target = self._workers.target
        shadow = Bundle.of(self._board.read(SHADOW_TARGET)) if self._follow.shadow else None
        yield from (each for each in (target.champion, target.canary, shadow) if each)

    def _note(self) -> None:
        others = {name: track.state for name, track in self._others.items()}
        self._board.write(FOLLOWING, {**self._champion.state, **others, "pid": os.getpid()})
