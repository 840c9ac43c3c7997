"""What the shadow has found, told to MLflow: a run for each pair of bundles that were compared."""

import logging
import os
import platform
from collections.abc import Mapping
from typing import Any

import psutil

from protos.errors import TwinspireError
from protos.mlflow_names import (
    SHADOW_EMPTY,
    SHADOW_LATENCY_RATIO,
    SHADOW_OVERLAP,
    SHADOW_QUERIES,
    SHADOW_SCORE_SHIFT,
)
from serving.board import Board
from serving.following.registry import Registry, ShadowPair
from serving.following.target import Clock

log = logging.getLogger(__name__)

NOTE = "shadow"
INTERVAL = 30.0  # seconds between two times that figures are logged
MOST_KEPT = 8  # pairs whose figures wait for a registry that does not answer
# metric -> the mean in the shadow's note, and which of its sums says of how many queries that is
MEANS = {
    SHADOW_OVERLAP: ("overlap_at_10", "overlaps"),
    SHADOW_SCORE_SHIFT: ("score_shift", "shifts"),
    SHADOW_LATENCY_RATIO: ("latency_ratio", "log_ratios"),
}


class ShadowLog:
    """Logs the board's note `shadow`. What cannot be logged is tried again; nobody waits for it.

    Args:
        model: that is followed, such as `models:/pydocs@champion`.
        board: with the note.
        registry: to tell.
        clock: to wait by.
    """

    def __init__(self, model: str, board: Board, registry: Registry, clock: Clock) -> None:
        self._name = model.removeprefix("models:/").partition("@")[0]
        self._board, self._registry, self._clock = board, registry, clock
        self._server = _server()
        self._due = 0.0
        self._resume = True  # the process before may have had a run of this pair
        self._begun: tuple[Any, ...] = ()
        self._run = ""
        self._logged: dict[str, float] = {}
        self._told = ""
        self._kept: list[dict[str, Any]] = []

    def keep(self) -> None:
        """One of the pair is about to change: what was found until now is logged at the next look."""
        self._kept = [*self._kept, self._board.read(NOTE)][-MOST_KEPT:]
        self._due = 0.0

    def look(self) -> None:
        """Log what is new, if it is time for that."""
        if self._clock.monotonic() >= self._due:
            self._due = self._clock.monotonic() + INTERVAL
            self._log_all()

    def end(self) -> None:
        """Log what is new, and end the run."""
        self._log_all()
        self._finish()

    def _log_all(self) -> None:
        notes = [*self._kept, self._board.read(NOTE)]
        while notes and self._log(notes[0]):
            notes.pop(0)
        self._kept = notes[:-1]  # the last is still on the board

    def _log(self, note: Mapping[str, Any]) -> bool:
        """Log one note, where it says anything; gives whether that is done."""
        if not note.get("queries") or not note.get("champion"):
            return True
        pair = ShadowPair(self._name, note["bundle_version"], note["champion"], self._server)
        figures = _figures(note)
        try:
            if self._begun != (pair, note["round"]):
                self._finish()
                self._run = self._registry.shadow_run(pair, self._resume)
                self._begun, self._resume, self._logged = (pair, note["round"]), False, {}
            if figures != self._logged:
                self._registry.log_shadow(self._run, figures, int(note["queries"]), ended=False)
                self._logged = figures
            self._told = ""
            return True
        except TwinspireError as error:
            if str(error) != self._told:
                log.warning("figures of the shadow cannot be logged: %s", error)
            self._told = str(error)
            return False

    def _finish(self) -> None:
        run, self._run = self._run, ""
        if run:
            try:
                self._registry.log_shadow(run, {}, 0, ended=True)
            except TwinspireError as error:
                log.warning("a run of the shadow cannot be ended: %s", error)


def _figures(note: Mapping[str, Any]) -> dict[str, float]:
    """Metric -> value; a mean of nothing is left out."""
    means = {key: float(note[mean]) for key, (mean, count) in MEANS.items() if note["sums"][count]}
    return {SHADOW_QUERIES: float(note["queries"]), SHADOW_EMPTY: float(note["empty"]), **means}


def _server() -> str:
    """Names the service that this process belongs to, from its start to its end."""
    supervisor = os.getppid()
    return f"{platform.node()}:{supervisor}:{psutil.Process(supervisor).create_time():.0f}"
