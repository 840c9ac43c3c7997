"""Keeps the newest records of a model's releases in shared memory, for the RPC `Releases`."""

import logging
from collections.abc import Callable
from typing import Any

from protos.errors import TwinspireError
from serving.rollout.registry import ModelRegistry
from serving.rollout.release_records import TEXT, line
from serving.rollout.target import Clock
from serving.shared_state import RELEASES, SharedState

log = logging.getLogger(__name__)

READ_SECONDS = 60.0  # between two reads, and after the first that failed
LONGEST_SECONDS = 900.0  # between two reads that fail


class ReleaseLog:
    """Writes the entry `RELEASES`. A read that fails changes nothing but `last_error` in it.

    Args:
        model: the alias that is followed, such as `models:/pydocs@champion`.
        shared_state: with the entry, which an earlier process may have written.
        served: gives the version that is served.
    """

    def __init__(
        self,
        model: str,
        shared_state: SharedState,
        registry: ModelRegistry,
        clock: Clock,
        served: Callable[[], str],
    ) -> None:
        self._name = model.removeprefix("models:/").partition("@")[0]
        self._shared_state, self._registry, self._clock, self._served = shared_state, registry, clock, served
        before = shared_state.read(RELEASES)
        self._known = {"version": "", "promotion": None, "records": [], "read_at": 0.0, **before}
        self._known["last_error"] = ""
        self._tried = ""  # the version that was served at the last attempt
        self._due = 0.0
        self._seen = ("", "")  # run and outcome of the newest record
        self._failures = 0
        self._logged = ""  # the last error in the log

    def poll(self) -> None:
        """Read the records if another version is served, or if it is time for that."""
        version = self._served()
        if version == self._tried and self._clock.monotonic() < self._due:
            return
        self._tried = version
        try:
            found = self._registry.releases(self._name, version)
        except Exception as error:  # of any kind: nothing that is served depends on it
            self._fail(error)
            return
        if self._logged:
            log.info("%s: its releases can be read again", self._name)
        self._failures, self._logged = 0, ""
        self._due = 0.0 if self._is_moving(found["records"]) else self._clock.monotonic() + READ_SECONDS
        self._known = {**found, "version": version, "read_at": self._clock.time(), "last_error": ""}
        self._write()

    def _is_moving(self, records: list[dict[str, Any]]) -> bool:
        """Whether the outcome of the newest release may still change, so that the next poll reads it again.

        That is so while it is under way. A release that seems to have been interrupted is read once more: its
        run is read before its lock, and it may have ended in between.
        """
        newest = records[0] if records else {"outcome": "done", "run_id": ""}
        seen = newest["run_id"], newest["outcome"]
        known, self._seen = self._seen, seen
        return newest["outcome"] == "under way" or (newest["outcome"] != "done" and seen != known)

    def unanswered(self, error: str) -> None:
        """Record that the registry could not resolve the alias; the records are not read."""
        self._due = 0.0  # to be read as soon as the registry answers
        error = line(error, TEXT)
        if error != self._known["last_error"]:
            self._known["last_error"] = error
            self._write()

    def _fail(self, error: Exception) -> None:
        text = str(error) if isinstance(error, TwinspireError) else f"{type(error).__name__}: {error}"
        text = line(text, TEXT)
        if text != self._logged and not self._clock.stop.is_set():
            log.warning("%s: its releases cannot be read, what is known of them stays: %s", self._name, text)
        self._logged = text
        self._due = self._clock.monotonic() + min(
            LONGEST_SECONDS, READ_SECONDS * 2.0 ** min(self._failures, 9)
        )
        self._failures += 1
        self._known["last_error"] = text
        self._write()

    def _write(self) -> None:
        """Write the entry, without the oldest records if they have no room."""
        entry: dict[str, Any] = dict(self._known)
        while True:
            try:
                self._shared_state.write(RELEASES, entry)
                return
            except ValueError:
                if not entry["records"]:
                    entry = {**entry, "promotion": None}
                entry = {**entry, "records": entry["records"][:-1]}
