"""The growing segment: versions of items that were written since a bundle was built.

Each version gets a row of its own after the bundle's rows 0 to N - 1; a version with the same vector and
terms takes the row of the one before. Rows are never used for another item or vector, so a row that a query
holds while changes are applied still means the same version.

All current rows are compared with a query, unless they are many: then most are in a graph of their own, and a
search without a filter compares only the rest. Changes are applied on the thread that searches.
"""

from collections.abc import Sequence

import numpy as np

from twinspire.protos.hybrid.fusion import (
    NOTHING,
    FusionQuery,
    Ranked,
    clicked,
    fuse_held,
    rarest,
    shares,
)
from twinspire.protos.nearest.search import BLOCK, exact_search, top_k
from twinspire.serving.filters.columns import Work
from twinspire.serving.filters.expression import Filter
from twinspire.serving.filters.plan import Plan
from twinspire.serving.segments.built import BuiltSegment
from twinspire.serving.segments.growing_columns import GrowingColumns, GrowingPostings
from twinspire.serving.segments.growing_graph import GrowingGraph
from twinspire.serving.segments.neighbours import Mask, merged, picked
from twinspire.serving.segments.packed_items import EncodedItem, EncodedItemsDamaged, EncodedKind, hit_of
from twinspire.serving.segments.vector_index import FoundPassing, Neighbours, Rows, Vectors, none_of

FIRST_CAPACITY = 256  # rows
COPIED_SHARE = 4  # the vectors of at most 1/4 of the rows are copied; of more, all are compared
# Rows that may have become outdated before the others are copied anew: OUTDATED, or 1/SHARE of all.
OUTDATED, SHARE = 64, 4


class GrowingSegment:
    """The live items of one bundle; its rows replace those of the bundle's segment.

    For one thread; another one may read `row_vectors` and set `graph`. The bundle's idf and mean length score
    the live items, too. Words that the bundle does not know find nothing until the towers are trained again.
    An item that is written again keeps its priors.

    Args:
        built: the bundle's segment; items that are written again are deleted there.
        sequence: of the snapshot that the bundle was built from.

    Attributes:
        first_row: N.
        sequence: all changes up to it have been applied.
        replaced: row of the bundle, or of the segment, that is deleted or replaced -> id of its item.
        rows: item id -> its row; None if the item was deleted or cannot be encoded. Only of items that have
            changed since the bundle was built.
        count: M, rows of the segment, those of outdated versions included.
        alive: whether each row is the current version of its item, bool (at least M,).
        hits: parts of answers by row - N (`packed_items.packed_hit`).
        changes: how often changes have been applied.
        largest: bytes of the largest hit that an answer may hold.
        graph: of the first rows, if there is one; it may be replaced from another thread.
    """

    count = 0

    def __init__(self, built: BuiltSegment, sequence: int = 0) -> None:
        self.built, self.sequence, dimension = built, sequence, built.manifest.dimension
        self.rows: dict[str, int | None] = {}
        self.replaced: dict[int, str] = {}
        self.first_row = built.count
        self.dead_count = self.largest = self.changes = 0
        self.alive: Mask = np.ones(FIRST_CAPACITY, np.bool_)
        self.hits: list[bytes] = []
        self.columns = GrowingColumns(built.manifest.filters)
        self.graph: GrowingGraph | None = None
        self._ids: list[str] = []
        self._added: Mask = np.zeros(FIRST_CAPACITY, np.bool_)  # rows of items that the bundle does not hold
        self._vectors: Vectors = np.empty((FIRST_CAPACITY, dimension), np.float32)
        self._compared = BruteForceBuffer(dimension)
        self._postings = GrowingPostings()

    @property
    def row_vectors(self) -> Vectors:
        """The vectors of all rows, float32 (M, D)."""
        count = self.count  # first: another thread may read this, and the array may grow meanwhile
        return self._vectors[:count]

    @property
    def visible_count(self) -> int:
        """Number of rows that are neither deleted nor replaced."""
        return self.count - self.dead_count

    @property
    def item_count(self) -> int:
        """Number of the items here and in the bundle's segment that are not deleted."""
        deleted_in_bundle = len(self.replaced) - self.dead_count
        return self.first_row - deleted_in_bundle + self.visible_count

    # Changes

    def apply(self, items: Sequence[EncodedItem]) -> None:
        """Apply changes in the order of their sequences; the caller sets `sequence`.

        Raises:
            EncodedItemsDamaged, TypeError, ValueError, OverflowError: an item cannot be applied.
        """
        self.changes += 1
        added = [each for each in items if each.kind is EncodedKind.ITEM]
        if added:
            end = self.count + len(added)
            self._reserve(end)
            content = b"".join([each.vector for each in added])
            self._vectors[self.count : end] = np.frombuffer(content, np.float32).reshape(len(added), -1)
        for item in items:
            if item.kind is EncodedKind.SAME:
                self._refresh(item)
            elif item.kind is EncodedKind.ITEM:
                self._add(item)
            else:
                self._retire(item.item_id)
                self.rows[item.item_id] = None

    def _add(self, item: EncodedItem) -> None:
        """Give a version of an item a row; its vector is there already."""
        self.columns.set(self.count, item.values)  # first: an item that cannot be read changes nothing
        self._postings.add(self.count, item.terms)
        self._retire(item.item_id)
        self.rows[item.item_id] = self.first_row + self.count
        self._added[self.count] = not self.built.holds(item.item_id)
        self._ids.append(item.item_id)
        self.hits.append(item.hit)
        self.largest = max(self.largest, len(item.hit))
        self.count += 1

    def _refresh(self, item: EncodedItem) -> None:
        """Replace the hit and the filter values of an item, in its row."""
        row = self.rows.get(item.item_id)
        if row is None:
            raise EncodedItemsDamaged(f"item {item.item_id!r}: its earlier version is missing")
        self.columns.set(row - self.first_row, item.values)
        self.hits[row - self.first_row] = item.hit
        self.largest = max(self.largest, len(item.hit))

    def _retire(self, item_id: str) -> None:
        """Delete the current version of an item, if there is one, here or in the bundle's segment."""
        row = self.delete(item_id) if item_id in self.rows else self.built.delete(item_id)
        if row is not None:
            self.replaced[row] = item_id

    def delete(self, item_id: str) -> int | None:
        """As `BuiltSegment.delete`."""
        row = self.rows.get(item_id)
        if row is None:
            return None
        self.alive[row - self.first_row] = False
        self.rows[item_id] = None
        self.dead_count += 1
        self.changes += 1
        return row

    def _reserve(self, rows: int) -> None:
        capacity = len(self._vectors)
        if rows > capacity:
            more = max(rows, 2 * capacity) - capacity
            spare = np.empty((more, self._vectors.shape[1]), np.float32)
            self._vectors = np.concatenate([self._vectors, spare])
            self.alive = np.concatenate([self.alive, np.ones(more, np.bool_)])
            self._added = np.concatenate([self._added, np.zeros(more, np.bool_)])

    # Search by vectors

    def search(self, vectors: Vectors, k: int, found: Neighbours) -> Neighbours:
        """As `BuiltSegment.search`, of the items here and of those that have been found.

        Args:
            vectors: of the query tower, float32 (B, D).
            k: items wanted.
            found: hits of the bundle's segment, (B, at most k); of equal scores, they come first.
        """
        if not self.visible_count:
            return found
        graph, first = self.graph, 0
        if graph is not None:
            first = graph.count
            more = graph.search(self.alive, vectors, k)
            found = merged(found, Neighbours(more.rows + self.first_row, more.scores), k)
        return self._with_rest(found, vectors, k, first)

    def exact(self, vectors: Vectors, k: int, found: Neighbours) -> Neighbours:
        """As `search`, of any vectors, items included, and never approximate."""
        return merged(found, self._compare_passing(vectors, k, self.alive[: self.count]), k)

    def _with_rest(self, found: Neighbours, vectors: Vectors, k: int, first: int) -> Neighbours:
        """The best of what was found and of all rows from `first` on, by comparing each of them."""
        compared, rest = self._compared.since(first, self.row_vectors, self.alive, self.dead_count)
        products, count = vectors @ rest.T, len(compared)  # (B, C)
        if self.dead_count:
            dead = ~self.alive[compared]
            products[:, dead] = -np.inf
            count -= int(np.count_nonzero(dead))
        if not count:
            return found
        width = min(k, found.rows.shape[1] + count)
        if width > found.rows.shape[1]:
            queries = np.arange(len(vectors))
        else:  # most queries have no better item among so few
            queries = np.flatnonzero(products.max(axis=1) > found.scores[:, -1])
            if not len(queries):
                return found
        products = products[queries]
        best = top_k(products, min(width, products.shape[1]))
        own = Neighbours(compared[best] + self.first_row, picked(products, best))
        both = merged(Neighbours(found.rows[queries], found.scores[queries]), own, width)
        if len(queries) == len(vectors):
            return both
        rows, scores = found.rows.copy(), found.scores.copy()
        rows[queries], scores[queries] = both
        return Neighbours(rows, scores)

    def vectors(self, rows: Rows | Sequence[int]) -> Vectors:
        """As `BuiltSegment.vectors`."""
        found: Vectors = self.row_vectors[np.asarray(rows, np.int64) - self.first_row]
        return found

    # Search with a filter

    def filter(self, expression: Filter, work: Work) -> "GrowingFilter":
        """As `BuiltSegment.filter`; evaluated by the first search, and after each change."""
        return GrowingFilter(self, expression)

    def search_passing(
        self, vectors: Vectors, k: int, passing: "GrowingFilter", found: FoundPassing
    ) -> FoundPassing:
        """As `search`, of the items that pass a filter, with the plan of each query; all are compared."""
        own = self._compare_passing(vectors, k, passing.mask)
        if not own.rows.shape[1]:
            return found
        first, plans = found
        plans = [Plan.EXACT if each is Plan.EMPTY else each for each in plans]
        return merged(first, own, k), plans

    def _compare_passing(self, vectors: Vectors, k: int, passing: Mask) -> Neighbours:
        """The `k` nearest of the rows that pass, fewer if there are fewer.

        Args:
            vectors: of the queries, float32 (B, D).
            k: items wanted.
            passing: whether each row passes and is visible, bool (M,).
        """
        slots, items = np.flatnonzero(passing), self.row_vectors
        if not len(slots):
            return none_of(len(vectors))
        k = min(k, len(slots))
        if len(slots) * COPIED_SHARE <= len(items):
            places, products = exact_search(vectors, items[slots], k)
            return Neighbours(slots[places] + self.first_row, products)
        rows, scores = np.empty((len(vectors), k), np.int64), np.empty((len(vectors), k), np.float32)
        for start in range(0, len(vectors), BLOCK):
            products = vectors[start : start + BLOCK] @ items.T
            products[:, ~passing] = -np.inf
            rows[start : start + BLOCK] = top = top_k(products, k)
            scores[start : start + BLOCK] = np.take_along_axis(products, top, axis=1)
        return Neighbours(rows + self.first_row, scores)

    # Search by words

    def rank(
        self, query: FusionQuery, k: int, passing: "GrowingFilter | None", weight: float | None
    ) -> Ranked:
        """As `BuiltSegment.rank`."""
        assert self.built.fusion is not None, "only hybrid bundles are ranked"
        hybrid, base, start = self.built.fusion.hybrid, self.built.fusion.index.postings, self.first_row
        mask = self.alive[: self.count] if passing is None else passing.mask
        query = query._replace(rows=[row - start for row in query.rows], mask=mask)
        bag, bound = rarest(base, query.terms, hybrid)
        held = [(factor, *self._postings.of(term)) for term, factor in bag]
        held.sort(key=lambda each: len(each[1]))
        sums, most = np.zeros(self.count, np.float32), max(hybrid.lexical_candidates, k)
        share, prior_share = shares(hybrid, weight)
        known = self._clicked(query.terms) if prior_share else NOTHING
        vectors = self.row_vectors
        best = fuse_held(held, known, bound, sums, vectors, hybrid, query, share, prior_share, most, k)
        return ([row + start for row in best[0]], *best[1:])

    def _clicked(self, terms: Sequence[int]) -> tuple[Rows, Vectors]:
        """As `clicked`, of the rows that have replaced some of the bundle's."""
        assert self.built.fusion is not None, "only hybrid bundles are ranked"
        rows, priors = clicked(self.built.fusion.index.postings, terms)
        now = [self.rows.get(self.built.item_id(row)) for row in rows.tolist()]
        slots = np.array([-1 if row is None else row - self.first_row for row in now], np.int64)
        order = np.argsort(slots)[np.count_nonzero(slots < 0) :]
        return slots[order], priors[order]

    # Items

    def find(self, item_id: str) -> int | None:
        """As `BuiltSegment.find`."""
        return self.rows.get(item_id)

    def item_id(self, row: int) -> str:
        """As `BuiltSegment.item_id`."""
        return self._ids[row - self.first_row]

    def fields(self, row: int) -> dict[str, str]:
        """As `BuiltSegment.fields`."""
        fields = hit_of(self.hits[row - self.first_row]).fields
        return {name: fields[name] for name in self.built.manifest.display_fields if name in fields}

    def added(self, mask: Mask | None) -> list[int]:
        """Visible rows, ascending, of items that the bundle does not hold; they have no popularity.

        Args:
            mask: whether each row may be among them, bool (M,); None for all.
        """
        wanted = self._added[: self.count] & self.alive[: self.count]
        if mask is not None:
            wanted &= mask
        rows: list[int] = (np.flatnonzero(wanted) + self.first_row).tolist()
        return rows


class BruteForceBuffer:
    """A contiguous copy of a segment's rows from some row on, without most of the outdated ones.

    A growing segment keeps the rows of outdated versions. If they were compared too, the time of a search
    would grow with the number of writes: an item that is written each second would soon cost as much as
    thousands.

    Args:
        dimension: D.
    """

    def __init__(self, dimension: int) -> None:
        self._rows: Rows = np.empty(FIRST_CAPACITY, np.int64)
        self._vectors: Vectors = np.empty((FIRST_CAPACITY, dimension), np.float32)
        self._count = 0
        self._first = self._end = 0  # the segment's rows between them have been taken
        self._dead_count = 0  # of the segment, when the rows were last copied

    def since(self, first: int, vectors: Vectors, alive: Mask, dead_count: int) -> tuple[Rows, Vectors]:
        """The segment's rows from `first` on: their numbers, ascending (C,), and their vectors (C, D).

        All current versions are among them. So are some outdated ones, which the caller has to leave out.

        Args:
            first: row, from 0 on.
            vectors: of all rows of the segment, float32 (M, D). In all calls it is the same segment; rows are
                only ever added to it, and become outdated.
            alive: whether each row is the current version of its item, bool (at least M,).
            dead_count: rows that are not.
        """
        if first != self._first or dead_count - self._dead_count > max(OUTDATED, self._count // SHARE):
            self._count, self._first, self._end, self._dead_count = 0, first, first, dead_count
        if self._end < len(vectors):
            self._take(vectors, self._end + alive[self._end : len(vectors)].nonzero()[0])
            self._end = len(vectors)
        return self._rows[: self._count], self._vectors[: self._count]

    def _take(self, vectors: Vectors, rows: Rows) -> None:
        end = self._count + len(rows)
        if end > len(self._rows):
            more = max(end, 2 * len(self._rows)) - self._count
            self._rows = np.concatenate([self._rows[: self._count], np.empty(more, np.int64)])
            spare = np.empty((more, self._vectors.shape[1]), np.float32)
            self._vectors = np.concatenate([self._vectors[: self._count], spare])
        self._rows[self._count : end] = rows
        self._vectors[self._count : end] = vectors[rows]
        self._count = end


class GrowingFilter:
    """The rows of a growing segment that pass a filter, evaluated anew after changes.

    Args:
        segment: that holds them.
        expression: the filter.
    """

    def __init__(self, segment: GrowingSegment, expression: Filter) -> None:
        self.nbytes = segment.count  # of the mask, which grows with the segment
        self._segment, self._expression = segment, expression
        self._changes = -1  # of the segment, when the mask was computed
        self._mask: Mask = np.empty(0, np.bool_)

    @property
    def mask(self) -> Mask:
        """Whether each row passes and is visible, bool (M,)."""
        segment = self._segment
        if self._changes != segment.changes:
            passing = segment.columns.evaluate(self._expression, segment.count)
            self._mask = passing & segment.alive[: segment.count]
            self._changes = segment.changes
        return self._mask
