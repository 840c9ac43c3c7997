"""The follower: the process that makes the workers serve whatever version an alias of the registry names.

    ProcessSpec("follower", follower(config.follow, shared_state, config.workers, config.item_tower))

At every poll it resolves the alias. If the alias names another version than the one that is served, the
bundle is downloaded (`bundle_cache.py`), validated in a process of its own (`bundle_validation.py`), and
announced to the workers (`target.py`), each of which loads it beside the old one and changes over. If any
step fails, the champion stays: the version is refused, and tried again after a delay that doubles from the
poll interval up to five minutes. Another version is tried at once. If the registry does not answer, the delay
between polls doubles likewise, up to a minute or eight poll intervals. The entry `FOLLOWING` in shared memory
has the state of the champion's alias, and under `canary` and `shadow` the state of their aliases.

A canary and a shadow follow their own alias in the same way; while that fails there is none.
"""

import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinspire.protos import bundle
from twinspire.protos.files import atomic_directory
from twinspire.serving import flag_types as flags
from twinspire.serving.flag_types import option
from twinspire.serving.rollout.alias_tracker import AliasTracker, Deployment
from twinspire.serving.rollout.bundle_cache import BUNDLES, BundleCache, last_served
from twinspire.serving.rollout.bundle_validation import validate_bundle
from twinspire.serving.rollout.registry import ModelRegistry
from twinspire.serving.rollout.registry_process import RegistryProcess
from twinspire.serving.rollout.target import BundleRef, Clock, Workers, bundle_at
from twinspire.serving.shared_state import FOLLOWING, SHADOW_TARGET, SharedState
from twinspire.serving.supervisor import WorkerHandle

log = logging.getLogger(__name__)

# A bundle's folder, and processes that will load it -> seconds to load it.
ValidateFor = Callable[[Path, int], float]

# The longest pause between polls of a registry that does not answer; the smaller of the two counts.
MAX_BACKOFF_SECONDS = 60.0
MAX_BACKOFF_POLLS = 8  # poll intervals
JITTER = 0.1  # of the interval, so that many servers do not poll at once
NICE = 10  # verifying a download must not take time from the workers


@dataclass(frozen=True)
class FollowConfig:
    """An alias of the registry to follow.

    Args:
        model: such as `models:/pydocs@champion`.
        cache: folder that keeps the bundles.
    """

    model: str
    poll: float = option(10, "seconds between two polls of the registry", flags.seconds, partner="model")
    canary: str | None = option(
        None, "an alias, such as models:/pydocs@challenger, that answers a share of the requests", str
    )
    canary_share: float = option(
        0.05, "the canary's share of the requests", flags.number_up_to(1), partner="canary"
    )
    interleave_share: float = option(
        0.0,
        "share of the searches that get hits of champion and canary, for `export judge`",
        flags.number_up_to(1),
        partner="canary",
    )
    shadow: str | None = option(
        None, "an alias that gets a copy of a share of the searches, and is compared", str
    )
    shadow_share: float = option(
        0.1, "the shadow's share of the searches", flags.number_up_to(1), partner="shadow"
    )
    cache: Path = BUNDLES


def follower(
    config: FollowConfig,
    shared_state: SharedState,
    workers: int,
    item_tower: bool = False,
) -> Callable[[WorkerHandle], None]:
    """What the follower's process runs, from start to stop.

    Args:
        config: what to follow.
        shared_state: with the entries `TARGET`, `NEXT`, `FOLLOWING` and those of the workers, and
            `SHADOW_TARGET` and `SHADOW` if there is a shadow.
        workers: number of worker processes.
        item_tower: the item tower is offered.
    """

    def run(handle: WorkerHandle) -> None:
        handle.ready()
        stop = handle.stop_event()
        os.nice(NICE)
        clock = Clock(stop)
        with RegistryProcess(stop) as registry:
            validate = validator(config, item_tower, stop)
            cache = BundleCache(config.cache, owns=True)
            following = Follower(config, shared_state, cache, registry, validate, clock, workers)
            following.begin()
            while not stop.is_set():
                clock.pause(following.step())

    return run


def validator(config: FollowConfig, item_tower: bool, stop: threading.Event) -> ValidateFor:
    """A function that validates a bundle: it must fit into memory and answer its own examples.

    The function takes the bundle's folder and the number of processes that will load it; it returns the
    seconds that the bundle took to load. It writes the shared catalogue of a valid
    bundle to the cache, and does not validate that bundle again, so that a rollback takes no longer than
    loading.

    Raises (the function):
        Unavailable: there is not enough memory, or the validation was stopped or could not run.
        BundleDamaged: the bundle cannot be used.
    """
    cache = BundleCache(config.cache)
    passed: dict[str, float] = {}  # version -> seconds to load it

    def validate(folder: Path, copies: int) -> float:
        version = bundle.read_manifest(folder).bundle_version
        if version not in passed:
            ready = cache.ready(folder)
            passed[version] = validate_bundle(folder, item_tower, stop, ready, copies)
        return passed[version]

    return validate


class Follower:
    """Follows the aliases of a service, one poll at a time.

    Args:
        config: what to follow.
        shared_state: as in `follower`.
        validate: validates the bundle in a folder for a number of processes; see `validator`.
        copies: number of workers.
        workers: that the target is announced to; made from the shared state if not given.
    """

    def __init__(
        self,
        config: FollowConfig,
        shared_state: SharedState,
        cache: BundleCache,
        registry: ModelRegistry,
        validate: ValidateFor,
        clock: Clock,
        copies: int,
        workers: Workers | None = None,
    ) -> None:
        self._config, self._shared_state, self._cache, self._clock = config, shared_state, cache, clock
        self._workers = workers or Workers(shared_state, clock)
        before = shared_state.read(FOLLOWING)

        def track(model: str, deployment: Deployment, processes: int, entry: dict[str, Any]) -> AliasTracker:
            def attempt(folder: Path) -> float:
                return validate(folder, processes)

            return AliasTracker(
                model, deployment, registry, cache, attempt, clock, config.poll, entry, self._publish
            )

        self._champion = track(config.model, self._champion_deployment(), copies, before)
        self._others: dict[str, AliasTracker] = {}
        if config.canary:
            canary = self._canary_deployment()
            self._others["canary"] = track(config.canary, canary, copies, before.get("canary", {}))
        if config.shadow:
            shadow = self._shadow_deployment()
            self._others["shadow"] = track(config.shadow, shadow, 1, before.get("shadow", {}))

    def begin(self) -> None:
        """Continue from the shared state, and finish a change that an earlier process left incomplete."""
        removed = atomic_directory.remove_abandoned(self._cache.folder)
        if removed:
            log.info("%d downloads that were broken off are removed", removed)
        self._publish()
        self._workers.abandon_next()
        champion = self._workers.target.champion
        pointer = self._cache.pointer(self._config.model)
        if pointer and pointer.bundle_version == champion.bundle_version:
            return
        try:
            self._workers.settle()
            self._cache.point(self._config.model, champion.bundle_version, champion.model_version)
        except Exception as error:  # of any kind: the follower goes on
            if not self._clock.stop.is_set():
                log.warning("%s: version %s: %s", self._config.model, champion.model_version, error)
                if self._workers.target.serial > 1:
                    self._go_back()

    def step(self) -> float:
        """Poll the registry once; returns the seconds until the next poll."""
        has_moved = self._champion.poll()
        if not has_moved and not self._champion.unanswered:
            moved = [tracker.poll() for tracker in self._others.values()]
            has_moved = any(moved)
        self._cache.prune([each.bundle_version for each in self._in_use()])
        interval = self._config.poll
        longest = max(interval, min(MAX_BACKOFF_SECONDS, MAX_BACKOFF_POLLS * interval))
        delay = min(longest, interval * 2.0 ** min(self._champion.unanswered, 16))
        delay *= random.uniform(1 - JITTER, 1 + JITTER)
        if has_moved:
            delay = 0.0
        for tracker in (self._champion, *self._others.values()):
            tracker.state["next_check"] = self._clock.time() + delay
        self._publish()
        return delay

    def _champion_deployment(self) -> Deployment:
        def install(new: BundleRef | None, load_s: float) -> None:
            assert new is not None
            target = self._workers.target
            canary = target.canary
            if canary and canary.bundle_version == new.bundle_version:
                canary = None  # it has been promoted
            self._workers.change(new, canary, target.share, load_s)

        return Deployment(lambda: self._workers.target.champion, install, lambda: "", optional=False)

    def _canary_deployment(self) -> Deployment:
        def install(new: BundleRef | None, load_s: float) -> None:
            self._workers.change(self._workers.target.champion, new, self._config.canary_share, load_s)

        return Deployment(lambda: self._workers.target.canary, install, self._champion_version, optional=True)

    def _shadow_deployment(self) -> Deployment:
        def install(new: BundleRef | None, load_s: float) -> None:
            serial = self._shared_state.version(SHADOW_TARGET) + 1
            self._shared_state.write(SHADOW_TARGET, {"serial": serial, **vars(new)} if new else {})

        def current() -> BundleRef | None:
            return BundleRef.of(self._shared_state.read(SHADOW_TARGET))

        return Deployment(current, install, self._champion_version, optional=True)

    def _champion_version(self) -> str:
        return self._workers.target.champion.bundle_version

    def _go_back(self) -> None:
        """Undo a change of an earlier process, which was killed while workers failed to load the champion."""
        try:
            folder, model_version = last_served(self._cache, self._config.model)
            version = bundle.read_manifest(folder).bundle_version
            target = self._workers.target
            self._workers.change(bundle_at(folder, version, model_version), target.canary, target.share)
        except Exception as error:
            log.error("%s: no way back to what was served before: %s", self._config.model, error)

    def _in_use(self) -> Iterator[BundleRef]:
        target = self._workers.target
        shadow = BundleRef.of(self._shared_state.read(SHADOW_TARGET)) if self._config.shadow else None
        yield from (each for each in (target.champion, target.canary, shadow) if each)

    def _publish(self) -> None:
        others = {name: tracker.state for name, tracker in self._others.items()}
        self._shared_state.write(FOLLOWING, {**self._champion.state, **others, "pid": os.getpid()})
