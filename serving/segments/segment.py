"""The interface of a segment: items that are searched together.

A segment holds items with their vectors, filter columns, postings, ids and display fields, and knows which of
its rows are deleted or replaced. The rows of all segments are numbered one after another. `Searcher` asks
each segment in turn, and passes on the best hits so far, so that a segment can skip items that are worse.

    BuiltSegment     the items of a bundle; only deletions change it (`built.py`)
    GrowingSegment   versions of items that were written since, on the thread that searches (`growing.py`)

The vectors of a built segment may be in a collection on another server (`serving/index/milvus_index.py`).
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from protos.hybrid.fusion import FusionQuery, Ranked
from serving.filters.columns import Work
from serving.filters.compiled import SegmentFilter
from serving.filters.expression import Filter
from serving.filters.passing_rows import Reserve
from serving.index.vector_index import Neighbours, Rows, Vectors
from serving.segments.planner import Found

Mask = npt.NDArray[np.bool_]
Scored = tuple[float, int]  # score and row


class Segment(Protocol):
    """Items with the rows `first_row` to `first_row + count - 1`.

    `passing` in its methods is what its own method `filter` has returned. A method that takes `best` returns
    the `k` best of these hits and its own; of equal scores, the earlier segment's come first.
    """

    first_row: int

    @property
    def count(self) -> int:
        """Number of rows, deleted ones included."""

    @property
    def visible_count(self) -> int:
        """Number of rows that are neither deleted nor replaced."""

    def search(self, vectors: Vectors, k: int, best: Neighbours | None) -> Neighbours:
        """The `k` nearest items, fewer if there are fewer, maybe approximate.

        Args:
            vectors: of the query tower, float32 (B, D).
            k: items wanted.
            best: hits of earlier segments, (B, at most k).
        """

    def search_one(self, vector: Vectors, k: int, best: list[Scored]) -> list[Scored] | None:
        """As `search`, of one query (1, D), in lists; None if `search` is faster for it."""

    def exact(self, vectors: Vectors, k: int, best: Neighbours | None) -> Neighbours:
        """As `search`, of any vectors, items included, and never approximate."""

    def filter(self, expression: Filter, work: Work, reserve: Reserve | None) -> SegmentFilter:
        """The rows that pass a filter.

        Args:
            expression: the filter.
            work: counts the work of the evaluation, also if it fails.
            reserve: as of `PassingRows`.

        Raises:
            InvalidInput: the filter does not fit the fields.
        """

    def search_passing(
        self, vectors: Vectors, k: int, passing: Any, approximate: bool, best: list[Found] | None
    ) -> list[Found]:
        """As `search`, of the items that pass a filter, with the plan of each query.

        Args:
            vectors: float32 (B, D).
            k: items wanted, at least 1.
            passing: the rows that pass.
            approximate: whether the search may be.
            best: hits of earlier segments, of each query.
        """

    def vectors(self, rows: Rows | Sequence[int]) -> Vectors:
        """The vectors of some of its rows, float32 (R, D)."""

    def rank(self, query: FusionQuery, k: int, passing: Any, weight: float | None) -> Ranked:
        """The `k` best of the dense candidates and of those that hold the query's terms (`Fusion.rank`).

        Args:
            query: with the dense candidates that are in this segment.
            k: items wanted.
            passing: the rows that pass the request's filter; None without one.
            weight: of the lexical score, without priors; None for the weights of the bundle.
        """

    def candidates(self, query: FusionQuery, k: int, passing: Any) -> Ranked:
        """All candidates with their dense and lexical scores (`Fusion.candidates`)."""

    def find(self, item_id: str) -> int | None:
        """The visible row of an item; None if there is none."""

    def holds(self, item_id: str) -> bool:
        """Whether the segment, or an earlier one, has a row of an item, deleted or not."""

    def item_id(self, row: int) -> str:
        """The id of the item in one of its rows, deleted or not."""

    def fields(self, row: int) -> dict[str, str]:
        """The display fields of the item in one of its rows."""

    def delete(self, item_id: str) -> int | None:
        """Delete the visible row of an item, and return it; None if there is none."""

    def added(self, mask: Mask | None) -> Iterable[int]:
        """Visible rows, ascending, of items that no earlier segment holds; they have no popularity.

        Args:
            mask: whether each of its rows may be among them; None for all.
        """
