"""Logs the shadow's figures to MLflow: a run for each pair of bundles that were compared."""

import logging
import os
import platform
from collections.abc import Mapping
from typing import Any

import psutil

from twinspire.protos.errors import TwinspireError
from twinspire.protos.mlflow_keys import (
    SHADOW_EMPTY,
    SHADOW_LATENCY_RATIO,
    SHADOW_OVERLAP,
    SHADOW_QUERIES,
    SHADOW_SCORE_SHIFT,
)
from twinspire.serving.rollout.registry import ModelRegistry, ShadowPair
from twinspire.serving.rollout.target import Clock
from twinspire.serving.shared_state import SHADOW, SharedState

log = logging.getLogger(__name__)

LOG_SECONDS = 30.0  # between two times that figures are logged
MAX_PENDING = 8  # pairs whose figures are kept while the registry does not answer
# metric -> name of the mean in the shadow's entry, and of the number of queries in the mean
MEANS = {
    SHADOW_OVERLAP: ("overlap_at_10", "overlaps"),
    SHADOW_SCORE_SHIFT: ("score_shift", "shifts"),
    SHADOW_LATENCY_RATIO: ("latency_ratio", "log_ratios"),
}


class ShadowLog:
    """Logs the entry `SHADOW`. What cannot be logged is retried later.

    Args:
        model: the alias that is followed, such as `models:/pydocs@champion`.
        shared_state: with the entry.
    """

    def __init__(self, model: str, shared_state: SharedState, registry: ModelRegistry, clock: Clock) -> None:
        self._name = model.removeprefix("models:/").partition("@")[0]
        self._shared_state, self._registry, self._clock = shared_state, registry, clock
        self._server = _server()
        self._due = 0.0
        self._resume = True  # an earlier process may have begun a run of this pair
        self._current: tuple[Any, ...] = ()
        self._run = ""
        self._logged: dict[str, float] = {}
        self._error = ""
        self._pending: list[dict[str, Any]] = []

    def keep(self) -> None:
        """One bundle of the pair is about to change: log its figures so far at the next poll."""
        self._pending = [*self._pending, self._shared_state.read(SHADOW)][-MAX_PENDING:]
        self._due = 0.0

    def poll(self) -> None:
        """Log new figures, if it is time for that."""
        if self._clock.monotonic() >= self._due:
            self._due = self._clock.monotonic() + LOG_SECONDS
            self._log_all()

    def end(self) -> None:
        """Log new figures, and end the run."""
        self._log_all()
        self._finish()

    def _log_all(self) -> None:
        entries = [*self._pending, self._shared_state.read(SHADOW)]
        while entries and self._log(entries[0]):
            entries.pop(0)
        self._pending = entries[:-1]  # the last one is still in shared memory

    def _log(self, entry: Mapping[str, Any]) -> bool:
        """Log one entry; returns False if that failed, so that the entry is logged again later."""
        if not entry.get("queries") or not entry.get("champion"):
            return True
        pair = ShadowPair(self._name, entry["bundle_version"], entry["champion"], self._server)
        figures = _figures(entry)
        try:
            if self._current != (pair, entry["round"]):
                self._finish()
                self._run = self._registry.shadow_run(pair, self._resume)
                self._current, self._resume, self._logged = (pair, entry["round"]), False, {}
            if figures != self._logged:
                self._registry.log_shadow(self._run, figures, int(entry["queries"]), ended=False)
                self._logged = figures
            self._error = ""
            return True
        except TwinspireError as error:
            if str(error) != self._error:
                log.warning("figures of the shadow cannot be logged: %s", error)
            self._error = str(error)
            return False

    def _finish(self) -> None:
        run, self._run = self._run, ""
        if run:
            try:
                self._registry.log_shadow(run, {}, 0, ended=True)
            except TwinspireError as error:
                log.warning("a run of the shadow cannot be ended: %s", error)


def _figures(entry: Mapping[str, Any]) -> dict[str, float]:
    """Metric -> value; a mean of no queries is left out."""
    means = {key: float(entry[mean]) for key, (mean, count) in MEANS.items() if entry["sums"][count]}
    return {SHADOW_QUERIES: float(entry["queries"]), SHADOW_EMPTY: float(entry["empty"]), **means}


def _server() -> str:
    """Identifies the service of this process, from its start to its end."""
    supervisor = os.getppid()
    return f"{platform.node()}:{supervisor}:{psutil.Process(supervisor).create_time():.0f}"
