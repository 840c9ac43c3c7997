"""One alias of the registry: its version is resolved, downloaded, validated, and deployed or refused.

A download and a validation may take minutes. So the alias is resolved again before the workers load the
bundle: a promotion that was taken back meanwhile is not deployed.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from twinspire.protos.errors import MissingStage, TwinspireError, Unavailable
from twinspire.serving.rollout.bundle_cache import BundleCache
from twinspire.serving.rollout.registry import Registered
from twinspire.serving.rollout.registry_process import RegistryProcess
from twinspire.serving.rollout.target import BundleRef, Clock, bundle_at

log = logging.getLogger(__name__)

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
