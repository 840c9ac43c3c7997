"""One alias of the registry on its way to being served: asked, fetched, tried, put to work, or refused."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from protos import bundle
from protos.errors import MissingStage, TwinspireError, Unavailable
from serving.following.cache import Cache
from serving.following.registry import Registered, Registry
from serving.following.target import Bundle, Clock, bundle_at

log = logging.getLogger(__name__)

DOWNLOADING, CHECKING, LOADING, REFUSED = "downloading", "checking", "loading", "refused"
LONGEST_WAIT = 300.0  # seconds before a version that was refused is tried again
LONGEST = 500  # characters of an error that the note has
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

Try = Callable[[Path], float]  # a bundle's folder -> seconds that it took to load; raises what refuses it


class Place(NamedTuple):
    """Where an alias's bundle is put to work.

    Args:
        served: gives the bundle that is there.
        install: puts one there, or takes it away; the second argument is how long it took to load. Raises
            Unavailable where that is not to be had, and then what was there before is there.
        other: gives the version of a bundle that is at work elsewhere, so that it is not needed here, too.
        optional: nothing need be there.
    """

    served: Callable[[], Bundle | None]
    install: Callable[[Bundle | None, float], None]
    other: Callable[[], str]
    optional: bool


class Track:
    """Follows one alias.

    Args:
        model: the alias, such as `models:/pydocs@champion`.
        place: where its bundle is put to work.
        registry: to ask.
        cache: to put bundles into.
        attempt: tries a bundle.
        clock: to wait by.
        poll: seconds before a version that was refused is tried again, for the first time.
        note: what the process before left of this.
        changed: told that the state is another.
    """

    def __init__(
        self,
        model: str,
        place: Place,
        registry: Registry,
        cache: Cache,
        attempt: Try,
        clock: Clock,
        poll: float,
        note: Mapping[str, Any],
        changed: Callable[[], None],
    ) -> None:
        self.model = model
        self.place = place
        self.state = {"model": model, **{name: note.get(name, value) for name, value in STATE.items()}}
        self.silent = 0  # checks in a row that the registry did not answer
        self._registry, self._cache, self._attempt, self._clock = registry, cache, attempt, clock
        self._poll, self._changed = poll, changed
        self._refused: Registered | None = None
        self._refusals, self._again = 0, 0.0
        self._told = ""

    def look(self) -> None:
        """Ask the registry, and do what follows from the answer."""
        self.state["last_check"] = self._clock.time()
        try:
            named = self._registry.resolve(self.model)
        except MissingStage as error:
            self.silent = 0 if self.place.optional else self.silent + 1
            self._absent(str(error))
            return
        except Exception as error:  # of any kind: what is served goes on
            self.silent += 1
            self._fail(_text(error), self.silent, error)
            return
        self.silent = 0
        if self.place.optional and named.bundle_version == self.place.other():
            self._absent("")
        elif self._is_served(named):
            self._well()
        elif named != self._refused or self._clock.monotonic() >= self._again:
            self._take(named)

    def _absent(self, error: str) -> None:
        """The alias names nothing, or nothing that is not served already."""
        if not self.place.optional:
            self._show("", "", "")
            self._fail(error, self.silent)
            return
        try:
            if self.place.served() is not None:
                self.place.install(None, 0.0)
                log.info("%s: now no version", self.model)
        except Exception as failed:
            self._fail(_text(failed), self.state["failures"] + 1, failed)
        else:
            self._well()

    def _is_served(self, named: Registered) -> bool:
        served = self.place.served()
        return (
            served is not None
            and served.model_version == named.version
            and named.bundle_version in (None, served.bundle_version)
        )

    def _take(self, named: Registered) -> None:
        self._show(named.version, "", DOWNLOADING)
        try:
            named.check()
            self._show(named.version, named.bundle_version or "", DOWNLOADING)
            folder = self._cache.take(named, self._registry)
            version = bundle.read_manifest(folder).bundle_version
            if self.place.optional and version == self.place.other():
                self._absent("")  # which the registry did not say
                return
            self._show(named.version, version, CHECKING)
            load_s = self._attempt(folder)
            self._show(named.version, version, LOADING)
            new = bundle_at(folder, version, named.version)
            self.place.install(new, load_s)
        except Exception as error:  # of any kind: a bundle may do anything to what reads it
            if not self._clock.stop.is_set():
                self._refuse(named, error)
            return
        self.state["swaps"] += 1
        self.state["last_swap"] = self._clock.time()
        log.info("%s: now version %s, bundle %s", self.model, named.version, version[:12])
        self._well()
        self._keep(new)

    def _refuse(self, named: Registered, error: Exception) -> None:
        """Not this one, for a while."""
        if named != self._refused:
            self._refused, self._refusals = named, 0
            self.state["refused"] += 1
        wait = min(LONGEST_WAIT, self._poll * 2.0**self._refusals)
        self._again = self._clock.monotonic() + wait
        self._refusals += 1
        self.state["candidate_stage"] = REFUSED
        self._fail(f"version {named.version} is refused: {_text(error)}", self._refusals, error)

    def _well(self) -> None:
        """What the alias names is served."""
        self._refused, self._refusals = None, 0
        if self._told:
            log.info("%s: all is well again", self.model)
        self._told = ""
        self.state.update(last_error="", failures=0)
        self._show("", "", "")

    def _keep(self, new: Bundle) -> None:
        try:
            self._cache.point(self.model, new.bundle_version, new.model_version)
        except Unavailable as error:
            log.warning("%s: a start without the registry would not find this version: %s", self.model, error)

    def _fail(self, error: str, failures: int, cause: Exception | None = None) -> None:
        """Note an error, and log it if it is not the one before.

        Args:
            cause: is logged with its traceback, unless it is an error of Twinspire's own.
        """
        if error != self._told:
            served = self.place.served()
            stays = f"; version {served.model_version or served.bundle_version[:12]} stays" if served else ""
            unforeseen = None if isinstance(cause, TwinspireError) else cause
            log.warning("%s: %s%s", self.model, error, stays, exc_info=unforeseen)
        self._told = error
        # Where the cache lies on this machine is nothing for those who may ask for `Info`.
        shown = error.replace(str(self._cache.folder), "the cache")
        self.state.update(last_error=shown[:LONGEST], failures=failures)
        self._changed()

    def _show(self, candidate: str, candidate_bundle: str, stage: str) -> None:
        self.state.update(candidate=candidate, candidate_bundle=candidate_bundle, candidate_stage=stage)
        self._changed()


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, TwinspireError) else f"{type(error).__name__}: {error}"
