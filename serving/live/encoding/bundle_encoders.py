"""Encodes live items for bundles: those that answer, and those to come; for the catalogue's process.

The thread that commits encodes what it has written. A bundle that has more to encode, such as a new one, does
so on a thread of its own, and so it delays neither writes nor other bundles.

A bundle's own item tower encodes each item once. An item whose id the towers have not learned is placed by
its content, as the tower's graph does. For an item that the tower cannot encode there is a row with the
reason, so that searches do not find its earlier version, and other items need not wait.
"""

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from twinspire.protos import bundle
from twinspire.protos.errors import InvalidInput, TwinspireError, Unavailable
from twinspire.protos.features import IdFeature, TextFeature
from twinspire.protos.filter_kinds import parse_value
from twinspire.protos.hybrid.lexical_index import LexicalIndex
from twinspire.serving.live.encoded_items import SUFFIX, EncodedItemsWriter, folder_of, origin_of
from twinspire.serving.live.encoding.graph_builder import GraphBuilder
from twinspire.serving.live.store.records import START, Change, Position
from twinspire.serving.live.store.store import Store
from twinspire.serving.retrieval.encoder import Encoder
from twinspire.serving.segments.packed_items import EncodedItem, EncodedKind, packed_hit, score_parts
from twinspire.serving.shared_state import NEXT, SHADOW_TARGET, TARGET, SharedState

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1  # between two checks for a damaged file, while nothing is written
RETRY_SECONDS = 1.0  # between two attempts to begin, or to go on after an error
MAX_SECONDS = 30.0  # between two attempts to begin, after many have failed
PAGE = 1024  # changes that are read, encoded and announced at once
OUTDATED = 4096  # a new file begins when outdated rows exceed the current ones by this number
LONGEST_REASON = 500  # characters of a reason
KEPT = 8  # bundles of one store whose encoded items are kept: those of bundles that may be served again


class ChangeEncoder:
    """Keeps the encoded items of one bundle up to date; for one thread.

    Args:
        folder: of the bundle.
        store: whose changes are encoded; for this encoder alone.
        place: the folder of all live items.
        stop: ends `run_once` after a page of changes, and a graph that is being built; set by `close`.

    Attributes:
        sequence: all changes up to this one are encoded; any thread may read it.
        start: sequence of the snapshot that the bundle was built from.
        failures: sequence -> why the item of that change cannot be found; any thread may read it.

    Raises:
        BundleError: the bundle cannot be used.
        Unavailable: the bundle claims to have changes which the store has never made, or the store cannot be
            read now.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        place: Path,
        stop: threading.Event | None = None,
    ) -> None:
        self._store, self._stop = store, stop or threading.Event()
        manifest = bundle.read_manifest(folder)
        snapshot, origin = manifest.catalogue, origin_of(manifest, store.store_id)
        if (
            snapshot is not None
            and snapshot.store == store.store_id
            and store.was_at(Position(snapshot.sequence, snapshot.mark)) is False
        ):
            raise Unavailable(
                f"the bundle was built from sequence {snapshot.sequence} of another history of the store; "
                "if the store was restored from a copy, restart the service with this bundle"
            )
        self.start, encoded = origin.start, folder_of(place, origin)
        self.manifest = bundle.read(folder)
        self._encoder = Encoder(folder, self.manifest, 1, "item")
        self._lexical = LexicalIndex.of(folder, self.manifest)
        self._graphs = GraphBuilder(encoded, origin, self.manifest, self._stop)
        self._writer = EncodedItemsWriter(encoded, origin, store.was_at)
        self.failures: Mapping[int, str] = self._writer.failures
        self.sequence = self._writer.state.sequence

    @property
    def is_removed(self) -> bool:
        """Whether the file was damaged, so the next `run_once` encodes all items again."""
        return self._writer.is_removed

    def run_once(self, known: Position, progress: Callable[[], None] = lambda: None) -> int:
        """Encode what is missing, and do what can take long: replace a damaged file, remove outdated rows.

        Args:
            known: a position that the store has had; all changes up to it are encoded.
            progress: called after each page of changes.

        Returns:
            Number of changes that were encoded now.

        Raises:
            Unavailable: the store cannot be read now.
            OSError: the rows cannot be written; what was not written is encoded at the next call.
            EncodedItemsDamaged: the file is damaged; the next call begins another one.
        """
        writer = self._writer
        if self.is_removed:
            log.error("%s: its file is damaged, so all items are encoded again", writer.folder)
            writer.begin()
        count = self.encode(known, progress)
        if writer.state.last_id > 2 * writer.items + OUTDATED:
            writer.compact()
        self._graphs.check(writer.state.last_id, writer.live_items, writer.generation)
        return count

    def encode(self, known: Position, progress: Callable[[], None]) -> int:
        """Encode what is missing; as `run_once`."""
        count, writer = 0, self._writer
        self.sequence = writer.state.sequence
        while not self._stop.is_set() and known.sequence > self.sequence:
            position, changes = self._store.page(writer.cursor, PAGE, known)
            writer.append(self._encoded(changes), position, is_complete=len(changes) < PAGE)
            self.sequence = writer.state.sequence
            count += len(changes)
            progress()
        return count

    def close(self) -> None:
        """Stop, and give up a graph that is being built."""
        self._stop.set()
        self._graphs.wait()
        self._writer.close()

    def _encoded(self, changes: Sequence[Change]) -> list[EncodedItem]:
        """The encoded item of each change, in order."""
        items = [each for each in changes if not each.deleted]
        vectors = iter(self._encode(items))
        encoded = []
        for each in changes:
            if each.deleted:
                encoded.append(EncodedItem(each.sequence, each.item_id, EncodedKind.DELETED))
                continue
            try:
                encoded.append(self._item(each, next(vectors)))
            except InvalidInput as error:
                reason = str(error)[:LONGEST_REASON]
                encoded.append(EncodedItem(each.sequence, each.item_id, EncodedKind.FAILED, reason.encode()))
        return encoded

    def _item(self, change: Change, vector: bytes | InvalidInput) -> EncodedItem:
        """The encoded item of a change.

        Raises:
            InvalidInput: it has no vector, or a filter field has a value of another type.
        """
        if isinstance(vector, InvalidInput):
            raise vector
        shown = [name for name in self.manifest.display_fields if name in change.fields]
        fields = {name: change.fields[name] for name in shown}
        hit = packed_hit(change.item_id, fields, score_parts(self.manifest))
        values = self._filter_values(change) if self.manifest.filters else b""
        terms = self._terms(change)
        is_same = self._writer.is_same(change.item_id, vector, terms)
        kind = EncodedKind.SAME if is_same else EncodedKind.ITEM
        return EncodedItem(change.sequence, change.item_id, kind, hit, values, vector, terms)

    def _encode(self, items: Sequence[Change]) -> list[bytes | InvalidInput]:
        """The vector of each item, float32 (D,) as bytes, or why it has none."""
        if not items:
            return []
        try:
            rows = [self._values(each) for each in items]
            vectors = np.empty((len(rows), self.manifest.dimension), np.float32)
            for places in self._encoder.length_batches(rows):
                arrays = self._encoder.arrays([rows[place] for place in places])
                vectors[places] = self._encoder.vectors(arrays)
            return [vector.tobytes() for vector in vectors]
        except Exception as error:  # ONNX Runtime's errors share no other base
            if len(items) == 1:
                return [self._reason(items[0], error)]
            half = len(items) // 2  # only the item at fault gets the error
            return self._encode(items[:half]) + self._encode(items[half:])

    def _terms(self, change: Change) -> bytes:
        """The terms of the item's text and their weights; empty if the bundle has no lexical index."""
        if self._lexical is None:
            return b""
        features = self._encoder.inputs.features.items()
        texts = [str(change.features[name]) for name, spec in features if isinstance(spec, TextFeature)]
        terms, weights = self._lexical.weights("\n".join(texts))
        return terms.tobytes() + weights.tobytes()

    def _filter_values(self, change: Change) -> bytes:
        """Filter field -> value as JSON; fields without a value are left out."""
        found = {
            name: parse_value(kind, change.features.get(name), f"features.{name}")
            for name, kind in self.manifest.filters.items()
        }
        return json.dumps({name: value for name, value in found.items() if value is not None}).encode()

    def _values(self, change: Change) -> dict[str, object]:
        """Feature of the item tower -> raw value, None where it is absent."""
        features = self._encoder.inputs.features.items()
        return {
            name: change.item_id if isinstance(spec, IdFeature) else change.features.get(name)
            for name, spec in features
        }

    def _reason(self, change: Change, error: Exception) -> InvalidInput:
        """Why an item could not be encoded, as its writer may read it."""
        if isinstance(error, InvalidInput):
            return InvalidInput(f"features.{error.field.rpartition('.')[2]}", error.reason)
        if isinstance(error, ArithmeticError):
            return InvalidInput("features", str(error))
        log.error("change %d: the item tower has failed", change.sequence, exc_info=error)
        return InvalidInput("features", "the item tower has failed; the log says why")


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
