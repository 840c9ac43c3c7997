"""The follower: the process that makes the workers serve whatever version an alias of the registry names.

    ProcessSpec("follower", follower(config.follow, shared_state, config.item_tower))

At every poll it resolves the alias. If the alias names another version than the one that is served, the
bundle is downloaded (`bundle_cache.py`), validated in a process of its own (`bundle_validation.py`), and
announced to the workers (`target.py`), each of which loads it beside the old one and changes over. If any
step fails, the champion stays: the version is refused, and tried again after a delay that doubles from the
poll interval up to five minutes. Another version is tried at once. The entry `FOLLOWING` in shared memory has
the state of the champion's alias, and under `canary` and `shadow` the state of their aliases.

A canary and a shadow follow their own alias in the same way; while that fails there is none. A download and
a validation may take minutes. So an alias is resolved again before the workers load the bundle: a promotion
that was taken back meanwhile is not deployed.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from twinspire.protos import bundle
from twinspire.protos.errors import MissingStage, TwinspireError, Unavailable
from twinspire.protos.files import atomic_directory
from twinspire.serving import flag_types as flags
from twinspire.serving.flag_types import option
from twinspire.serving.rollout.bundle_cache import BUNDLES, BundleCache
from twinspire.serving.rollout.bundle_validation import validate_bundle
from twinspire.serving.rollout.registry import Registered, RegistryProcess
from twinspire.serving.rollout.target import BundleRef, Clock, Workers, bundle_at
from twinspire.serving.shared_state import FOLLOWING, SHADOW_TARGET, SharedState
from twinspire.serving.supervisor import WorkerHandle

log = logging.getLogger(__name__)

NICE = 10  # verifying a download must not take time from the workers
DOWNLOADING, CHECKING, LOADING, REFUSED = "downloading", "checking", "loading", "refused"
MAX_RETRY_SECONDS = 300.0  # before a version that was refused is tried again
MAX_ERROR_LENGTH = 500  # characters of an error in the state
STATE: Mapping[str, Any] = {
    "last_check": 0.0,
    "next_check": 0.0,
    "last_error": "",
    "failures": 0,
    "candidate": "",
    "candidate_bundle": "",
    "candidate_stage": "",
    "swaps": 0,
    "refused": 0,
    "last_swap": 0.0,
}

# A bundle's folder, and processes that will load it -> seconds to load it; an error refuses the bundle.
Validate = Callable[[Path, int], float]


class Deployment(NamedTuple):
    """Where an alias's bundle is deployed: as champion, canary or shadow.

    Args:
        current: gives the bundle that is deployed.
        install: deploys a bundle, or None to remove it; the second argument is the seconds that it took to
            load. Raises Unavailable if that fails, and then the bundle before is deployed.
        copies: processes that load the bundle.
        champion: of a deployment that there need not be, gives the version of the champion's bundle, beside
            which it is not deployed; None for the champion.
    """

    current: Callable[[], BundleRef | None]
    install: Callable[[BundleRef | None, float], None]
    copies: int
    champion: Callable[[], str] | None = None


class AliasTracker:
    """Follows one alias.

    Args:
        model: the alias, such as `models:/pydocs@champion`.
        validate: validates a bundle.
        poll_seconds: before a version that was refused is tried again, for the first time.
        before: the state that an earlier process left.
        changed: called when the state has changed.
    """

    def __init__(
        self,
        model: str,
        deployment: Deployment,
        registry: RegistryProcess,
        cache: BundleCache,
        validate: Validate,
        clock: Clock,
        poll_seconds: float,
        before: Mapping[str, Any],
        changed: Callable[[], None],
    ) -> None:
        self.model = model
        self.deployment = deployment
        self.state = {**STATE, **before, "model": model}
        self.unanswered = 0  # polls in a row that the registry did not answer
        self._registry, self._cache, self._validate, self._clock = registry, cache, validate, clock
        self._poll_seconds, self._changed = poll_seconds, changed
        self._refused: Registered | None = None
        self._refusals, self._retry_at = 0, 0.0
        self._logged = ""  # the last error in the log

    def poll(self) -> bool:
        """Resolve the alias, and deploy its version if it is another one.

        Returns:
            Whether the alias has moved during the deployment: the next poll must not wait.
        """
        self.state["last_check"] = self._clock.time()
        try:
            named = self._registry.resolve(self.model)
        except MissingStage as error:
            self.unanswered = 0 if self.deployment.champion else self.unanswered + 1
            self._remove(str(error))
            return False
        except Exception as error:  # of any kind: the deployed bundle stays
            self.unanswered += 1
            self._fail(_text(error), self.unanswered, error)
            return False
        self.unanswered = 0
        current = self.deployment.current()
        deployed = current and (current.model_version, current.bundle_version)
        if self.deployment.champion and named.bundle_version == self.deployment.champion():
            self._remove("")
        elif deployed == (named.version, named.bundle_version):
            self._succeed()
        elif named != self._refused or self._clock.monotonic() >= self._retry_at:
            return self._deploy(named)
        return False

    def _remove(self, error: str) -> None:
        """The alias names no version, or the champion's."""
        if not self.deployment.champion:
            self._show("", "", "")
            self._fail(error, self.unanswered)
            return
        try:
            if self.deployment.current() is not None:
                self.deployment.install(None, 0.0)
                log.info("%s: now no version", self.model)
        except Exception as failed:
            self._fail(_text(failed), self.state["failures"] + 1, failed)
        else:
            self._succeed()

    def _deploy(self, named: Registered) -> bool:
        """Deploy a version, or refuse it; returns True if the alias has moved meanwhile."""
        self._show(named.version, "", DOWNLOADING)
        try:
            named.check()
            version = named.bundle_version
            self._show(named.version, version, DOWNLOADING)
            folder = self._cache.take(named, self._registry)
            self._show(named.version, version, CHECKING)
            load_s = self._validate(folder, self.deployment.copies)
            if self._has_moved(named):
                log.info("%s: version %s is not deployed: the alias has moved", self.model, named.version)
                self._show("", "", "")
                return True
            self._show(named.version, version, LOADING)
            new = bundle_at(folder, version, named.version)
            self.deployment.install(new, load_s)
        except Exception as error:  # of any kind: a damaged bundle may raise anything
            if not self._clock.stop.is_set():
                self._refuse(named, error)
            return False
        self.state["swaps"] += 1
        self.state["last_swap"] = self._clock.time()
        log.info("%s: now version %s, bundle %s", self.model, named.version, version[:12])
        self._succeed()
        self.remember(new)
        return False

    def _has_moved(self, named: Registered) -> bool:
        """Whether the alias names another version, or none; False if that cannot be known."""
        try:
            return self._registry.resolve(self.model).uri != named.uri  # a changed tag is no move
        except MissingStage:
            return True
        except Exception:  # of any kind: the next poll reports it
            return False

    def _refuse(self, named: Registered, error: Exception) -> None:
        """Do not try this version again for a while."""
        if named != self._refused:
            self._refused, self._refusals = named, 0
            self.state["refused"] += 1
        wait = min(MAX_RETRY_SECONDS, self._poll_seconds * 2.0**self._refusals)
        self._retry_at = self._clock.monotonic() + wait
        self._refusals += 1
        self.state["candidate_stage"] = REFUSED
        self._fail(f"version {named.version} is refused: {_text(error)}", self._refusals, error)

    def _succeed(self) -> None:
        """The alias's version is deployed."""
        self._refused, self._refusals = None, 0
        if self._logged:
            log.info("%s: all is well again", self.model)
        self._logged = ""
        self.state.update(last_error="", failures=0)
        self._show("", "", "")

    def remember(self, new: BundleRef) -> None:
        """Record the bundle in the cache, so that the service can start with it without the registry."""
        try:
            self._cache.point(self.model, new)
        except Unavailable as error:
            log.warning("%s: a start without the registry would not find this version: %s", self.model, error)

    def _fail(self, error: str, failures: int, cause: Exception | None = None) -> None:
        """Record an error, and log it if it differs from the last one.

        Args:
            error: the error's text.
            failures: in a row.
            cause: logged with its traceback, unless it is an error of Twinspire's own.
        """
        if error != self._logged:
            current = self.deployment.current()
            stays = (
                f"; version {current.model_version or current.bundle_version[:12]} stays" if current else ""
            )
            unforeseen = None if isinstance(cause, TwinspireError) else cause
            log.warning("%s: %s%s", self.model, error, stays, exc_info=unforeseen)
        self._logged = error
        # Clients that may call `Info` must not learn the cache's path.
        folder, shown = self._cache.folder, error
        for path in (folder.resolve(), folder.absolute(), folder):
            shown = shown.replace(str(path), "the cache")
        self.state.update(last_error=shown[:MAX_ERROR_LENGTH], failures=failures)
        self._changed()

    def _show(self, candidate: str, candidate_bundle: str, stage: str) -> None:
        """Publish the version that is being deployed, its bundle, and how far it is; all empty for none."""
        self.state.update(candidate=candidate, candidate_bundle=candidate_bundle, candidate_stage=stage)
        self._changed()


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, TwinspireError) else f"{type(error).__name__}: {error}"


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
    config: FollowConfig, shared_state: SharedState, item_tower: bool = False
) -> Callable[[WorkerHandle], None]:
    """What the follower's process runs, from start to stop.

    Args:
        config: what to follow.
        shared_state: with the entries `TARGET`, `NEXT`, `FOLLOWING` and those of the workers, and
            `SHADOW_TARGET` and `SHADOW` if there is a shadow.
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
            workers = Workers(shared_state, clock)
            following = Follower(config, shared_state, cache, registry, validate, clock, workers)
            following.begin()
            while not stop.is_set():
                clock.pause(following.step())

    return run


def validator(config: FollowConfig, item_tower: bool, stop: threading.Event) -> Validate:
    """A function that validates a bundle: it must fit into memory and answer its own examples.

    Its errors are those of `validate_bundle`. It writes the shared catalogue of a valid bundle to the cache,
    and does not validate that bundle again, so that a rollback takes no longer than loading.
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
        workers: that the target is announced to.
    """

    def __init__(
        self,
        config: FollowConfig,
        shared_state: SharedState,
        cache: BundleCache,
        registry: RegistryProcess,
        validate: Validate,
        clock: Clock,
        workers: Workers,
    ) -> None:
        self._config, self._shared_state, self._cache, self._clock = config, shared_state, cache, clock
        self._workers = workers
        before = shared_state.read(FOLLOWING)

        def track(model: str, deployment: Deployment, entry: Mapping[str, Any]) -> AliasTracker:
            parts = registry, cache, validate, clock, config.poll, entry, self._publish
            return AliasTracker(model, deployment, *parts)

        self._champion = track(config.model, self._champion_deployment(), before)
        self._others: dict[str, AliasTracker] = {}
        if config.canary:
            entry = before.get("canary", {})
            self._others["canary"] = track(config.canary, self._canary_deployment(), entry)
        if config.shadow:
            entry = before.get("shadow", {})
            self._others["shadow"] = track(config.shadow, self._shadow_deployment(), entry)

    def begin(self) -> None:
        """Continue from the shared state, and finish a change that an earlier process left incomplete."""
        removed = atomic_directory.remove_abandoned(self._cache.folder)
        if removed:
            log.info("%d downloads that were broken off are removed", removed)
        self._publish()
        self._workers.abandon_next()
        target, pointer = self._workers.target, self._cache.pointer(self._config.model)
        if pointer and pointer.bundle_version == target.champion.bundle_version:
            return
        try:
            self._workers.settle()
        except Unavailable as error:
            if not self._clock.stop.is_set():
                log.warning("%s: version %s: %s", self._config.model, target.champion.model_version, error)
                if target.serial > 1:
                    self._go_back()
        else:
            self._champion.remember(target.champion)

    def step(self) -> float:
        """Poll the registry once; returns the seconds until the next poll."""
        has_moved = self._champion.poll()
        if not has_moved and not self._champion.unanswered:
            moved = [tracker.poll() for tracker in self._others.values()]
            has_moved = any(moved)
        target = self._workers.target
        shadow = BundleRef.of(self._shared_state.read(SHADOW_TARGET)) if self._config.shadow else None
        in_use = filter(None, (target.champion, target.canary, shadow))
        self._cache.prune([each.bundle_version for each in in_use])
        delay = 0.0 if has_moved else self._config.poll
        for tracker in (self._champion, *self._others.values()):
            tracker.state["next_check"] = self._clock.time() + delay
        self._publish()
        return delay

    def _champion_deployment(self) -> Deployment:
        def install(new: BundleRef | None, load_s: float) -> None:
            assert new is not None
            canary = self._workers.target.canary
            if canary and canary.bundle_version == new.bundle_version:
                canary = None  # it has been promoted
            self._workers.change(new, canary, load_s)

        return Deployment(lambda: self._workers.target.champion, install, self._workers.count)

    def _canary_deployment(self) -> Deployment:
        def install(new: BundleRef | None, load_s: float) -> None:
            canary = new and replace(new, share=self._config.canary_share)
            self._workers.change(self._workers.target.champion, canary, load_s)

        return Deployment(
            lambda: self._workers.target.canary, install, self._workers.count, self._champion_version
        )

    def _shadow_deployment(self) -> Deployment:
        def install(new: BundleRef | None, load_s: float) -> None:
            serial = self._shared_state.version(SHADOW_TARGET) + 1
            self._shared_state.write(SHADOW_TARGET, {"serial": serial, **vars(new)} if new else {})

        def current() -> BundleRef | None:
            return BundleRef.of(self._shared_state.read(SHADOW_TARGET))

        return Deployment(current, install, 1, self._champion_version)

    def _champion_version(self) -> str:
        return self._workers.target.champion.bundle_version

    def _go_back(self) -> None:
        """Undo a change of an earlier process, which was killed while workers failed to load the champion."""
        try:
            served = self._cache.last_served(self._config.model)
            if served is None:
                raise Unavailable(f"it is not in {self._cache.folder}")
            self._workers.change(served, self._workers.target.canary, 0.0)
        except Exception as error:  # of any kind: the follower goes on
            log.error("%s: no way back to what was served before: %s", self._config.model, error)

    def _publish(self) -> None:
        others = {name: tracker.state for name, tracker in self._others.items()}
        self._shared_state.write(FOLLOWING, {**self._champion.state, **others, "pid": os.getpid()})
