"""Encodes live items for bundles: those that answer, and those to come; for the catalogue's process.

A new bundle may have many changes to encode. So a thread of its own, with a connection of its own, encodes
what the store has. From then on the thread that commits encodes after each commit, so that the answer to a
write can say which items could not be encoded.

Where two services of a host share a folder, one of them encodes a bundle's items. The other one checks that
they are of its store, and takes over when the first one ends.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from twinspire.protos import bundle
from twinspire.protos.errors import TwinspireError, Unavailable
from twinspire.serving.live.encoded_items import (
    SUFFIX,
    EncodedItemsInUse,
    EncodedItemsReader,
    EncodedOrigin,
    EncodingLock,
    VerifiedEnd,
    folder_of,
    note_failure,
    origin_of,
)
from twinspire.serving.live.encoding.change_encoder import ChangeEncoder
from twinspire.serving.live.store.changes import START, FeedPage, LastWrite, Position
from twinspire.serving.live.store.store import Store
from twinspire.serving.segments.packed_items import EncodedItemsDamaged
from twinspire.serving.shared_state import NEXT, SHADOW_TARGET, TARGET, SharedState

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # between two attempts to begin, or to go on after an error
MAX_SECONDS = 30.0  # between two attempts to begin, after many have failed
OTHER_COPY = (
    "another service on this host uses a different copy of this store; restart this service to give its "
    "store a new id"
)
KEPT = 8  # bundles of one store whose encoded items are kept: those of bundles that may be served again
UNUSED_SECONDS = 30 * 24 * 3600.0  # without a change, after which they are removed


class KnownFeed:
    """A feed with a cached position, so that encoders do not query the database for it.

    Args:
        feed: that gives the changes.

    Attributes:
        known: where this process knows the history to end; the thread that commits sets it.
    """

    def __init__(self, feed: Store) -> None:
        self.store_id = feed.store_id
        self.known = feed.position()
        self._feed = feed
        self._last = LastWrite(START, START, [])

    def position(self) -> Position:
        """The known position."""
        return self.known

    def was_at(self, position: Position) -> bool | None:
        """As `ChangeFeed.was_at`."""
        return self._feed.was_at(position)

    def committed(self, last: LastWrite) -> None:
        """Keep the changes that this process has written, so that encoders take them from memory."""
        self._last, self.known = last, last.position

    def page(self, after: int, limit: int) -> FeedPage:
        """As `ChangeFeed.page`; its position becomes the known one."""
        last = self._last
        if after == last.before.sequence and last.position == self.known and len(last.changes) < limit:
            return FeedPage(last.position, last.changes)
        page = self._feed.page(after, limit, self.known)
        self.known = page.position
        return page


class _BundleEncoder:
    """Keeps the encoded items of one bundle up to date.

    Args:
        folder: of the bundle.
        open_feed: opens a connection of its own.
        feed: of the thread that commits.
        place: folder of all live items.
    """

    def __init__(self, folder: Path, open_feed: Callable[[], Store], feed: KnownFeed, place: Path) -> None:
        self.error = ""
        self.seconds, self.items = 0.0, 0
        self._folder, self._open_feed, self._feed, self._place = folder, open_feed, feed, place
        self._origin: EncodedOrigin | None = None
        self._encoder: ChangeEncoder | None = None
        self._beginning: ChangeEncoder | None = None  # that catches up on a thread of its own
        self._reader: EncodedItemsReader | None = None  # of what another process encodes
        self._verified: VerifiedEnd | None = None  # up to there it is known to be of this store
        self._checked: Position | None = None  # of what is verified
        self._failures: dict[int, str] = {}  # that were verified
        self._due, self._pause = 0.0, RETRY_SECONDS
        self._thread: threading.Thread | None = None
        self._begin()

    @property
    def start(self) -> int | None:
        """Sequence of the snapshot that the bundle was built from; None until its manifest has been read."""
        return self._origin.start if self._origin is not None else None

    @property
    def sequence(self) -> int | None:
        """All changes up to this sequence are encoded; None until the file has been opened."""
        encoder = self._encoder or self._beginning
        if encoder is not None:
            return encoder.sequence
        return None if self._verified is None else self._verified.sequence

    @property
    def end(self) -> VerifiedEnd | None:
        """Where workers have to stop, because another process encodes these items; None if none does."""
        if self._encoder or self._beginning or self._reader is None:
            return None
        return self._verified or VerifiedEnd(self._reader.generation, 0, 0)

    def failure(self, sequence: int) -> str:
        """Why the item of a change cannot be found; empty if it can."""
        encoder = self._encoder or self._beginning
        return (self._failures if encoder is None else encoder.failures).get(sequence, "")

    def run_once(self, progress: Callable[[], None]) -> None:
        """Encode what is missing, if the bundle is ready for that."""
        if self._thread is not None:
            if self._thread.is_alive():
                return
            self._thread = None
        if self._encoder is not None:
            self._encode(self._encoder, progress)
        else:
            self._verify()
            if time.monotonic() >= self._due:
                self._begin()

    def close(self) -> threading.Thread:
        """Release the items; returns the thread that does so as soon as the current work has ended."""
        self._stop.set()
        thread = threading.Thread(target=self._close, name="closing", daemon=True)
        thread.start()
        return thread

    def _close(self) -> None:
        if self._thread is not None:
            self._thread.join()
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    def _begin(self) -> None:
        self._due = time.monotonic() + RETRY_SECONDS
        self._stop = threading.Event()  # of the encoder to come, which sets it when it is closed
        self._thread = threading.Thread(target=self._catch_up, name="encoder", daemon=True)
        self._thread.start()

    def _catch_up(self) -> None:
        """Open the file, and encode what the store has; on a thread and a connection of its own."""
        store: Store | None = None
        encoder: ChangeEncoder | None = None
        try:
            self._origin = self._origin or self._read_origin()
            # While another process encodes these items, no connection is opened.
            EncodingLock(folder_of(self._place, self._origin)).close()
            store = self._open_feed()
            feed = KnownFeed(store)
            feed.known = store.check(self._feed.known, self._feed.store_id)
            encoder = ChangeEncoder(self._folder, feed, self._place, stop=self._stop)
            self._beginning = encoder
            while self._run(encoder, feed):
                feed.known = store.check(self._feed.known, self._feed.store_id)
        except EncodedItemsInUse as error:
            self._open_reader()
            if self._reader is not None:
                self._pause, self._checked = RETRY_SECONDS, None  # `_verify` clears the error
            else:
                self._fail(error)
        except Unavailable as error:  # the store does not answer
            self._fail(error)
        except (TwinspireError, OSError) as error:
            self._give_up(error)
        except Exception as error:  # of any kind: other bundles and writes go on
            log.exception("%s: its live items cannot be encoded", self._folder)
            self._give_up(error)
        else:
            self._encoder, self._reader, self.error, self._pause = encoder, None, "", RETRY_SECONDS
        finally:
            self._beginning = None
            if store is not None:
                store.close()
            if encoder is not None and self._encoder is not encoder:
                encoder.close()  # its lock would keep out the next attempt

    def _read_origin(self) -> EncodedOrigin:
        """What the bundle's items are encoded from.

        Raises:
            Unavailable: the bundle claims to have changes which the store has never made, or the store cannot
                be read now.
            BundleError: the bundle cannot be used.
        """
        manifest = bundle.read_manifest(self._folder)
        snapshot = manifest.catalogue
        if snapshot is not None and snapshot.store == self._feed.store_id:
            with closing(self._open_feed()) as store:
                if store.was_at(Position(snapshot.sequence, snapshot.mark)) is False:
                    raise Unavailable(
                        f"the bundle was built from sequence {snapshot.sequence} of another history of the "
                        "store; if the store was restored from a copy, restart the service with this bundle"
                    )
        return origin_of(manifest, self._feed.store_id)

    def _encode(self, encoder: ChangeEncoder, progress: Callable[[], None]) -> None:
        if time.monotonic() < self._due and self.error:
            return
        try:
            self._run(encoder, self._feed, progress)
        except (TwinspireError, OSError) as error:
            self._fail(error)
        except Exception as error:  # of any kind: other bundles and writes go on
            log.exception("%s: its live items cannot be encoded", self._folder)
            self._fail(error)
        else:
            self.error = ""

    def _run(
        self, encoder: ChangeEncoder, feed: KnownFeed, progress: Callable[[], None] = lambda: None
    ) -> int:
        """Encode what is missing of a feed; returns the number of changes."""
        started = time.monotonic()
        count = encoder.run_once(feed, progress)
        if count:
            self.items += count
            self.seconds += time.monotonic() - started
        return count

    def _fail(self, error: Exception) -> None:
        self._note(error)
        self._due = time.monotonic() + RETRY_SECONDS

    def _note(self, error: Exception) -> None:
        reason = _public_text(error)
        if reason != self.error:
            log.error("%s: its live items cannot be encoded: %s", self._folder, error)
        self.error = reason

    def _give_up(self, error: Exception) -> None:
        """As `_fail`, where each attempt takes long: the next one follows later each time."""
        self._fail(error)
        self._due = time.monotonic() + self._pause
        self._pause = min(MAX_SECONDS, 2 * self._pause)

    def _open_reader(self) -> None:
        if self._origin is None:
            return
        try:
            if self._reader is None or self._reader.is_superseded:
                self._reader = EncodedItemsReader(folder_of(self._place, self._origin), self._origin)
        except (OSError, EncodedItemsDamaged):
            self._reader = None

    def _verify(self) -> None:
        """Check that what another process has encoded is of this store."""
        if self._reader is not None and self._reader.is_superseded:
            self._open_reader()
        reader = self._reader
        if reader is None:
            return
        try:
            state = reader.state()
            if state.position != self._checked:
                if not self._feed.was_at(state.position):
                    raise Unavailable(OTHER_COPY)
                self._checked, self.error = state.position, ""
            end = VerifiedEnd(reader.generation, state.last_id, state.sequence)
            if end != self._verified:
                before = self._verified
                after = before.last_id if before and before.generation == end.generation else 0
                for sequence, reason in reader.failures(after, end.last_id):
                    note_failure(self._failures, sequence, reason)
                self._verified = end
        except EncodedItemsDamaged:
            self._reader = None
        except (Unavailable, OSError) as error:
            self._note(error)


class BundleEncoders:
    """All bundles for which live items are encoded; for the thread that commits.

    Args:
        shared_state: names the bundles.
        feed: of the thread that commits.
        open_feed: opens a connection for another thread.
        place: folder of all live items.
        progress: called often while much is encoded.
    """

    def __init__(
        self,
        shared_state: SharedState,
        feed: KnownFeed,
        open_feed: Callable[[], Store],
        place: Path,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._shared_state, self._feed, self._open_feed, self._place = shared_state, feed, open_feed, place
        self._progress = progress
        self._versions: tuple[int, ...] = ()
        self._all: dict[str, _BundleEncoder] = {}
        self._served: list[str] = []
        self._closing: list[threading.Thread] = []  # of bundles that are gone

    def run_once(self) -> None:
        """Take up bundles that are to come, drop those that are gone, and encode what is missing."""
        entries = [each for each in (TARGET, NEXT, SHADOW_TARGET) if each in self._shared_state.names]
        versions = tuple(map(self._shared_state.version, entries))
        if versions != self._versions:
            self._versions = versions
            self._follow([self._shared_state.read(each) for each in entries])
        for each in self._all.values():
            each.run_once(self._progress)

    def close(self, seconds: float | None = None) -> None:
        """Release all encoded items, so that other processes may go on.

        Args:
            seconds: to wait for the current work; if not given, until it has ended.
        """
        self._closing += [each.close() for each in self._all.values()]
        self._all, self._served = {}, []
        until = None if seconds is None else time.monotonic() + seconds
        for each in self._closing:
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
        return next((why for each in self._serving() if (why := each.failure(sequence))), "")

    def document(self) -> dict[str, Any]:
        """For shared memory: what has been encoded, by bundle version."""
        return {
            version[:12]: {
                "sequence": each.sequence or 0,
                "seconds": round(each.seconds, 3),
                "items": each.items,
                "end": each.end,
            }
            for version, each in self._all.items()
        }

    def _serving(self) -> Iterator[_BundleEncoder]:
        return (self._all[version] for version in self._served)

    def _follow(self, entries: list[dict[str, Any]]) -> None:
        named: dict[str, Path] = {}
        for entry in entries:
            for each in (entry.get("champion"), entry.get("canary"), entry):
                if each and each.get("folder"):
                    named.setdefault(each["bundle_version"], Path(each["folder"]))
        for version in self._all.keys() - named.keys():
            self._closing.append(self._all.pop(version).close())
        self._closing = [each for each in self._closing if each.is_alive()]
        for version, folder in named.items():
            if version not in self._all:
                self._all[version] = _BundleEncoder(folder, self._open_feed, self._feed, self._place)
        try:
            prune(self._place / self._feed.store_id, named)
        except OSError as error:
            log.error("old encoded items cannot be removed: %s", error)
        target = entries[0]
        served = [target.get("champion"), target.get("canary")]
        self._served = [each["bundle_version"] for each in served if each]


def _public_text(error: Exception) -> str:
    """Why items cannot be encoded, as clients may read it: without paths, which most errors name."""
    if isinstance(error, EncodedItemsInUse):
        return "another process encodes the items of this bundle"
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
        keep: versions of bundles whose items stay; those that are being written stay, too.
        most: bundles to keep, the last that were written.
        older_than: seconds without a change, after which a bundle's items are not kept either.
    """
    since = time.time() - older_than
    for n, each in enumerate(sorted(folder.glob("*"), key=_written, reverse=True)):
        if each.name in keep or (n < most and _written(each) >= since):
            continue
        with suppress(OSError, EncodedItemsInUse):
            if each.is_dir():
                with closing(EncodingLock(each)):
                    shutil.rmtree(each)
            elif _written(each) < since:  # of an earlier version of this program
                each.unlink()


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
