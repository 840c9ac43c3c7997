"""Encodes the changes of a store for a bundle, whose own item tower encodes each item once.

An item whose id the towers have not learned is placed by its content, as the tower's graph does. For an
item that the tower cannot encode there is a row with the reason, so that searches do not find its earlier
version, and other items need not wait.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from twinspire.protos import bundle
from twinspire.protos.errors import InvalidInput, Unavailable
from twinspire.protos.features import IdFeature, TextFeature
from twinspire.protos.filter_kinds import parse_value
from twinspire.protos.hybrid.lexical_index import LexicalIndex
from twinspire.serving.live.encoded_items import EncodedItemsWriter, folder_of, origin_of
from twinspire.serving.live.encoding.graph_builder import GraphBuilder
from twinspire.serving.live.store.changes import Change, Position
from twinspire.serving.live.store.store import Store
from twinspire.serving.retrieval.encoder import Encoder
from twinspire.serving.segments.packed_items import EncodedItem, EncodedKind, packed_hit, score_parts

log = logging.getLogger(__name__)

PAGE = 1024  # changes that are read, encoded and announced at once
OUTDATED = 4096  # a new file begins when outdated rows exceed the current ones by this number
LONGEST_REASON = 500  # characters of a reason


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
