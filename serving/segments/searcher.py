"""The items of a bundle together with its live items: one search of both segments, merged.

A segment holds items with their vectors, filter columns, postings, ids and display fields, and knows which of
its rows are deleted or replaced. The rows of the second one are numbered on from those of the first.

    BuiltSegment     the items of a bundle; only deletions change it (`built.py`)
    GrowingSegment   versions of items that were written since, on the thread that searches (`growing.py`)
    RemoteSegment    the items of a bundle on another server, which takes no writes (`remote.py`)

The first two answer `search`, `exact`, `filter` and `search_passing` by vectors, `rank` by
words, and `vectors`, `find`, `item_id`, `fields` and `delete` of their items. The growing segment is searched
second: it takes the hits of the other, and skips items that are worse. Without live items a built or a remote
segment is searched alone; a `Searcher` has the methods that a retriever calls of either.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from twinspire.protos.hybrid.fusion import NO_HITS, FusionQuery, Ranked
from twinspire.serving.filters.columns import Work
from twinspire.serving.filters.expression import Filter
from twinspire.serving.segments.built import BuiltFilter, BuiltSegment
from twinspire.serving.segments.growing import GrowingFilter, GrowingSegment
from twinspire.serving.segments.neighbours import Mask
from twinspire.serving.segments.vector_index import FoundPassing, Neighbours, Rows, Vectors

Segment = BuiltSegment | GrowingSegment


class FilterOfBoth(NamedTuple):
    """The rows of both segments that pass a filter."""

    built: BuiltFilter
    growing: GrowingFilter

    @property
    def nbytes(self) -> int:
        """Bytes of memory at most."""
        return self.built.nbytes + self.growing.nbytes

    @property
    def mask(self) -> Mask:
        """Whether each row passes and is visible, those of the built segment first."""
        return np.concatenate([self.built.mask, self.growing.mask])


class Searcher:
    """Searches a bundle's segment and its live items', and finds their items by id and row.

    An item has the popularity that it had when the towers were trained; one that was added since has none.

    Args:
        growing: versions of items that were written since; it has the segment of the bundle.
    """

    def __init__(self, growing: GrowingSegment) -> None:
        self.built, self.growing = growing.built, growing
        self.knows_popular = growing.built.knows_popular

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        """The `k` nearest items, fewer if there are fewer; as the index of each segment finds them.

        Args:
            vectors: of the query tower, float32 (B, D).
            k: items wanted.
        """
        return self.growing.search(vectors, k, self.built.search(vectors, k))

    def exact(self, vectors: Vectors, k: int) -> Neighbours:
        """As `search`, of any vectors, items included, and never approximate."""
        return self.growing.exact(vectors, k, self.built.exact(vectors, k))

    def filter(self, expression: Filter, work: Work) -> FilterOfBoth:
        """The rows that pass a filter; arguments and errors as of `BuiltSegment.filter`."""
        return FilterOfBoth(self.built.filter(expression, work), self.growing.filter(expression, work))

    def search_passing(
        self, vectors: Vectors, k: int, passing: FilterOfBoth, approximate: bool
    ) -> FoundPassing:
        """As `BuiltSegment.search_passing`."""
        found = self.built.search_passing(vectors, k, passing.built, approximate)
        return self.growing.search_passing(vectors, k, passing.growing, found)

    def expected_cost(self, k: int, passing: FilterOfBoth | None = None) -> int:
        """As `BuiltSegment.expected_cost`, without that of the live items."""
        return self.built.expected_cost(k, None if passing is None else passing.built)

    def vectors(self, rows: Rows | Sequence[int]) -> Vectors:
        """The vectors of rows of any segment, float32 (R, D)."""
        if not self.growing.count:
            return self.built.vectors(rows)
        wanted = np.asarray(rows, np.int64)
        is_live = wanted >= self.growing.first_row
        found = np.empty((len(wanted), self.growing.row_vectors.shape[1]), np.float32)
        found[~is_live] = self.built.vectors(wanted[~is_live])
        found[is_live] = self.growing.vectors(wanted[is_live])
        return found

    def rank(self, query: FusionQuery, k: int, passing: FilterOfBoth | None, weight: float | None) -> Ranked:
        """The `k` best of the dense candidates and of those that hold the query's terms.

        Args:
            query: with the dense candidates of all segments.
            k: items wanted.
            passing: the filter, which holds for both.
            weight: of the lexical score, without priors; None for the weights of the bundle.
        """
        parts = (None, None) if passing is None else passing
        of_built, of_growing = _split(query, self.growing.first_row)
        ranked = [self.built.rank(of_built, k, parts[0], weight)]
        if not self.growing.visible_count:
            return ranked[0]
        ranked.append(self.growing.rank(of_growing, k, parts[1], weight))
        every = chain(*(zip(*each, strict=True) for each in ranked))
        best = sorted(every, key=lambda each: (-each[1], each[0]))[:k]
        return tuple(map(list, zip(*best, strict=True))) if best else NO_HITS  # type: ignore[return-value]

    # Items

    def item_id(self, row: int) -> str:
        """The id of the item in a row."""
        return self._segment_of(row).item_id(row)

    def find(self, item_id: str) -> int | None:
        """The row of an item; None if there is no such item."""
        return self.growing.rows[item_id] if item_id in self.growing.rows else self.built.find(item_id)

    def find_all(self, item_ids: Sequence[str]) -> list[int | None]:
        """As `find`, of each id."""
        return [*map(self.find, item_ids)]

    def rows(self, item_ids: Iterable[str]) -> set[int]:
        """The rows of items; unknown ids are skipped."""
        if not self.growing.rows:  # nothing has changed
            return self.built.rows(item_ids)
        return {row for row in map(self.find, item_ids) if row is not None}

    def current(self, rows: frozenset[int]) -> frozenset[int]:
        """The rows that hold the items of `rows` now, after live items have replaced or deleted some."""
        if not (rows and self.growing.rows):
            return rows
        return frozenset(now for row in rows if (now := self._current(row)) is not None)

    def _current(self, row: int) -> int | None:
        item_id = self.growing.replaced.get(row)
        return row if item_id is None else self.growing.rows[item_id]

    def popular(
        self, k: int, excluded: Collection[int], mask: Mask | None = None
    ) -> tuple[list[int], list[float]]:
        """As `BuiltSegment.popular`; `mask` is that of the rows of both segments."""
        deleted, share_of = self.built.deleted, self.built.catalogue.shares
        rows: list[int] = []
        shares: list[float] = []
        for row in self.built.ranked(mask):  # a deleted row stands for the one that has replaced it
            now = self._current(row) if deleted[row] else row
            if now is not None and now not in excluded and (mask is None or mask[now]):
                rows.append(now)
                shares.append(share_of[row])
                if len(rows) == k:
                    return rows, shares
        own = None if mask is None else mask[self.growing.first_row :]
        added = (row for row in self.growing.added(own) if row not in excluded)
        rows += islice(added, k - len(rows))
        return rows, shares + [0.0] * (len(rows) - len(shares))

    def fields(self, row: int) -> dict[str, str]:
        """The display fields of an item; one that it lacks is left out."""
        return self._segment_of(row).fields(row)

    def _segment_of(self, row: int) -> Segment:
        return self.built if row < self.growing.first_row else self.growing


def _split(query: FusionQuery, first: int) -> tuple[FusionQuery, FusionQuery]:
    """The query with its candidates before the row `first`, and with the others."""
    below = query._replace(rows=[], scores=[])
    above = query._replace(rows=[], scores=[])
    for row, score in zip(query.rows, query.scores, strict=True):
        part = below if row < first else above
        part.rows.append(row)
        part.scores.append(score)
    return below, above
