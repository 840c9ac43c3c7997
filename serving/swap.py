"""A worker's own part in a swap: it makes ready what comes next, beside what it serves, and changes over.

The worker stays, and so do its connections. A new generation of workers that takes over the port would lose
calls: gRPC's C core cancels those that arrive between its shutdown and the moment when the client has read
GOAWAY. Here the new bundle is loaded and warmed on a thread of its own, as soon as the board's note `next`
names it and says that it is this worker's turn. When all workers have it, `target` names it too; then, on the
reactor's thread and between two batches, one reference is changed. What had begun with the old bundle keeps
it alive until it is done. So all workers change within a tenth of a second, or none does.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving import heap
from serving.board import Board
from serving.served import Lineup, Served

log = logging.getLogger(__name__)

TARGET, NEXT = "target", "next"
POLL_SECONDS = 0.1
PATIENCE = 30.0  # seconds for the reactor to change a reference
SLICE = 0.0005  # seconds that loading may keep a thread that answers waiting; a tenth of what Python has

LONGEST = 2000  # characters of an error that the note has

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
    """Watches the board, on a thread of its own, until it is stopped.

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
        self._ready: tuple[int, Lineup] | None = None  # what comes next, by the serial of its target
        self._failed, self._error = 0, ""
        self._turns = (0, 0)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="swapper", daemon=True)
        self._note()

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Take nothing further; what is being loaded is let go."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            turns = self._board.turn(TARGET), self._board.turn(NEXT)
            if turns != self._turns:
                self._turns = turns
                self._change(self._board.read(TARGET))
                self._prepare(self._board.read(NEXT))

    def _prepare(self, coming: Mapping[str, Any]) -> None:
        """Make ready what comes next, when it is this worker's turn; let go of what comes no more."""
        serial = coming.get("serial", 0)
        if not coming.get("champion"):
            if self._ready is not None:
                self._ready = None
                self._note()
                heap.trim()
        elif self._name in coming["who"] and serial > max(self._serial, self._failed, self._ready_for):
            self._ready = None
            self._make_ready(coming)

    def _make_ready(self, target: Mapping[str, Any]) -> None:
        try:
            with _yielding():
                self._ready = target["serial"], lineup_of(target, self._load, self._lineup)
        except Exception as error:  # whatever it is, what is being served goes on
            log.error("worker %d: stays with its bundle: %s", os.getpid(), error)
            self._ready, self._failed, self._error = None, target["serial"], str(error)
        self._note()

    def _change(self, target: Mapping[str, Any]) -> None:
        """Serve the target, which is ready but where this worker has only just been started."""
        serial = target["serial"]
        if serial in (self._serial, self._failed):
            return
        if self._ready_for != serial:
            self._make_ready(target)
        if self._ready is None:
            return
        lineup, swapped = self._ready[1], threading.Event()
        self._swap(lineup, swapped.set)
        if not swapped.wait(PATIENCE) or self._stopped.is_set():
            return  # the reactor has stopped
        self._lineup, self._serial, self._ready = lineup, serial, None
        self._failed, self._error = 0, ""
        self._note()
        del lineup
        heap.trim()

    @property
    def _ready_for(self) -> int:
        """The serial of what is ready; 0 where nothing is."""
        return self._ready[0] if self._ready else 0

    def _note(self) -> None:
        note = {
            "serial": self._serial,
            "ready": self._ready_for,
            "failed": self._failed,
            "error": self._error[:LONGEST],
            "pid": os.getpid(),
        }
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
