"""Which bundles all workers shall serve: the follower announces them, and waits until all workers do."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from psutil import pid_exists

from twinspire.protos.errors import Unavailable
from twinspire.serving.shared_state import NEXT, TARGET, WORKER, SharedState

POLL_SECONDS = 0.05  # between two reads of the workers' entries
TIMEOUT_SECONDS = 60.0  # for all workers to serve a target, beside `FACTOR` times the load time
FACTOR = 10.0
RESTART_SECONDS = 10.0  # for a worker that died meanwhile to come back
GROUPS = 4  # of workers, which load one group after the other


@dataclass(frozen=True)
class BundleRef:
    """A bundle that is served, or shall be.

    Args:
        model_version: in the registry.
        share: of the requests, 0 to 1, that it answers as a canary.
    """

    folder: str
    bundle_version: str
    model_version: str
    share: float = 0.0

    @classmethod
    def of(cls, entry: Mapping[str, Any] | None) -> Self | None:
        """From an entry in shared memory; None if it names no bundle."""
        if not entry:
            return None
        return cls(**{each.name: entry[each.name] for each in fields(cls) if each.name in entry})


@dataclass(frozen=True)
class Target:
    """What all workers shall serve.

    Args:
        serial: grows by one with every change.
        champion, canary: the bundles.
    """

    serial: int
    champion: BundleRef
    canary: BundleRef | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """From the entry `TARGET` in shared memory."""
        champion = BundleRef.of(entry["champion"])
        assert champion is not None
        return cls(entry["serial"], champion, BundleRef.of(entry["canary"]))


class Clock:
    """The time, and pauses that end early when the service stops.

    Args:
        stop: ends every pause.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()

    def time(self) -> float:
        """Unix time, which the operator may set back."""
        return time.time()

    def pause(self, seconds: float) -> bool:
        """Wait; returns whether the service stops."""
        return self.stop.wait(seconds)


class Workers:
    """Tells the workers what to serve, by shared memory; for the follower alone.

    Args:
        alive: whether there is a process of that id.
    """

    def __init__(
        self, shared_state: SharedState, clock: Clock, alive: Callable[[int], bool] = pid_exists
    ) -> None:
        self._shared_state, self._clock, self._alive = shared_state, clock, alive
        self._names = [name for name in shared_state.names if name.startswith(WORKER)]

    @property
    def count(self) -> int:
        """How many workers the service has."""
        return len(self._names)

    @property
    def target(self) -> Target:
        """The current target."""
        return Target.of(self._shared_state.read(TARGET))

    def change(self, champion: BundleRef, canary: BundleRef | None, load_s: float) -> None:
        """Have all workers serve these bundles: they change over when each of them has loaded them.

        One group of workers loads at a time, so that the other workers answer undisturbed.

        Args:
            champion, canary: as in `Target`.
            load_s: seconds that the validation took to load the new bundle.

        Raises:
            Unavailable: a worker could not load a bundle, or took too long; all workers serve what they
                served before.
        """
        before = self.target
        serial = 1 + max(before.serial, self._shared_state.read(NEXT).get("serial", 0))  # never used before
        after = asdict(Target(serial, champion, canary))
        names = self._living()
        if not names:
            raise Unavailable("no worker runs that could load it; the supervisor starts them again")
        group = -(-len(names) // GROUPS)
        try:
            for start in range(0, len(names), group):
                named = names[: start + group]  # `names[:start]` have loaded it
                self._shared_state.write(NEXT, {**after, "who": named})
                self._wait("ready", serial, named[start:], FACTOR * load_s)
            self._shared_state.write(TARGET, after)
            self._wait("serial", serial, names, FACTOR * load_s)
        except Unavailable:
            if self.target.serial == serial:
                self._shared_state.write(TARGET, asdict(replace(before, serial=serial + 1)))
            raise
        finally:
            self._shared_state.write(NEXT, {"serial": serial})

    def abandon_next(self) -> None:
        """Have workers drop bundles that an earlier follower made them load, but not serve."""
        coming = self._shared_state.read(NEXT)
        if coming.get("champion"):
            self._shared_state.write(NEXT, {"serial": coming["serial"]})

    def settle(self) -> None:
        """Wait until every worker serves the target; a worker may only be starting.

        Raises:
            Unavailable: a worker could not load a bundle, is missing, or took too long.
        """
        self._wait("serial", self.target.serial, self._names, TIMEOUT_SECONDS)

    def _living(self) -> list[str]:
        """The names of the workers whose process exists."""
        entries = {name: self._shared_state.read(name) for name in self._names}
        return [name for name, entry in entries.items() if entry and self._alive(entry["pid"])]

    def _wait(self, key: str, serial: int, names: list[str], extra: float) -> None:
        """Wait until workers' entries have this serial, or a later one, under `key` or `serial`.

        Args:
            key: `ready` or `serial`.
            extra: seconds beside the usual timeouts.

        Raises:
            Unavailable: a worker has failed, is missing, or takes too long; or the service stops.
        """
        begun = self._clock.monotonic()
        until, missing_since = begun + TIMEOUT_SECONDS + extra, dict.fromkeys(names, begun)
        while True:
            waiting, now = False, self._clock.monotonic()
            for name in names:
                entry = self._shared_state.read(name)
                if entry and entry["failed"] == serial:
                    raise Unavailable(f"{name} could not take it: {entry['error']}")
                if entry and max(entry[key], entry["serial"]) >= serial and self._alive(entry["pid"]):
                    continue
                waiting = True
                if entry and self._alive(entry["pid"]):
                    missing_since[name] = now
                elif now - missing_since[name] > RESTART_SECONDS + extra:
                    raise Unavailable(f"{name} died and did not come back with it")
            if not waiting:
                return
            if now > until:
                raise Unavailable(f"not every worker had it after {now - begun:.0f} s")
            if self._clock.pause(POLL_SECONDS):
                raise Unavailable("the service stops")


def bundle_at(folder: Path, bundle_version: str, model_version: str) -> BundleRef:
    """The reference to a bundle, with an absolute path."""
    return BundleRef(str(folder.absolute()), bundle_version, model_version)
