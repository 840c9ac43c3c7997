"""The segment of a bundle whose items are in a collection on another server.

It has nothing of each item. The row of an item is the item itself, a `RemoteItem`, with the display fields
that the server returned. Filters are expressions of the server. Searches wait for the server, so the event
loop leaves them to other threads (`engine/remote_calls.py`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import InvalidInput, Unavailable
from twinspire.serving.filters.columns import FilterColumns, Work
from twinspire.serving.filters.compiled import ENTRY_BYTES
from twinspire.serving.filters.expression import Filter
from twinspire.serving.filters.plan import Plan
from twinspire.serving.index.remote import RemoteCollection, RemoteHit, RemoteItem
from twinspire.serving.index.vector_index import NOT_FINITE, Neighbours, Vectors
from twinspire.serving.segments.neighbours import FoundPassing


class RemoteFilter:
    """A filter as an expression of the server."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.nbytes = ENTRY_BYTES + len(expression)


class RemoteSegment:
    """The items of a bundle on another server; has the methods of `BuiltSegment` that do not delete.

    Errors of reading the collection are those of `RemoteCollection`.

    Args:
        collection: its N items; the first read checks them.

    Attributes:
        count: N.
    """

    has_graph = False  # each search is as approximate as the server's index
    knows_popular = False
    fusion = None

    def __init__(self, manifest: Manifest, collection: RemoteCollection) -> None:
        self.manifest, self.collection, self.count = manifest, collection, manifest.count
        self._no_items = FilterColumns.from_values(manifest.filters, [])

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        """As `BuiltSegment.search`, of any vectors, items included."""
        return _neighbours(self._found(vectors, min(k, self.count), ""))

    exact = search  # the server's index decides

    def filter(self, expression: Filter, work: Work) -> RemoteFilter:
        """The filter as an expression of the server; arguments and errors as of `BuiltSegment.filter`."""
        self._no_items.evaluate(expression, work)  # raises if it does not fit the fields
        return RemoteFilter(self.collection.expression(expression))

    def search_passing(
        self, vectors: Vectors, k: int, passing: RemoteFilter, approximate: bool
    ) -> FoundPassing:
        """As `BuiltSegment.search_passing`; the server's index decides how approximate it is."""
        found = self._found(vectors, min(k, self.count), passing.expression)
        return _neighbours(found), [Plan.GRAPH if hits else Plan.EMPTY for hits in found]

    def expected_cost(self, k: int, passing: RemoteFilter) -> int:
        """The work of a search in this process: none."""
        return 0

    def vectors(self, rows: Sequence[RemoteItem]) -> Vectors:
        """The vectors of items that `find` or `find_all` has found, float32 (R, D)."""
        return np.stack([row.vector for row in rows if row.vector is not None])

    def find(self, item_id: str) -> Any:
        """The item with an id; None if the collection holds none."""
        return self.find_all([item_id])[0]

    def find_all(self, item_ids: Sequence[str]) -> list[Any]:
        """As `find`, of each id."""
        found = self.collection.get(item_ids) if item_ids else {}
        return [*map(found.get, item_ids)]

    def rows(self, item_ids: Iterable[str]) -> set[RemoteItem]:
        """The items with these ids, whether the collection holds them or not."""
        return {RemoteItem(item_id) for item_id in item_ids}

    def current(self, rows: frozenset[Any]) -> frozenset[Any]:
        """As `BuiltSegment.current`."""
        return rows

    def item_id(self, row: RemoteItem) -> str:
        """The id of an item."""
        return row.item_id

    def fields(self, row: RemoteItem) -> dict[str, str]:
        """The display fields of an item."""
        return dict(row.fields)

    def _found(self, vectors: Vectors, k: int, expression: str) -> list[list[RemoteHit]]:
        """For each query the `k` best items that pass, or all where fewer pass.

        Raises:
            ArithmeticError: a vector is not finite.
            InvalidInput: the server returns fewer items than `k` at most.
            Unavailable: it does not answer in time, or misses items even where it compares all.
        """
        if not np.isfinite(vectors).all():
            raise ArithmeticError(NOT_FINITE)
        if k > (most := self.collection.max_k):
            raise InvalidInput("k", f"expected at most {most}, with the items that are left out, got {k}")
        found = self.collection.search(vectors, k, expression)
        if all(len(hits) == k for hits in found):
            return found
        wanted = min(k, self.collection.count(expression)) if expression else k
        short = [n for n, hits in enumerate(found) if len(hits) < wanted]
        if short:  # an index may not reach all items that pass
            compared = self.collection.search(vectors[short], k, expression, is_exact=True)
            for n, hits in zip(short, compared, strict=True):
                if len(hits) < wanted:
                    raise Unavailable(f"the server of the index returned {len(hits)} of {wanted} items")
                found[n] = hits
        return found


def _neighbours(found: list[list[RemoteHit]]) -> Neighbours:
    """The hits of queries, as many of each, as arrays; the rows are the items themselves."""
    rows = np.empty((len(found), len(found[0])), object)
    for n, hits in enumerate(found):
        rows[n] = [item for item, _ in hits]
    return Neighbours(rows, np.array([[score for _, score in hits] for hits in found], np.float32))
