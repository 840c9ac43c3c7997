"""Which bundles shall answer, as the follower tells the workers, and whether they do."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from protos.errors import Unavailable
from serving.board import Board
from serving.swap import NEXT, TARGET

SLICE = 0.05  # seconds between two looks at the workers' notes
PATIENCE = 60.0  # seconds that all workers may take for a target, beside `FACTOR` times what a trial took
FACTOR = 10.0
GONE = 10.0  # seconds that a worker may be away meanwhile: one that died has long been started again
PARTS = 4  # that workers load in, one after the other
WORKER = "worker "  # how the names of the workers' notes begin


@dataclass(frozen=True)
class Bundle:
    """A bundle that is served, or shall be.

    Args:
        folder: where it is.
        bundle_version: of it.
        model_version: of the registry.
    """

    folder: str
    bundle_version: str
    model_version: str

    @classmethod
    def of(cls, note: Mapping[str, Any]) -> Self | None:
        """From a note on the board; None where it names no bundle."""
        names = ("folder", "bundle_version", "model_version")
        return cls(*(note[name] for name in names)) if note.get("folder") else None


@dataclass(frozen=True)
class Target:
    """What all workers shall serve.

    Args:
        serial: grows by one with every change.
        champion, canary: which bundles.
        share: of the requests that the canary answers, 0 to 1.
    """

    serial: int
    champion: Bundle
    canary: Bundle | None = None
    share: float = 0.0

    @classmethod
    def of(cls, note: Mapping[str, Any]) -> Self:
        """From the board's note."""
        champion, canary = Bundle.of(note["champion"]), note["canary"]
        assert champion is not None
        return cls(note["serial"], champion, Bundle.of(canary or {}), (canary or {}).get("share", 0.0))

    def note(self) -> dict[str, Any]:
        """As the board has it."""
        canary = asdict(self.canary) | {"share": self.share} if self.canary else None
        return {"serial": self.serial, "champion": asdict(self.champion), "canary": canary}


class Clock:
    """Time to wait by, which only grows, and time to show.

    Args:
        stop: ends every pause.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def time(self) -> float:
        """Unix time, which may be set back."""
        return time.time()

    def pause(self, seconds: float) -> bool:
        """Wait, if not told to stop meanwhile; gives whether so."""
        return self.stop.wait(seconds)


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Workers:
    """Tells the workers what to serve, by the board; for the follower alone.

    Args:
        board: of the service.
        clock: to wait by.
        alive: whether there is a process of that id.
    """

    def __init__(self, board: Board, clock: Clock, alive: Callable[[int], bool] = is_alive) -> None:
        self._board, self._clock, self._alive = board, clock, alive
        self._names = [name for name in board.names if name.startswith(WORKER)]

    @property
    def target(self) -> Target:
        """What they are told now."""
        return Target.of(self._board.read(TARGET))

    def change(
        self, champion: Bundle, canary: Bundle | None, share: float = 0.0, load_s: float = 0.0
    ) -> None:
        """Have all workers serve this, or none: they change over when each of them has it ready.

        A part of them loads at a time, so that the others answer undisturbed.

        Args:
            champion, canary, share: as of `Target`.
            load_s: seconds that it took to load what is new in a trial.

        Raises:
            Unavailable: a worker could not take it, or not all of them did in time; all is as it was.
        """
        before = self.target
        serial = 1 + max(before.serial, self._board.read(NEXT).get("serial", 0))  # none is used twice
        after = Target(serial, champion, canary, share if canary else 0.0)
        names = self._living()
        together = -(-len(names) // PARTS)
        try:
            for start in range(0, len(names), together):
                who = names[: start + together]
                self._board.write(NEXT, {**after.note(), "who": who})
                self._wait("ready", serial, who[start:], FACTOR * load_s, GONE)
            self._board.write(TARGET, after.note())
            self._wait("serial", serial, names, FACTOR * load_s, GONE)
        except Unavailable:
            if self.target.serial == serial:
                back = Target(serial + 1, before.champion, before.canary, before.share)
                self._board.write(TARGET, back.note())
            raise
        finally:
            self._board.write(NEXT, {"serial": serial})

    def forget(self) -> None:
        """Let go of what a follower before has had made ready, and did not come to have served."""
        coming = self._board.read(NEXT)
        if coming.get("champion"):
            self._board.write(NEXT, {"serial": coming["serial"]})

    def settle(self) -> None:
        """Wait until every worker serves the target.

        Raises:
            Unavailable: a worker could not take it, or not all of them did in time.
        """
        self._wait("serial", self.target.serial, self._names, 0.0, PATIENCE)

    def _living(self) -> list[str]:
        notes = {name: self._board.read(name) for name in self._names}
        return [name for name, note in notes.items() if note and self._alive(note["pid"])]

    def _wait(self, what: str, serial: int, names: list[str], longer: float, gone: float) -> None:
        """Until the notes of workers say under `what`, or that they serve, this serial or a later one."""
        begun = self._clock.monotonic()
        until, gone_since = begun + PATIENCE + longer, dict.fromkeys(names, begun)
        while True:
            waiting, now = False, self._clock.monotonic()
            for name in names:
                note = self._board.read(name)
                if note and note["failed"] == serial:
                    raise Unavailable(f"{name} could not take it: {note['error']}")
                if note and max(note[what], note["serial"]) >= serial and self._alive(note["pid"]):
                    continue
                waiting = True
                if note and self._alive(note["pid"]):
                    gone_since[name] = now
                elif now - gone_since[name] > gone + longer:
                    raise Unavailable(f"{name} died and did not come back with it")
            if not waiting:
                return
            if now > until:
                raise Unavailable(f"not every worker had it after {now - begun:.0f} s")
            if self._clock.pause(SLICE):
                raise Unavailable("the service stops")


def bundle_at(folder: Path, bundle_version: str, model_version: str) -> Bundle:
    """A bundle as the board names it, whatever folder a process is in."""
    return Bundle(str(folder.absolute()), bundle_version, model_version)
