"""A worker's own part in a swap: it takes what the board's target names, beside what it serves.

The worker stays, and so do its connections. A new generation of workers that takes over the port would lose
calls: gRPC's C core cancels those that arrive between its shutdown and the moment when the client has read
GOAWAY. Here the new bundle is loaded and warmed on a thread of its own; then, on the reactor's thread and
between two batches, one reference is changed. What had begun with the old bundle keeps it alive until
it is done.
"""

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.board import Board
from serving.served import Lineup, Served

log = logging.getLogger(__name__)

TARGET = "target"
POLL_SECONDS = 0.1
PATIENCE = 30.0  # seconds for the reactor to change a reference
SLICE = 0.0005  # seconds that loading may keep a thread that answers waiting; a tenth of what Python has

Load = Callable[[Path, str], Served]  # folder, version in the registry


def worker_name(slot: int) -> str:
    """Of the worker in a slot, and of its note."""
    return f"worker {slot}"


def lineup_of(target: Mapping[str, Any], load: Load, served: Lineup | None = None) -> Lineup:
    """Who a target says shall answer.

    Args:
        target: as the follower writes it.
        load: loads a bundle that is not being served.
        served: who answers now; what the target names of them is not loaded again.

    Raises:
        BundleError: a bundle cannot be used.
    """
    known = {each.version: each for each in (served.all if served else ())}

    def one(wanted: Mapping[str, Any]) -> Served:
        return known.get(wanted["bundle_version"]) or load(Path(wanted["folder"]), wanted["model_version"])

    canary = target.get("canary")
    champion = one(target["champion"])
    return Lineup(champion, one(canary), canary["share"]) if canary else Lineup(champion)


class Swapper:
    """Watches the target, on a thread of its own, until it is stopped.

    Args:
        board: of the service.
        name: of the worker's own note.
        lineup: that is served.
        serial: of the target that it comes from.
        load: loads a bundle.
        swap: lets another lineup answer, and calls back when it does.
    """

    def __init__(
        self,
        board: Board,
        name: str,
        lineup: Lineup,
        serial: int,
        load: Load,
        swap: Callable[[Lineup, Callable[[], None]], None],
    ) -> None:
        self._board, self._name = board, name
        self._lineup, self._serial = lineup, serial
        self._load, self._swap = load, swap
        self._turn = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="swapper", daemon=True)
        self._note()

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Take no further target; one that is being loaded is let go."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            turn = self._board.turn(TARGET)
            if turn != self._turn:
                self._turn = turn
                self._take(self._board.read(TARGET))

    def _take(self, target: Mapping[str, Any]) -> None:
        if target["serial"] == self._serial:
            return
        try:
            with _yielding():
                lineup = lineup_of(target, self._load, self._lineup)
        except Exception as error:  # whatever it is, what is being served goes on
            log.error("worker %d: stays with its bundle: %s", os.getpid(), error)
            self._note(target["serial"], str(error))
            return
        swapped = threading.Event()
        self._swap(lineup, swapped.set)
        if not swapped.wait(PATIENCE) or self._stopped.is_set():
            return  # the reactor has stopped
        self._lineup, self._serial = lineup, target["serial"]
        self._note()
        _give_back()

    def _note(self, failed: int = 0, error: str = "") -> None:
        note = {"serial": self._serial, "failed": failed, "error": error[:2000], "pid": os.getpid()}
        self._board.write(self._name, note)


@contextmanager
def _yielding() -> Iterator[None]:
    """Here Python's threads take turns quickly: another one answers requests."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SLICE)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _give_back() -> None:
    """Memory that the old bundle has freed goes back to the system, where glibc would keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
