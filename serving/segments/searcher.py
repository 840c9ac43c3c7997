"""The items of two segments, and one search of both: their best hits under the same filter, merged.

A segment holds items with their vectors, filter columns, postings, ids and display fields, and knows which of
its rows are deleted or replaced. The rows of the second one are numbered on from those of the first.

    BuiltSegment     the items of a bundle; only deletions change it (`built.py`)
    GrowingSegment   versions of items that were written since, on the thread that searches (`growing.py`)
    RemoteSegment    the items of a bundle on another server, which takes no writes (`remote.py`)

The first two answer `search`, `exact`, `filter` and `search_passing` by vectors, `rank` by
words, and `vectors`, `find`, `item_id`, `fields` and `delete` of their items. The growing segment is searched
second: it takes the hits of the other, and skips items that are worse. A remote segment is alone, in place of
a built one.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from twinspire.protos.hybrid.fusion import NO_HITS, FusionQuery, Ranked
from twinspire.serving.filters.compiled import CompiledFilter
from twinspire.serving.index.vector_index import Neighbours, Rows, Vectors
from twinspire.serving.segments.built import BuiltSegment
from twinspire.serving.segments.growing import GrowingSegment
from twinspire.serving.segments.neighbours import FoundPassing, Mask

Segment = BuiltSegment | GrowingSegment
RANKING_STEP = 4096  # items of the ranking that are compared with a filter at once


class Searcher:
    """Searches a bundle's segment, and its live items' if there are any, and finds their items by id and row.

    An item has the popularity that it had when the towers were trained; one that was added since has none.

    Args:
        built: the segment of the bundle.
        growing: versions of items that were written since.

    Attributes:
        knows_popular: as of `Catalogue`.
    """

    def __init__(self, built: BuiltSegment, growing: GrowingSegment | None = None) -> None:
        self.built, self.growing = built, growing
        self.segments: tuple[Segment, ...] = (built,) if growing is None else (built, growing)
        self.knows_popular = built.catalogue.knows_popular

    @property
    def is_built_alone(self) -> bool:
        """Whether all items are in the bundle's segment, none of them deleted."""
        return self.growing is None or not self.growing.rows

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        """The `k` nearest items, fewer if there are fewer; as the index of each segment finds them.

        Args:
            vectors: of the query tower, float32 (B, D).
            k: items wanted.
        """
        found = self.built.search(vectors, k)
        return found if self.growing is None else self.growing.search(vectors, k, found)

    def exact(self, vectors: Vectors, k: int) -> Neighbours:
        """As `search`, of any vectors, items included, and never approximate."""
        found = self.built.exact(vectors, k)
        return found if self.growing is None else self.growing.exact(vectors, k, found)

    def search_passing(
        self, vectors: Vectors, k: int, passing: CompiledFilter, approximate: bool
    ) -> FoundPassing:
        """As `search`, of the items that pass a filter, with the plan of each query.

        Args:
            vectors: float32 (B, D).
            k: items wanted, at least 1.
            passing: the filter.
            approximate: whether the search may be.
        """
        found = self.built.search_passing(vectors, k, passing.parts[0], approximate)
        if self.growing is None:
            return found
        return self.growing.search_passing(vectors, k, passing.parts[1], found)

    def vectors(self, rows: Rows | Sequence[int]) -> Vectors:
        """The vectors of rows of any segment, float32 (R, D)."""
        if self.growing is None or not self.growing.count:
            return self.built.vectors(rows)
        wanted = np.asarray(rows, np.int64)
        is_live = wanted >= self.growing.first_row
        found = np.empty((len(wanted), self.growing.row_vectors.shape[1]), np.float32)
        found[~is_live] = self.built.vectors(wanted[~is_live])
        found[is_live] = self.growing.vectors(wanted[is_live])
        return found

    def rank(
        self, query: FusionQuery, k: int, passing: CompiledFilter | None, weight: float | None
    ) -> Ranked:
        """The `k` best of the dense candidates and of those that hold the query's terms.

        Args:
            query: with the dense candidates of all segments.
            k: items wanted.
            passing: the filter, which holds for both.
            weight: of the lexical score, without priors; None for the weights of the bundle.
        """
        parts: Sequence[Any] = (None, None) if passing is None else passing.parts
        if self.growing is None:
            return self.built.rank(query, k, parts[0], weight)
        of_built, of_growing = _split(query, self.growing.first_row)
        if not self.growing.visible_count:
            return self.built.rank(of_built, k, parts[0], weight)
        asked = [*zip(self.segments, (of_built, of_growing), parts, strict=True)]
        ranked = [zip(*each.rank(own, k, part, weight), strict=True) for each, own, part in asked]
        best = sorted(chain(*ranked), key=lambda each: (-each[1], each[0]))[:k]
        return tuple(map(list, zip(*best, strict=True))) if best else NO_HITS  # type: ignore[return-value]

    # Items

    def item_id(self, row: int) -> str:
        """The id of the item in a row."""
        return self._segment_of(row).item_id(row)

    def find(self, item_id: str) -> int | None:
        """The row of an item; None if there is no such item."""
        growing = self.growing
        if growing is not None and item_id in growing.rows:
            return growing.rows[item_id]
        return self.built.find(item_id)

    def find_all(self, item_ids: Sequence[str]) -> list[int | None]:
        """As `find`, of each id."""
        return self.built.find_all(item_ids) if self.growing is None else [*map(self.find, item_ids)]

    def rows(self, item_ids: Iterable[str]) -> set[int]:
        """The rows of items; unknown ids are skipped."""
        if self.is_built_alone:
            return self.built.catalogue.rows(item_ids)
        return {row for row in map(self.find, item_ids) if row is not None}

    def current(self, rows: frozenset[int]) -> frozenset[int]:
        """The rows that hold the items of `rows` now, after live items have replaced or deleted some."""
        if not rows or self.is_built_alone:
            return rows
        return frozenset(now for row in rows if (now := self._current(row)) is not None)

    def _current(self, row: int) -> int | None:
        growing = self.growing
        item_id = None if growing is None else growing.replaced.get(row)
        return row if growing is None or item_id is None else growing.rows[item_id]

    def popular(
        self, k: int, excluded: Collection[int], mask: Mask | None = None
    ) -> tuple[list[int], list[float]]:
        """The `k` most popular items: their rows and popularities.

        The most popular item is first; of equally popular items, the one with the lower row.

        Args:
            k: items wanted.
            excluded: rows to leave out.
            mask: whether each row of all segments passes a filter; None for all.
        """
        ranked, share_of = self.built.catalogue.ranking, self.built.catalogue.shares
        if mask is None and self.is_built_alone:
            best = [row for row in ranked[: k + len(excluded)] if row not in excluded]
            return best[:k], [share_of[row] for row in best[:k]]
        ranking, deleted = np.asarray(ranked), self.built.deleted
        rows: list[int] = []
        shares: list[float] = []
        for start in range(0, len(ranking), RANKING_STEP):
            block = ranking[start : start + RANKING_STEP]
            if mask is not None:  # a deleted row stands for the one that has replaced it
                block = block[mask[block] | deleted[block]]
            for row in block.tolist():
                now = self._current(row) if deleted[row] else row
                if now is not None and now not in excluded and (mask is None or mask[now]):
                    rows.append(now)
                    shares.append(share_of[row])
                    if len(rows) == k:
                        return rows, shares
        if self.growing is not None:
            own = None if mask is None else mask[self.growing.first_row :]
            added = (row for row in self.growing.added(own) if row not in excluded)
            rows += islice(added, k - len(rows))
        return rows, shares + [0.0] * (len(rows) - len(shares))

    def fields(self, row: int) -> dict[str, str]:
        """The display fields of an item; one that it lacks is left out."""
        return self._segment_of(row).fields(row)

    def _segment_of(self, row: int) -> Segment:
        growing = self.growing
        return self.built if growing is None or row < growing.first_row else growing


def _split(query: FusionQuery, first: int) -> tuple[FusionQuery, FusionQuery]:
    """The query with its candidates before the row `first`, and with the others."""
    below = query._replace(rows=[], scores=[])
    above = query._replace(rows=[], scores=[])
    for row, score in zip(query.rows, query.scores, strict=True):
        part = below if row < first else above
        part.rows.append(row)
        part.scores.append(score)
    return below, above
