"""A worker's view of live items: the rows of a bundle that are hidden, and the rows of live items.

An `Overlay` gives each version of an item that was written since the bundle was built a row of its own, after
the bundle's rows 0 to N - 1; a version with the same vector and terms takes the row of the one before. Rows
are never used for another item or vector, so a row that a query holds while changes are applied still means
the same version. `LiveIndex` searches a bundle and its overlay as one index:

    bundle's items - hidden rows (deleted or replaced) + overlay's items

The bundle's graph is not changed, because an HNSW graph whose items are replaced again and again loses the
paths to some of them. It is asked for more items than wanted, until enough remain that are not hidden. The
overlay's current rows are all compared, unless they are many: then most are in a graph of their own, and a
search without a filter compares only the rest.

Changes are applied on the thread that searches.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from protos.filters import FilterSchema
from protos.search import exact_search, top_k
from serving.live.record_format import Record, RecordKind, RecordsDamaged
from serving.live.search.compared_rows import ComparedRows
from serving.live.search.live_filter_columns import GrowingColumns
from serving.live.search.overlay_postings import OverlayPostings
from serving.retrieval.catalogue import Catalogue
from serving.retrieval.vector_index import (
    Allowed,
    Neighbours,
    Rows,
    VectorIndex,
    Vectors,
    allowed_rows,
)

FIRST_CAPACITY = 256  # overlay rows
SPARE = 8  # items to search for beyond those that are expected to be hidden
WIDER = 4  # factor of the number of items in a repeated search
MAX_ROWS_IN_PYTHON = 8  # better overlay rows a query, on average; more are merged by NumPy, not in Python
MANY = 4  # above MANY * k better overlay rows for one query, `search` takes the place of `search_one`

Array = TypeVar("Array", Rows, Vectors)
Mask = npt.NDArray[np.bool_]
Search = Callable[[Rows, int], Neighbours]  # places of queries, and k
NO_FILTERS: FilterSchema = {}


class Overlay:
    """The live items of one bundle, and the rows of the bundle that they hide.

    For one thread; another one may read `vectors` and set `graph`.

    Args:
        base: the bundle's catalogue, of N items.
        dimension: D.
        sequence: of the snapshot that the bundle was built from.
        filters: the bundle's filter fields and their types.

    Attributes:
        sequence: all changes up to it have been applied.
        rows: item id -> its row; None if the item was deleted or cannot be encoded. Only of items that have
            changed since the bundle was built.
        hidden: rows of the bundle that no search may find, bool (N,).
        count: M, rows of the overlay, those of outdated versions included.
        alive: whether each row is the current version of its item, bool (at least M,).
        added: whether each row is of an item that the bundle does not hold, bool (at least M,).
        hits: parts of answers by row - N (`response_bytes.packed_hit`).
        columns: filter fields by row - N.
        changes: how often changes have been applied.
        largest: bytes of the largest hit that an answer may hold.
        graph: of the overlay's first rows, if there is one; it may be replaced from another thread.
        compared: the rows that a search compares one by one.
        postings: terms of its rows, if the bundle is hybrid.
    """

    def __init__(
        self, base: Catalogue, dimension: int, sequence: int = 0, filters: FilterSchema = NO_FILTERS
    ) -> None:
        self.sequence = sequence
        self.rows: dict[str, int | None] = {}
        self.first_row = len(base.ids)
        self.hidden: Mask = np.zeros(self.first_row, np.bool_)
        self.count = self.hidden_count = self.dead_count = self.largest = self.changes = 0
        self.alive: Mask = np.ones(FIRST_CAPACITY, np.bool_)
        self.added: Mask = np.zeros(FIRST_CAPACITY, np.bool_)
        self.ids: list[str] = []
        self.hits: list[bytes] = []
        self.columns = GrowingColumns(filters)
        self.graph: OverlayGraph | None = None
        self._base = base
        self._vectors: Vectors = np.empty((FIRST_CAPACITY, dimension), np.float32)
        self._outdated: dict[int, str] = {}  # row that must not be found -> id of its item
        self.compared = ComparedRows(self, dimension)
        self.postings = OverlayPostings()

    @property
    def vectors(self) -> Vectors:
        """Of the overlay's rows, float32 (M, D)."""
        count = self.count  # first: another thread may read this, and the array may grow meanwhile
        return self._vectors[:count]

    @property
    def live_count(self) -> int:
        """Number of the overlay's items that can be found."""
        return self.count - self.dead_count

    def apply(self, records: Sequence[Record]) -> None:
        """Apply changes in the order of their sequences; the caller sets `sequence`."""
        self.changes += 1
        items = [each for each in records if each.kind is RecordKind.ITEM]
        if items:
            end = self.count + len(items)
            self._reserve(end)
            content = b"".join([each.vector for each in items])
            self._vectors[self.count : end] = np.frombuffer(content, np.float32).reshape(len(items), -1)
        for record in records:
            if record.kind is RecordKind.SAME:
                self._refresh(record)
            elif record.kind is RecordKind.ITEM:
                self._add(record)
            else:
                self._retire(record.item_id)
                self.rows[record.item_id] = None

    def _add(self, record: Record) -> None:
        """Give a version of an item a row; its vector is there already."""
        self.columns.set(self.count, record.values)  # first: a record that cannot be read changes nothing
        self.postings.add(self.count, record.terms)
        self._retire(record.item_id)
        self.rows[record.item_id] = self.first_row + self.count
        self.added[self.count] = self._base.find(record.item_id) is None
        self.ids.append(record.item_id)
        self.hits.append(record.hit)
        self.largest = max(self.largest, len(record.hit))
        self.count += 1

    def _refresh(self, record: Record) -> None:
        """Replace the hit and the filter values of an item, in its row."""
        row = self.rows.get(record.item_id)
        if row is None:
            raise RecordsDamaged(f"item {record.item_id!r}: its earlier record is missing")
        self.columns.set(row - self.first_row, record.values)
        self.hits[row - self.first_row] = record.hit
        self.largest = max(self.largest, len(record.hit))

    def current_row(self, row: int) -> int | None:
        """The row of the current version of a row's item; None if there is no such item any more."""
        item_id = self._outdated.get(row)
        return row if item_id is None else self.rows[item_id]

    def current(self, rows: frozenset[int]) -> frozenset[int]:
        """The rows of the current versions of the items of rows."""
        if self._outdated.keys().isdisjoint(rows):
            return rows
        return frozenset(now for row in rows if (now := self.current_row(row)) is not None)

    def _retire(self, item_id: str) -> None:
        """Hide the current version of an item, if there is one."""
        if item_id in self.rows:
            row = self.rows[item_id]
            if row is None:
                return
            self.alive[row - self.first_row] = False
            self.dead_count += 1
        else:
            row = self._base.find(item_id)
            if row is None:
                return
            self.hidden[row] = True
            self.hidden_count += 1
        self._outdated[row] = item_id

    def _reserve(self, rows: int) -> None:
        capacity = len(self._vectors)
        if rows > capacity:
            more = max(rows, 2 * capacity) - capacity
            self._vectors = np.concatenate(
                [self._vectors, np.empty((more, self._vectors.shape[1]), np.float32)]
            )
            self.alive = np.concatenate([self.alive, np.ones(more, np.bool_)])
            self.added = np.concatenate([self.added, np.zeros(more, np.bool_)])


class OverlayGraph:
    """The first rows of an overlay: most of them in a graph; the others are compared one by one.

    Args:
        index: of G vectors.
        held: their rows of the overlay, ascending (G,).
        others: the rows between them, ascending (H,).
        vectors: of the others, float32 (H, D).

    Attributes:
        count: G + H; it covers the overlay's rows before this one.
    """

    def __init__(self, index: VectorIndex, held: Rows, others: Rows, vectors: Vectors) -> None:
        self.count = len(held) + len(others)
        self._index, self._held, self._others, self._vectors = index, held, others, vectors

    def search(self, alive: Mask, vectors: Vectors, k: int) -> Neighbours:
        """The `k` nearest of the rows that are alive, fewer if there are fewer.

        Args:
            alive: bool, by row of the overlay.
            vectors: of the queries, float32 (B, D).
            k: rows wanted.
        """
        if not len(self._others):
            gone = ~alive[: self.count]
            return _remaining(self._index.search, gone, int(np.count_nonzero(gone)), vectors, k)
        gone = ~alive[self._held]
        best = _remaining(self._index.search, gone, int(np.count_nonzero(gone)), vectors, k)
        best = Neighbours(self._held[best.rows], best.scores)
        there = alive[self._others]
        rows, compared = self._others, self._vectors
        if not there.all():
            rows, compared = rows[there], compared[there]
        if not len(rows):
            return best
        places, scores = exact_search(vectors, compared, min(k, len(rows)))
        return merged(best, Neighbours(rows[places], scores), k)

    def search_one(self, alive: Mask, vector: Vectors, k: int) -> list[tuple[float, int]] | None:
        """As `search`, of one query (1, D), as scores and rows; None if it takes more than one search."""
        if len(self._others):
            return None
        gone = ~alive[: self.count]
        return remaining_one(self._index, gone, int(np.count_nonzero(gone)), vector, k)


class LiveIndex(VectorIndex):
    """A bundle's index and an overlay, searched as one; for the overlay's thread.

    Args:
        base: the bundle's index, of N items.
        live: the overlay; row n >= N is its row n - N.
    """

    def __init__(self, base: VectorIndex, live: Overlay) -> None:
        self._base, self._live = base, live
        self._size = base.count

    @property
    def count(self) -> int:
        """N + M: all rows, those that no search finds included."""
        return self._size + self._live.count

    def search(self, vectors: Vectors, k: int, allowed: Allowed | None = None) -> Neighbours:
        """The `k` nearest items, fewer if there are fewer; of the bundle's items as its index finds them."""
        live = self._live
        if allowed is not None:
            return self._search_allowed(self._base.search, vectors, k, allowed)
        found = _remaining(self._base.search, live.hidden, live.hidden_count, vectors, k)
        if live.live_count == 0:
            return found
        graph, first = live.graph, 0
        if graph is not None:
            first = graph.count
            more = graph.search(live.alive, vectors, k)
            found = merged(found, Neighbours(more.rows + self._size, more.scores), k)
        return self._with_rest(found, vectors, k, first)

    def search_one(self, vector: Vectors, k: int) -> tuple[list[int], list[float]]:
        """As `search`, of one query (1, D), in lists."""
        live = self._live
        if not live.rows:
            return self._base.search_one(vector, k)
        best = remaining_one(self._base, live.hidden, live.hidden_count, vector, k)
        graph, first = live.graph, 0
        if graph is not None and best is not None:
            first = graph.count
            more = graph.search_one(live.alive, vector, k)
            best = more and _merged_one(best, [(score, row + self._size) for score, row in more], k)
        if best is not None and first < live.count:
            compared, vectors = live.compared.since(first)
            products = vectors @ vector[0]
            least = best[k - 1][0] if len(best) >= k else -np.inf
            above = (products > least).nonzero()[0]
            if len(above) > MANY * k:
                best = None
            elif len(above):
                slots, scores = compared[above].tolist(), products[above].tolist()
                start, alive = self._size, live.alive
                rest = [
                    (score, slot + start) for score, slot in zip(scores, slots, strict=True) if alive[slot]
                ]
                best = _merged_one(best, rest, k)
        if best is None:
            rows, values = self.search(vector, k)
            return rows[0].tolist(), values[0].tolist()
        return [row for _, row in best], [score for score, _ in best]

    def exact(self, vectors: Vectors, k: int, allowed: Allowed | None = None) -> Neighbours:
        """As `search`, never approximate."""
        live = self._live
        if allowed is not None:
            return self._search_allowed(self._base.exact, vectors, k, allowed)
        found = _remaining(self._base.exact, live.hidden, live.hidden_count, vectors, k)
        rows = live.alive[: live.count].nonzero()[0]
        if not len(rows):
            return found
        places, scores = exact_search(vectors, live.vectors[rows], min(k, len(rows)))
        return merged(found, Neighbours(rows[places] + self._size, scores), k)

    def vectors(self, rows: Rows | Sequence[int] | slice) -> Vectors:
        """The vectors of rows, float32 (R, D)."""
        wanted = np.arange(self.count)[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)
        is_live = wanted >= self._size
        found = np.empty((len(wanted), self._live.vectors.shape[1]), np.float32)
        found[~is_live] = self._base.vectors(wanted[~is_live])
        found[is_live] = self._live.vectors[wanted[is_live] - self._size]
        return found

    def _with_rest(self, found: Neighbours, vectors: Vectors, k: int, first: int) -> Neighbours:
        """The best of what was found and of all overlay rows from `first` on, by comparing each of them."""
        live = self._live
        if first == live.count:
            return found
        compared, rest_vectors = live.compared.since(first)
        products = vectors @ rest_vectors.T  # (B, C)
        enough = found.rows.shape[1] >= k
        least = found.scores[:, k - 1 : k] if enough else np.full((len(vectors), 1), -np.inf, np.float32)
        above = products > least
        if live.dead_count:
            above &= live.alive[compared]
        places = above.ravel().nonzero()[0]
        if not len(places):
            return found
        if enough and len(places) <= MAX_ROWS_IN_PYTHON * len(vectors):
            return self._with_few(found, places, products, compared)
        products[~above] = -np.inf  # cut off below: each query has as many items as the others
        rows = top_k(products, min(k, products.shape[1]))
        rest = Neighbours(compared[rows] + self._size, _picked(products, rows))
        return merged(found, rest, min(k, self._size - live.hidden_count + live.live_count))

    def _with_few(
        self, found: Neighbours, places: npt.NDArray[np.intp], products: Vectors, compared: Rows
    ) -> Neighbours:
        """As `_with_rest`, where few of the compared rows are better: NumPy would take longer than Python.

        Args:
            found: `k` items for each query.
            places: of the better ones in `products`, flattened.
            products: of the queries and the compared rows, float32 (B, C).
            compared: rows of the overlay (C,).
        """
        rows, scores = found.rows.copy(), found.scores.copy()
        width, k = products.shape[1], rows.shape[1]
        better: dict[int, list[tuple[float, int]]] = {}
        for place, score in zip(places.tolist(), products.ravel()[places].tolist(), strict=True):
            query, slot = divmod(place, width)
            better.setdefault(query, []).append((score, self._size + int(compared[slot])))
        for query, pairs in better.items():
            own = [*zip(scores[query].tolist(), rows[query].tolist(), strict=True)]
            best = _merged_one(own, pairs, k)
            scores[query] = [score for score, _ in best]
            rows[query] = [row for _, row in best]
        return Neighbours(rows, scores)

    def _search_allowed(
        self, search: Callable[..., Neighbours], vectors: Vectors, k: int, allowed: Allowed
    ) -> Neighbours:
        live = self._live
        rows = allowed_rows(allowed, self.count)
        split = int(np.searchsorted(rows, self._size))
        below, slots = rows[:split], rows[split:] - self._size
        below, slots = below[~live.hidden[below]], slots[live.alive[slots]]
        found = search(vectors, k, below)
        if not len(slots):
            return found
        places, scores = exact_search(vectors, live.vectors[slots], min(k, len(slots)))
        return merged(found, Neighbours(slots[places] + self._size, scores), k)


def remaining(
    search: Search, queries: Rows, k: int, gone: Mask, gone_count: int, count: int, ask: int = 0
) -> Neighbours:
    """The `k` nearest items that are not gone, fewer if there are fewer.

    Args:
        search: of an index.
        queries: places of the queries (B,).
        k: items wanted.
        gone: items that must not be found, by row.
        gone_count: number of them among those that the search may find.
        count: items that the search may find.
        ask: items to ask for; 0 for a number that usually suffices.
    """
    if gone_count == 0:
        return search(queries, k)
    want = min(k, count - gone_count)
    if want == 0:
        return Neighbours(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))
    # Among `want + gone_count` items there are `want` for certain.
    ask = min(want + gone_count, ask or _expected(want, gone_count, count))
    found = search(queries, ask)
    is_gone = gone[found.rows]  # (B, ask)
    if not is_gone.any():
        return Neighbours(found.rows[:, :want], found.scores[:, :want])
    order = is_gone.argsort(axis=1, kind="stable")[:, :want]
    rows, scores = _picked(found.rows, order), _picked(found.scores, order)
    short = (np.count_nonzero(is_gone, axis=1) > ask - want).nonzero()[0]
    if len(short):  # only they are searched more widely: an answer must not depend on the rest of its batch
        rows[short], scores[short] = remaining(
            search, queries[short], k, gone, gone_count, count, WIDER * ask
        )
    return Neighbours(rows, scores)


def _remaining(
    search: Callable[[Vectors, int], Neighbours], gone: Mask, gone_count: int, vectors: Vectors, k: int
) -> Neighbours:
    """As `remaining`, of all items of an index, for vectors (B, D)."""
    if gone_count == 0:
        return search(vectors, k)
    all_queries = np.arange(len(vectors))
    return remaining(
        lambda queries, ask: search(vectors if len(queries) == len(vectors) else vectors[queries], ask),
        all_queries,
        k,
        gone,
        gone_count,
        len(gone),
    )


def remaining_one(
    index: VectorIndex, gone: Mask, gone_count: int, vector: Vectors, k: int
) -> list[tuple[float, int]] | None:
    """As `remaining`, of one query (1, D), as scores and rows; None if it takes more than one search."""
    want = min(k, len(gone) - gone_count)
    if want == 0:
        return None
    rows, scores = index.search_one(vector, _expected(want, gone_count, len(gone)) if gone_count else want)
    best = [*zip(scores, rows, strict=True)]
    if gone_count:
        flags = gone.data
        best = [each for each in best if not flags[each[1]]][:want]
    return best if len(best) == want else None


def merged(first: Neighbours, second: Neighbours, k: int) -> Neighbours:
    """The best `k` of both; of equal scores, those of the first come first."""
    rows = np.concatenate([first.rows, second.rows], axis=1)
    scores = np.concatenate([first.scores, second.scores], axis=1)
    order = (-scores).argsort(axis=1, kind="stable")[:, :k]
    return Neighbours(_picked(rows, order), _picked(scores, order))


def _picked(array: Array, columns: npt.NDArray[np.intp]) -> Array:
    """`np.take_along_axis` along the second axis, in half of its time: (B, C) of (B, W)."""
    picked: Array = array.ravel()[columns + np.arange(0, array.size, array.shape[1])[:, None]]
    return picked


def _merged_one(
    first: list[tuple[float, int]], second: list[tuple[float, int]], k: int
) -> list[tuple[float, int]]:
    return sorted(first + second, key=_by_score, reverse=True)[:k]


def _by_score(each: tuple[float, int]) -> float:
    return each[0]


def _expected(want: int, gone_count: int, count: int) -> int:
    """How many items to ask for, so that `want` of them are usually not gone."""
    return min(want + gone_count, want + SPARE + 2 * want * gone_count // count)
