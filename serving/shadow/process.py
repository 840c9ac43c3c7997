"""What the shadow does: it follows its target, asks it what the service was asked, and counts.

The `shadow target` on the board says which bundle that is, and `target` which is the champion: answers of
any other, such as one that is being swapped out, are not compared. The sums belong to one pair of the two
and begin anew with another. They stay on the board, so that a shadow that was killed goes on from there.
"""

import gc
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from protos import retrieval_pb2 as wire
from protos.errors import BundleDamaged, TwinspireError
from serving import convert
from serving.board import Board
from serving.limits import Limits
from serving.retriever import Retriever
from serving.shadow.channel import Channel, Offered
from serving.shadow.comparison import Own, compare
from serving.shadow.record import Record
from serving.workers import Lifeline

log = logging.getLogger(__name__)

NOTE, WANTED, SERVED = "shadow", "shadow target", "target"  # on the board; the first is written here
POLL_SECONDS = 0.2  # between two looks at the board
NOTE_SECONDS = 1.0  # between two notes while there is something to do
BATCH = 32  # queries between two looks at the board
LONGEST = 500  # characters of an error that are told
LOADING = "it is being loaded"
NOTHING = "the alias names no other bundle than the champion's"


class Shadow:
    """Asks a challenger. Its own process makes it work by `run`.

    Args:
        channel: that queries come from.
        board: with notes named `shadow`, `shadow target` and `target`.
        model: what is followed, such as `models:/pydocs@challenger`; for who reads the note.
        limits: of the service that the queries were asked of.
    """

    def __init__(self, channel: Channel, board: Board, model: str, limits: Limits) -> None:
        self._channel, self._board, self._model, self._limits = channel, board, model, limits
        self._turns = (-1, -1)  # of the board's notes when they were last read
        self._wanted: dict[str, Any] | None = None
        self._champion = ""  # of the moment
        self._retriever: Retriever | None = None
        self._error = ""
        self._record = Record({})
        self._failures: set[str] = set()  # kinds of unforeseen errors that the log knows of
        self._is_noted, self._noted = False, 0.0

    def run(self, lifeline: Lifeline) -> None:
        """Work until it is time to stop, and take no time from anybody."""
        lifeline.ready()
        _give_way()
        stopped = threading.Event()

        def await_end() -> None:
            lifeline.wait()
            stopped.set()

        threading.Thread(target=await_end, name="lifeline", daemon=True).start()
        self.resume()
        try:
            while not stopped.is_set():
                self.step()
        finally:
            self._channel.ask(False)
            self._note()

    def resume(self) -> None:
        """Go on from the note of the process before, if there was one."""
        self._channel.ask(False)
        self._record = Record(self._board.read(NOTE))

    def step(self, seconds: float = POLL_SECONDS) -> None:
        """Look at the board, then ask what waits, or wait for so many seconds for something to ask."""
        self._follow()
        waiting = self._channel.wait(seconds)
        for n, offered in enumerate(self._channel.receive(BATCH) if waiting else ()):
            self._compare(offered, timed=n == 0 and offered.batch == 1)
        if not self._is_noted and (not waiting or time.monotonic() - self._noted >= NOTE_SECONDS):
            self._note()

    def _follow(self) -> None:
        turns = self._board.turn(WANTED), self._board.turn(SERVED)
        if turns == self._turns:
            return
        self._turns = turns
        self._champion = self._board.read(SERVED).get("champion", {}).get("bundle_version", "")
        wanted = self._board.read(WANTED)
        if wanted != self._wanted:
            self._wanted = wanted
            self._take(wanted)

    def _take(self, wanted: Mapping[str, Any]) -> None:
        """Ask another target from now on; none where it cannot be loaded, until there is another."""
        version = wanted.get("bundle_version", "")
        if self._retriever is None or self._retriever.manifest.bundle_version != version:
            self._channel.ask(False)
            self._retriever, self._error = None, LOADING if wanted else NOTHING
            gc.collect()  # two bundles at once may be too much for memory
        self._failures.clear()
        self._record.challenge(version, self._channel.dropped)
        self._note()
        if wanted and self._retriever is None:
            self._load(wanted)
            self._note()
        self._channel.ask(self._retriever is not None)

    def _load(self, wanted: Mapping[str, Any]) -> None:
        folder = Path(wanted["folder"])
        try:
            retriever = Retriever.load(folder)
            found, expected = retriever.manifest.bundle_version, wanted["bundle_version"]
            if found != expected:
                raise BundleDamaged(f"{folder}: is bundle {found[:12]}, expected {expected[:12]}")
        except TwinspireError as error:
            # Where bundles lie on this machine is nothing for those who may ask for `Info`.
            self._error = str(error).replace(f"{folder.parent}{os.sep}", "")[:LONGEST]
            log.error("the shadow cannot be asked: %s", error)
        except Exception as error:
            self._error = f"cannot be loaded ({type(error).__name__}); the log says why"
            log.exception("%s: the shadow cannot be asked", folder)
        else:
            self._retriever, self._error = retriever, ""
            log.info("the shadow is bundle %s", found[:12])

    def _compare(self, offered: Offered, timed: bool) -> None:
        """Ask one query; one that the challenger cannot take is counted and harms no other."""
        if self._retriever is None:
            return  # of a challenger that is no more
        champion = wire.SearchResponse.FromString(offered.response)
        if champion.bundle_version != self._champion:
            return
        if self._champion == self._retriever.manifest.bundle_version:
            return  # the challenger has just become champion, and agrees with itself
        self._record.answer(self._champion, self._channel.dropped)
        self._is_noted = False
        try:
            own = self._answer(self._retriever, wire.SearchRequest.FromString(offered.request))
        except Exception as error:
            self._record.sums.fail()
            self._tell(error)
        else:
            self._record.sums.add(compare(champion, own, timed))

    def _answer(self, retriever: Retriever, request: wire.SearchRequest) -> Own:
        """As the service does it; what it prepares outside its own times stays outside here, too."""
        prepared = retriever.prepare(convert.query_from_wire(request.query, "query"))
        k = self._limits.k(request.k)
        wanted = retriever.wanted(k, request.exclude, request.exclude_history)
        started = time.thread_time_ns()
        encoded = retriever.encode_prepared([prepared])
        (found,) = retriever.find(encoded, [wanted])
        us = (time.thread_time_ns() - started) / 1000
        ids = [retriever.catalogue.ids[row] for row in found.rows]
        scores = np.asarray(found.scores, np.float32).tolist()  # as the wire carries them
        return Own(ids, scores, convert.basis_to_wire(found.asked.basis), us)

    def _tell(self, error: Exception) -> None:
        """Log an error that no query should lead to, the first of its kind."""
        kind = type(error).__name__
        if not isinstance(error, TwinspireError) and kind not in self._failures:
            self._failures.add(kind)
            log.error("the shadow could not answer a query", exc_info=error)

    def _note(self) -> None:
        note = {
            "model": self._model,
            "model_version": (self._wanted or {}).get("model_version", ""),
            **self._record.document(),
            "last_error": self._error,
            "pid": os.getpid(),
        }
        self._board.write(NOTE, note)
        self._is_noted, self._noted = True, time.monotonic()


def _give_way() -> None:
    """Run only while no other process wants the core, as far as the system knows how to."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        os.nice(10)
