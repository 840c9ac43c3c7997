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

from twinspire.protos import bundle
from twinspire.protos.errors import TwinspireError, Unavailable
from twinspire.serving.live.encoded_items import SUFFIX, EncodedOrigin, origin_of
from twinspire.serving.live.encoding.change_encoder import PAGE, ChangeEncoder
from twinspire.serving.live.store.changes import START, FeedPage, LastWrite, Position
from twinspire.serving.live.store.store import Store
from twinspire.serving.shared_state import NEXT, SHADOW_TARGET, TARGET, SharedState

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1  # between two looks for a damaged file, while nothing is written
RETRY_SECONDS = 1.0  # between two attempts to begin, or to go on after an error
MAX_SECONDS = 30.0  # between two attempts to begin, after many have failed
KEPT = 8  # bundles of one store whose encoded items are kept: those of bundles that may be served again
UNUSED_SECONDS = 30 * 24 * 3600.0  # without a change, after which they are removed


class StoreHead:
    """What the thread that commits knows of the store, for the threads that encode.

    Args:
        store: as it is now.

    Attributes:
        known: where the history ends.
        last: the last transaction of this process, whose changes need not be read.
    """

    def __init__(self, store: Store) -> None:
        self.store_id, self.known = store.store_id, store.position()
        self.last = LastWrite(START, START, [])

    def committed(self, last: LastWrite) -> None:
        """Take note of a transaction of this process."""
        self.last, self.known = last, last.position


class HeadFeed:
    """A `ChangeFeed` that ends where the thread that commits knows it to end; for one thread.

    Args:
        head: of the store.
        open_store: opens a connection of its own, which is needed for what `head` does not hold.
    """

    def __init__(self, head: StoreHead, open_store: Callable[[], Store]) -> None:
        self.store_id = head.store_id
        self._head, self._open_store = head, open_store
        self._store: Store | None = None

    def position(self) -> Position:
        """As `ChangeFeed.position`."""
        return self._head.known

    def was_at(self, position: Position) -> bool | None:
        """As `ChangeFeed.was_at`."""
        return self._opened().was_at(position)

    def page(self, after: int, limit: int) -> FeedPage:
        """As `ChangeFeed.page`."""
        last = self._head.last
        if last.before.sequence == after < last.position.sequence and len(last.changes) < limit:
            return FeedPage(last.position, last.changes)
        return self._opened().page(after, limit, self._head.known)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _opened(self) -> Store:
        if self._store is None:
            self._store = self._open_store()
        return self._store


class _BundleEncoder:
    """Keeps the encoded items of one bundle up to date, on a thread of its own if there is much to do.

    Args:
        folder: of the bundle.
        feed: of the bundle alone.
        place: folder of all live items.
        done: called after something was encoded, or could not be.
        before: a thread that must have ended before, because it writes the same items.
    """

    def __init__(
        self,
        folder: Path,
        feed: HeadFeed,
        place: Path,
        done: Callable[[], None],
        before: threading.Thread | None,
    ) -> None:
        self.error = ""
        self.seconds, self.items = 0.0, 0
        self._wake = threading.Event()
        self._folder, self._feed, self._place, self._done, self._before = folder, feed, place, done, before
        self._origin: EncodedOrigin | None = None
        self._encoder: ChangeEncoder | None = None
        self._lock = threading.Lock()  # of the encoder and the feed
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self.thread.start()

    @property
    def start(self) -> int | None:
        """Sequence of the snapshot that the bundle was built from; None until its manifest has been read."""
        return self._origin.start if self._origin is not None else None

    @property
    def sequence(self) -> int | None:
        """All changes up to this sequence are encoded; None until the file has been opened."""
        return self._encoder.sequence if self._encoder is not None else None

    @property
    def failures(self) -> Mapping[int, str]:
        """As of `ChangeEncoder`."""
        return self._encoder.failures if self._encoder is not None else {}

    def encode(self) -> None:
        """Encode what is missing: now, or on the thread if that is at work, has failed, or has much to do."""
        encoder, is_here = self._encoder, False
        if encoder is not None and not self.error:
            missing = self._feed.position().sequence - encoder.sequence
            is_little = not encoder.is_removed and missing <= PAGE
            is_here = is_little and self._lock.acquire(blocking=False)
        if encoder is None or not is_here:
            self._wake.set()
            return
        try:
            self._encode(encoder, compacts=False)
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
                    if self._encoder is None:
                        self._origin = self._origin or self._read_origin()
                        self._encoder = ChangeEncoder(self._folder, self._feed, self._place, self._stop)
                    self._encode(self._encoder, compacts=True)
            except Exception as error:  # of any kind: other bundles and writes go on
                self._fail(error)
                pause = RETRY_SECONDS if self._encoder else min(MAX_SECONDS, 2 * pause)
                self._stop.wait(pause if isinstance(error, TwinspireError | OSError) else MAX_SECONDS)
            else:
                self.error = ""
                self._wake.wait(POLL_SECONDS)
        if self._encoder is not None:
            self._encoder.close()
        self._feed.close()

    def _read_origin(self) -> EncodedOrigin:
        """What the bundle's items are encoded from.

        Raises:
            Unavailable: the bundle claims to have changes which the store has never made, or the store cannot
                be read now.
            BundleError: the bundle cannot be used.
        """
        manifest = bundle.read_manifest(self._folder)
        snapshot = manifest.catalogue
        if (
            snapshot is not None
            and snapshot.store == self._feed.store_id
            and self._feed.was_at(Position(snapshot.sequence, snapshot.mark)) is False
        ):
            raise Unavailable(
                f"the bundle was built from sequence {snapshot.sequence} of another history of the store; "
                "if the store was restored from a copy, restart the service with this bundle"
            )
        return origin_of(manifest, self._feed.store_id)

    def _encode(self, encoder: ChangeEncoder, compacts: bool) -> None:
        started = time.monotonic()
        count = encoder.run_once(self._feed, self._done, compacts)
        if count:
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
        head: of the store.
        open_store: opens a connection for another thread.
        place: folder of all live items, which no other service uses.
        done: called on any thread after something was encoded, or could not be.
    """

    def __init__(
        self,
        shared_state: SharedState,
        head: StoreHead,
        open_store: Callable[[], Store],
        place: Path,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        self._shared_state, self._head, self._open_store = shared_state, head, open_store
        self._place, self._done = place, done
        self._versions: tuple[int, ...] = ()
        self._all: dict[str, _BundleEncoder] = {}
        self._served: list[str] = []
        self._closing: dict[str, threading.Thread] = {}  # of bundles that are gone

    def follow(self) -> None:
        """Take up bundles that are to come, drop those that are gone, and let all encode what is missing."""
        entries = [each for each in (TARGET, NEXT, SHADOW_TARGET) if each in self._shared_state.names]
        versions = tuple(map(self._shared_state.version, entries))
        if versions != self._versions:
            self._versions = versions
            self._take([self._shared_state.read(each) for each in entries])
        for each in self._all.values():
            if each.sequence != self._head.known.sequence:
                each.encode()

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
        return _lowest([each.start for each in self._serving()])

    @property
    def sequence(self) -> int | None:
        """All changes up to this sequence are encoded for each bundle that answers.

        None until that is known of each of them.
        """
        return _lowest([each.sequence for each in self._serving()])

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
        return next((why for each in self._serving() if (why := each.failures.get(sequence, ""))), "")

    def document(self) -> dict[str, Any]:
        """For shared memory: what has been encoded, by bundle version."""
        return {
            version[:12]: {
                "sequence": each.sequence or 0,
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
            version: self._all.get(version) or self._begun(version, named[version]) for version in named
        }
        try:
            prune(self._place / self._head.store_id, {*named, *self._closing})
        except OSError as error:
            log.error("old encoded items cannot be removed: %s", error)
        served = [entries[0].get("champion"), entries[0].get("canary")]
        self._served = [each["bundle_version"] for each in served if each]

    def _begun(self, version: str, folder: Path) -> _BundleEncoder:
        feed = HeadFeed(self._head, self._open_store)
        return _BundleEncoder(folder, feed, self._place, self._done, self._closing.get(version))


def _public_text(error: Exception) -> str:
    """Why items cannot be encoded, as clients may read it: without paths, which most errors name."""
    if isinstance(error, Unavailable):  # which names none
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "the bundle or its encoded items cannot be used; the log says why"


def prune(
    folder: Path, keep: Collection[str] = (), most: int = KEPT, older_than: float = UNUSED_SECONDS
) -> None:
    """Remove encoded items that were not written for long; they can be encoded again.

    Args:
        folder: of one store.
        keep: versions of bundles whose items stay.
        most: bundles to keep, the last that were written.
        older_than: seconds without a change, after which a bundle's items are not kept either.
    """
    since = time.time() - older_than
    found = sorted((each for each in folder.glob("*") if each.is_dir()), key=_written, reverse=True)
    for n, each in enumerate(found):
        if each.name not in keep and (n >= most or _written(each) < since):
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
