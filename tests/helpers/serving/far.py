"""A retriever whose items another thread finds when a test allows it, as another server would."""

import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import grpc
import numpy as np

from tests.helpers.serving.reacting import reacting
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos.errors import Unavailable
from twinspire.protos.vector_databases.items import Vectors
from twinspire.serving.filters.expression import Filter
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.segments.built import BuiltSegment
from twinspire.serving.segments.remote import (
    RemoteCollection,
    RemoteHit,
    RemoteItem,
    RemoteSegment,
    seconds_left,
)


class FarCollection:
    """The items of a bundle, as `RemoteCollection` has them.

    Args:
        near: has the items, and compares exactly.

    Attributes:
        allowed: reads are answered while it is set.
        searches: queries, k and seconds of each search.
        fails: may raise instead of the answer to a search.
        misses: items that a search misses unless it is exact.
    """

    max_k = 256

    def __init__(self, near: Retriever) -> None:
        self._near = near
        self._filters: dict[str, Filter] = {}
        self.allowed = threading.Event()
        self.allowed.set()
        self.searches: list[tuple[int, int, float]] = []
        self.fails: Callable[[Vectors], None] = lambda vectors: None
        self.misses = 0

    def expression(self, node: Filter) -> str:
        self._filters[text := repr(node)] = node
        return text

    def search(
        self, vectors: Vectors, k: int, expression: str = "", is_exact: bool = False
    ) -> list[list[RemoteHit]]:
        self.searches.append((len(vectors), k, seconds_left()))
        self.fails(vectors)
        self._wait()
        rows = self._rows(expression)
        best, scores = self._near.built.index.exact(vectors, min(k, len(rows)), rows)
        found = [
            [(self._item(row), score) for row, score in zip(*each, strict=True)]
            for each in zip(best.tolist(), scores.tolist(), strict=True)
        ]
        return found if is_exact else [hits[: k - self.misses] for hits in found]

    def get(self, item_ids: Sequence[str]) -> dict[str, RemoteItem]:
        self._wait()
        rows = zip(item_ids, map(self._near.items.find, item_ids), strict=True)
        return {item_id: self._item(row) for item_id, row in rows if row is not None}

    def count(self, expression: str) -> int:
        return len(self._rows(expression))

    def _wait(self) -> None:
        if not self.allowed.wait(seconds_left()):
            raise Unavailable("the far server does not answer")

    def _rows(self, expression: str) -> Any:
        if not expression:
            return np.arange(self._near.manifest.count)
        return self._near.filters.compile(self._filters[expression]).passing.rows.rows

    def _item(self, row: int) -> RemoteItem:
        built = self._near.built
        return RemoteItem(built.item_id(row), built.fields(row), built.vectors([row])[0])


def far_retriever(near: Retriever, collection: FarCollection) -> Retriever:
    """A retriever on the collection, with the towers of another one."""
    index = replace(near.manifest.index, kind="milvus", exact=False)
    segment = RemoteSegment(replace(near.manifest, index=index), cast(RemoteCollection, collection))
    return Retriever(near._query_encoder.tower, cast(BuiltSegment, segment))


@contextmanager
def serving_far(near: Retriever, collection: FarCollection, **options: Any) -> Any:
    """A server on the collection, with the options of `reacting`, and a stub of it; no call is left open."""
    with (
        reacting(far_retriever(near, collection), **options) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        yield served, retrieval_pb2_grpc.RetrievalStub(channel)
        assert served.becomes("in_flight", 0)
