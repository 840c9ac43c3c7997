"""A store of live items in memory, and what a search of it must find, computed without an index."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np

from tests.helpers.tampered import reseal
from twinspire.protos import bundle
from twinspire.serving.live.encoded_items import origin_of
from twinspire.serving.live.encoding.bundle_encoders import ChangeEncoder
from twinspire.serving.live.live_items import LiveItems, LivePlace
from twinspire.serving.live.store.records import Change, FeedPage, Position
from twinspire.serving.live.store.store import Store
from twinspire.serving.retrieval.encoder import item_encoder
from twinspire.serving.retrieval.query import Query, Value, Vectors
from twinspire.serving.retrieval.retriever import Retriever


class MemoryFeed:
    """What an encoder reads of a `Store`, over a dictionary."""

    def __init__(self, store_id: str = "store") -> None:
        self.store_id = store_id
        self._last = 0
        self._latest: dict[str, Change] = {}

    def put(
        self,
        item_id: str,
        features: Mapping[str, Value | None] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> int:
        """Write an item, or delete it if there are no features; returns the sequence."""
        self._last += 1
        gone = features is None
        self._latest.pop(item_id, None)
        self._latest[item_id] = Change(self._last, item_id, gone, features or {}, fields or {})
        return self._last

    def sequence(self) -> int:
        return self._last

    def position(self) -> Position:
        return Position(self._last, self._last)

    def was_at(self, position: Position) -> bool:
        return position.sequence <= self._last

    def page(self, after: int, limit: int, known: Position) -> FeedPage:
        changes = [each for each in self._latest.values() if each.sequence > after][:limit]
        return FeedPage(self.position(), changes)

    def encoder(self, folder: Path, place: Path) -> ChangeEncoder:
        """An encoder of a bundle that reads this feed."""
        return ChangeEncoder(folder, cast(Store, self), place)


class LiveWorld:
    """A bundle, a store, its encoder and a worker, all in one thread, and the truth beside them."""

    def __init__(self, folder: Path, place: Path, base: Retriever | None = None) -> None:
        self.folder, self.place, self.feed = folder, place, MemoryFeed()
        self.base = base or Retriever.load(folder)
        self._encode = item_encoder(folder, self.base.manifest)
        self.encoder = self.feed.encoder(folder, place)
        self.origin = origin_of(self.base.manifest, self.feed.store_id)
        ids = self.base.built.catalogue.ids
        self.truth = dict(zip(ids, self.base.item_vectors, strict=True))  # item id -> vector (D,)
        self.live = self.open()

    def open(self) -> LiveItems:
        """One more worker."""
        state = {"store_id": self.feed.store_id, "sequence": self.feed.sequence()}
        return LiveItems(self.base, LivePlace(self.place, lambda: state), self.origin)

    def put(self, item_id: str, text: str, **fields: str) -> int:
        """Write an item in the store, and in the truth."""
        (self.truth[item_id],) = self._encode([Query(features={"text": text})])
        return self.feed.put(item_id, {"text": text}, fields)

    def delete(self, item_id: str) -> int:
        """Delete an item in the store, and in the truth."""
        self.truth.pop(item_id, None)
        return self.feed.put(item_id)

    def sync(self) -> dict[int, str]:
        """Derive and apply what was written; returns what failed."""
        before = self.live.segment.sequence
        self.encoder.run_once(self.feed.position())
        self.live.catch_up()
        assert self.live.segment.sequence == self.feed.sequence()
        return {sequence: why for sequence, why in self.encoder.failures.items() if sequence > before}

    def expected(self, vector: Vectors, k: int, without: frozenset[str] = frozenset()) -> list[float]:
        """The scores of the `k` best items, by comparing all."""
        items = [each for item_id, each in self.truth.items() if item_id not in without]
        scores = np.sort(np.array(items).reshape(-1, len(vector)) @ vector)[::-1]
        return [float(score) for score in scores[:k]]


def copy_with_snapshot(folder: Path, parent: Path, snapshot: bundle.Snapshot) -> Path:
    """A bundle with the same content whose manifest names the state of a store."""
    return reseal(folder, parent, catalogue=snapshot)
