"""Encodes live items for bundles: those that answer, and those to come; for the catalogue's process.

The thread that commits encodes what it has written. A bundle that has more to encode, such as a new one, does
so on a thread of its own, and so it delays neither writes nor other bundles.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from twinspire.protos.errors import TwinspireError, Unavailable
from twinspire.serving.live.encoded_items import SUFFIX
from twinspire.serving.live.encoding.change_encoder import PAGE, ChangeEncoder
from twinspire.serving.live.store.changes import START, Position
from twinspire.serving.live.store.store import Store
from twinspire.serving.shared_state import NEXT, SHADOW_TARGET, TARGET, SharedState

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1  # between two checks for a damaged file, while nothing is written
RETRY_SECONDS = 1.0  # between two attempts to begin, or to go on after an error
MAX_SECONDS = 30.0  # between two attempts to begin, after many have failed
KEPT = 8  # bundles of one store whose encoded items are kept: those of bundles that may be served again


class _BundleEncoder:
    """Keeps the encoded items of one bundle up to date, on a thread of its own if there is much to do.

    Args:
        folder: of the bundle.
        open_store: opens a connection to the store.
        place: folder of all live items.
        done: called after something was encoded, or could not be.
        before: a thread that must have ended before, because it writes the same items.
    """

    def __init__(
        self,
        folder: Path,
        open_store: Callable[[], Store],
        place: Path,
        done: Callable[[], None],
        before: threading.Thread | None,
    ) -> None:
        self.error = ""
        self.seconds, self.items = 0.0, 0
        self._wake = threading.Event()
        self._folder, self._open_store, self._place = folder, open_store, place
        self._done, self._before = done, before
        self._known = START
        self._lock = threading.Lock()  # of the store and the encoder
        self._store: Store | None = None
        self.encoder: ChangeEncoder | None = None  # until the bundle has been opened
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self.thread.start()

    def encode(self, known: Position) -> None:
        """Encode what is missing, up to a position of the store: now if that is little, or on the thread."""
        if known == self._known:
            return
        self._known, encoder = known, self.encoder
        is_little = (
            encoder is not None
            and not self.error
            and not encoder.is_removed  # rows that are added to a damaged file are lost
            and known.sequence - encoder.sequence <= PAGE
        )
        if encoder is None or not is_little or not self._lock.acquire(blocking=False):
            self._wake.set()
            return
        try:
            self._run_timed(encoder.encode)
        except Exception as error:  # of any kind: the thread tries again
            self._fail(error)
        finally:
            self._lock.release()

    def close(self) -> threading.Thread:
        """Stop as soon as the current work has ended; returns the thread."""
        self._stop.set()
        self._wake.set()
        return self.thread

    def _run(self) -> None:
        if self._before is not None:
            self._before.join()
        pause = RETRY_SECONDS
        while not self._stop.is_set():
            self._wake.clear()
            try:
                with self._lock:
                    if self._store is None:
                        self._store = self._open_store()
                    if self.encoder is None:
                        self.encoder = ChangeEncoder(self._folder, self._store, self._place, self._stop)
                    self._run_timed(self.encoder.run_once)
            except Exception as error:  # of any kind: other bundles and writes go on
                self._fail(error)
                pause = RETRY_SECONDS if self.encoder else min(MAX_SECONDS, 2 * pause)
                self._stop.wait(pause if isinstance(error, TwinspireError | OSError) else MAX_SECONDS)
            else:
                self.error = ""
                self._wake.wait(POLL_SECONDS)
        if self.encoder is not None:
            self.encoder.close()
        if self._store is not None:
            self._store.close()

    def _run_timed(self, encode: Callable[[Position, Callable[[], None]], int]) -> None:
        started = time.monotonic()
        if count := encode(self._known, self._done):
            self.items += count
            self.seconds += time.monotonic() - started

    def _fail(self, error: Exception) -> None:
        reason = _public_text(error)
        if reason != self.error:
            unforeseen = None if isinstance(error, TwinspireError | OSError) else error
            log.error("%s: its live items cannot be encoded: %s", self._folder, error, exc_info=unforeseen)
        self.error = reason
        self._done()


class BundleEncoders:
    """All bundles for which live items are encoded; for the thread that commits.

    Args:
        shared_state: names the bundles.
        store_id: of the store.
        open_store: opens a connection for another thread.
        place: folder of all live items, which no other service uses.
        done: called on any thread after something was encoded, or could not be.
    """

    def __init__(
        self,
        shared_state: SharedState,
        store_id: str,
        open_store: Callable[[], Store],
        place: Path,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        self._shared_state, self._store_id, self._open_store = shared_state, store_id, open_store
        self._place, self._done = place, done
        self._versions: tuple[int, ...] = ()
        self._all: dict[str, _BundleEncoder] = {}
        self._served: list[str] = []
        self._closing: dict[str, threading.Thread] = {}  # of bundles that are gone

    def follow(self, known: Position) -> None:
        """Take up bundles that are to come, drop those that are gone, and let all encode what is missing.

        Args:
            known: where the history of the store ends.
        """
        entries = [each for each in (TARGET, NEXT, SHADOW_TARGET) if each in self._shared_state.names]
        versions = tuple(map(self._shared_state.version, entries))
        if versions != self._versions:
            self._versions = versions
            self._take([self._shared_state.read(each) for each in entries])
        for each in self._all.values():
            each.encode(known)

    def close(self, seconds: float | None = None) -> None:
        """Stop all threads.

        Args:
            seconds: to wait for the current work; if not given, until it has ended.
        """
        threads = [*self._closing.values(), *(each.close() for each in self._all.values())]
        self._all, self._served = {}, []
        until = None if seconds is None else time.monotonic() + seconds
        for each in threads:
            each.join(until and max(0.0, until - time.monotonic()))

    @property
    def lowest_snapshot(self) -> int | None:
        """The lowest sequence of the snapshots from which the bundles that answer were built.

        None until that is known of each of them.
        """
        return _lowest([each.encoder.start if each.encoder else None for each in self._serving()])

    @property
    def sequence(self) -> int | None:
        """All changes up to this sequence are encoded for each bundle that answers.

        None until that is known of each of them.
        """
        return _lowest([each.encoder.sequence if each.encoder else None for each in self._serving()])

    @property
    def serves(self) -> bool:
        """Whether a bundle answers."""
        return bool(self._served)

    @property
    def error(self) -> str:
        """Why a bundle that answers is not up to date; empty if it is."""
        return next((each.error for each in self._serving() if each.error), "")

    def failure(self, sequence: int) -> str:
        """Why a bundle that answers could not encode the item of a change; empty if it could."""
        encoders = [each.encoder for each in self._serving() if each.encoder]
        return next((why for each in encoders if (why := each.failures.get(sequence, ""))), "")

    def document(self) -> dict[str, Any]:
        """For shared memory: what has been encoded, by bundle version."""
        return {
            version[:12]: {
                "sequence": each.encoder.sequence if each.encoder else 0,
                "seconds": round(each.seconds, 3),
                "items": each.items,
            }
            for version, each in self._all.items()
        }

    def _serving(self) -> Iterator[_BundleEncoder]:
        every = self._all  # other threads read this
        return (every[version] for version in self._served if version in every)

    def _take(self, entries: Sequence[Mapping[str, Any]]) -> None:
        named: dict[str, Path] = {}
        for entry in entries:
            for each in (entry.get("champion"), entry.get("canary"), entry):
                if each and each.get("folder"):
                    named.setdefault(each["bundle_version"], Path(each["folder"]))
        gone = {version: self._all[version].close() for version in self._all.keys() - named.keys()}
        self._closing |= gone
        self._closing = {version: each for version, each in self._closing.items() if each.is_alive()}
        self._all = {
            version: self._all.get(version)
            or _BundleEncoder(folder, self._open_store, self._place, self._done, self._closing.get(version))
            for version, folder in named.items()
        }
        try:
            prune(self._place / self._store_id, {*named, *self._closing}, KEPT)
        except OSError as error:
            log.error("old encoded items cannot be removed: %s", error)
        served = [entries[0].get("champion"), entries[0].get("canary")]
        self._served = [each["bundle_version"] for each in served if each]


def _public_text(error: Exception) -> str:
    """Why items cannot be encoded, as clients may read it: without paths, which most errors name."""
    if isinstance(error, Unavailable):  # which names none
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "the bundle or its encoded items cannot be used; the log says why"


def prune(folder: Path, keep: Collection[str] = (), most: int = 0) -> None:
    """Remove encoded items that were not written for longest; they can be encoded again.

    Args:
        folder: of one store.
        keep: versions of bundles whose items stay.
        most: bundles to keep, the last that were written.
    """
    found = sorted((each for each in folder.glob("*") if each.is_dir()), key=_written, reverse=True)
    for each in found[most:]:
        if each.name not in keep:
            shutil.rmtree(each, ignore_errors=True)


def _written(path: Path) -> float:
    """When a bundle's items, or a file, were last written, in Unix seconds; 0 if they are gone."""
    times = [0.0]
    for each in (path, *path.glob(f"*{SUFFIX}*")):
        with suppress(FileNotFoundError):
            times.append(each.stat().st_mtime)
    return max(times)


def _lowest(sequences: Sequence[int | None]) -> int | None:
    """None if one of them is None, or if there are none."""
    known = [each for each in sequences if each is not None]
    return min(known) if known and len(known) == len(sequences) else None
