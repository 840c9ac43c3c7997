"""One search of two segments: their best hits under the same filter and options, merged.

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

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from twinspire.protos.hybrid.fusion import NO_HITS, FusionQuery, Ranked
from twinspire.serving.filters.compiled import CompiledFilter
from twinspire.serving.index.vector_index import Neighbours, Rows, Vectors
from twinspire.serving.segments.built import BuiltSegment
from twinspire.serving.segments.growing import GrowingSegment
from twinspire.serving.segments.planner import FoundPassing

Segment = BuiltSegment | GrowingSegment


class Searcher:
    """Searches a bundle's segment, and its live items' if there are any.

    Args:
        built: the segment of the bundle.
        growing: versions of items that were written since.
    """

    def __init__(self, built: BuiltSegment, growing: GrowingSegment | None = None) -> None:
        self.built, self.growing = built, growing
        self.segments: tuple[Segment, ...] = (built,) if growing is None else (built, growing)

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


def _split(query: FusionQuery, first: int) -> tuple[FusionQuery, FusionQuery]:
    """The query with its candidates before the row `first`, and with the others."""
    below = query._replace(rows=[], scores=[])
    above = query._replace(rows=[], scores=[])
    for row, score in zip(query.rows, query.scores, strict=True):
        part = below if row < first else above
        part.rows.append(row)
        part.scores.append(score)
    return below, above
