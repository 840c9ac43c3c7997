"""The segment of a bundle's items: built once, and changed only by deletions.

The bundle's graph is not changed, because an HNSW graph whose items are replaced again and again loses the
paths to some of them. It is asked for more items than wanted, until enough remain that are not deleted.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from twinspire.protos.bundle import EXACT, Manifest
from twinspire.protos.hybrid.fusion import Fusion, FusionQuery, Ranked
from twinspire.protos.hybrid.lexical_index import LexicalIndex
from twinspire.serving.filters.columns import FilterColumns, Work
from twinspire.serving.filters.compiled import PassingRows
from twinspire.serving.filters.expression import Filter
from twinspire.serving.filters.plan import Plan
from twinspire.serving.segments.catalogue import Catalogue
from twinspire.serving.segments.neighbours import Mask, expected_cost, remaining, remaining_of_all
from twinspire.serving.segments.vector_index import (
    FoundPassing,
    Neighbours,
    Rows,
    VectorIndex,
    Vectors,
    open_index,
)

RANKING_STEP = 4096  # items of the ranking that are compared with a filter at once


class BuiltSegment:
    """The items of a bundle; safe to call from several threads while nothing is deleted.

    Args:
        index: the vectors of its N items.
        catalogue: its items, in the order of the vectors.
        columns: their filter fields; none by default.
        fusion: fuses vectors and postings; None if the bundle has no lexical index.

    Attributes:
        count: N, deleted ones included.
        deleted: rows that no search may find, bool (N,).
        deleted_count: number of them.
        has_graph: whether the index may be approximate.
    """

    def __init__(
        self,
        manifest: Manifest,
        index: VectorIndex,
        catalogue: Catalogue,
        columns: FilterColumns | None = None,
        fusion: Fusion | None = None,
    ) -> None:
        self.manifest, self.index, self.catalogue, self.fusion = manifest, index, catalogue, fusion
        self.columns = columns or FilterColumns({}, manifest.count, {})
        self.has_graph = manifest.index.kind != EXACT
        self.count = len(catalogue)
        self.deleted: Mask = np.zeros(self.count, np.bool_)
        self.deleted_count = 0

    @classmethod
    def load(
        cls, folder: Path, manifest: Manifest, open_catalogue: Callable[[Path, Manifest], Catalogue]
    ) -> "BuiltSegment":
        """The segment of a bundle whose files have been verified.

        Raises:
            BundleDamaged: they are not those that the manifest describes.
            BundleTooNew: this program has no such kind of index.
        """
        index, lexical = open_index(folder, manifest), LexicalIndex.of(folder, manifest)
        fusion = None if lexical is None else Fusion(lexical, index.vectors(slice(None)))
        columns = FilterColumns.load(folder, manifest)
        return cls(manifest, index, open_catalogue(folder, manifest), columns, fusion)

    def undeleted(self) -> "BuiltSegment":
        """The same items, none of them deleted; deletions in one do not affect the other."""
        return BuiltSegment(self.manifest, self.index, self.catalogue, self.columns, self.fusion)

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        """The `k` nearest items, fewer if there are fewer, maybe approximate.

        Args:
            vectors: of the query tower, float32 (B, D).
            k: items wanted.
        """
        if not self.deleted_count:
            return self.index.search(vectors, k)
        return remaining_of_all(self.index.search, self.deleted, self.deleted_count, vectors, k)

    def exact(self, vectors: Vectors, k: int) -> Neighbours:
        """As `search`, of any vectors, items included, and never approximate."""
        return remaining_of_all(self.index.exact, self.deleted, self.deleted_count, vectors, k)

    def filter(self, expression: Filter, work: Work) -> "BuiltFilter":
        """The rows that pass a filter.

        Args:
            expression: the filter.
            work: counts the work of the evaluation, also if it fails.

        Raises:
            InvalidInput: the filter does not fit the fields.
        """
        passing = self.columns.evaluate(expression, work)
        return BuiltFilter(self, PassingRows(passing, self.count))

    def search_passing(
        self, vectors: Vectors, k: int, passing: "BuiltFilter", approximate: bool
    ) -> FoundPassing:
        """As `search`, of the items that pass a filter, with the plan of each query.

        Args:
            vectors: float32 (B, D).
            k: items wanted, at least 1.
            passing: the rows that pass.
            approximate: whether the search may be.
        """
        approximate = approximate and self.has_graph
        if not passing.deleted_count:
            return self.index.search_passing(vectors, k, passing.rows, approximate)
        plans = [Plan.EMPTY] * len(vectors)

        def search(queries: Rows, ask: int) -> Neighbours:
            found, some = self.index.search_passing(vectors[queries], ask, passing.rows, approximate)
            for query, plan in zip(queries.tolist(), some, strict=True):
                plans[query] = plan
            return found

        queries, count = np.arange(len(vectors)), passing.rows.count
        return remaining(search, queries, k, self.deleted, passing.deleted_count, count), plans

    def expected_cost(self, k: int, passing: "BuiltFilter | None" = None) -> int:
        """As `neighbours.expected_cost`; of all items without a filter."""
        ef_search = self.manifest.index.ef_search if self.has_graph else None
        return expected_cost(k, self.count, self.count if passing is None else passing.rows.count, ef_search)

    def vectors(self, rows: Rows | Sequence[int]) -> Vectors:
        """The vectors of some of its rows, float32 (R, D)."""
        return self.index.vectors(rows)

    def rank(self, query: FusionQuery, k: int, passing: "BuiltFilter | None", weight: float | None) -> Ranked:
        """The `k` best of the dense candidates and of those that hold the query's terms (`Fusion.rank`).

        Args:
            query: with the dense candidates that are in this segment.
            k: items wanted.
            passing: the rows that pass the request's filter; None without one.
            weight: of the lexical score, without priors; None for the weights of the bundle.
        """
        assert self.fusion is not None, "only hybrid bundles are ranked"
        return self.fusion.rank(query._replace(mask=self._mask(passing)), k, weight)

    def _mask(self, passing: "BuiltFilter | None") -> Mask | None:
        """Whether each row may be found; None for all."""
        if passing is not None:
            return passing.mask
        return self._visible if self.deleted_count else None

    @cached_property
    def _visible(self) -> Mask:
        return ~self.deleted

    def find(self, item_id: str) -> int | None:
        """The visible row of an item; None if there is none."""
        row = self.catalogue.find(item_id)
        return row if row is None or not self.deleted_count or not self.deleted[row] else None

    def find_all(self, item_ids: Sequence[str]) -> list[int | None]:
        """As `find`, of each id."""
        return [*map(self.find, item_ids)]

    def rows(self, item_ids: Iterable[str]) -> set[int]:
        """The rows of items, deleted or not; unknown ids are skipped."""
        return self.catalogue.rows(item_ids)

    def current(self, rows: frozenset[int]) -> frozenset[int]:
        """The rows that hold the items of `rows` now: the same, because no other segment replaces them."""
        return rows

    @property
    def knows_popular(self) -> bool:
        """As `Catalogue.knows_popular`."""
        return self.catalogue.knows_popular

    def ranked(self, mask: Mask | None = None) -> Iterator[int]:
        """Its rows, the most popular first and deleted ones included; among equals, the lower one first.

        Args:
            mask: whether each row passes a filter; visible ones that do not are left out. None for all.
        """
        if mask is None:
            yield from self.catalogue.ranking
            return
        ranking = np.asarray(self.catalogue.ranking)
        for start in range(0, len(ranking), RANKING_STEP):
            block = ranking[start : start + RANKING_STEP]
            yield from block[mask[block] | self.deleted[block]].tolist()

    def popular(
        self, k: int, excluded: Collection[int], mask: Mask | None = None
    ) -> tuple[list[int], list[float]]:
        """The `k` most popular items: their rows and popularities; while nothing is deleted.

        Args:
            k: items wanted.
            excluded: rows to leave out.
            mask: as of `ranked`.
        """
        best = [*islice((row for row in self.ranked(mask) if row not in excluded), k)]
        return best, [self.catalogue.shares[row] for row in best]

    def holds(self, item_id: str) -> bool:
        """Whether there is a row of an item, deleted or not."""
        return self.catalogue.find(item_id) is not None

    def item_id(self, row: int) -> str:
        """The id of the item in a row, deleted or not."""
        return self.catalogue.item_id(row)

    def fields(self, row: int) -> dict[str, str]:
        """The display fields of the item in a row."""
        return self.catalogue.fields(row)

    def delete(self, item_id: str) -> int | None:
        """Delete the visible row of an item, and return it; None if there is none."""
        row = self.find(item_id)
        if row is None:
            return None
        self.deleted[row] = True
        self.deleted_count += 1
        self.__dict__.pop("_visible", None)
        return row


class BuiltFilter:
    """The rows of a built segment that pass a filter.

    Args:
        segment: that holds them.
        rows: that pass, deleted ones included.
    """

    def __init__(self, segment: BuiltSegment, rows: PassingRows) -> None:
        self.rows = rows
        self._segment = segment
        self._seen = 0  # deletions of the segment, when the next two were computed
        self._deleted_count = 0
        self._visible: Mask | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of memory at most: the rows, and the mask without deleted ones."""
        return self.rows.nbytes + self.rows.item_count

    @property
    def deleted_count(self) -> int:
        """How many of the rows that pass are deleted."""
        segment = self._segment
        if self._seen != segment.deleted_count:  # rows are only ever deleted
            self._deleted_count = int(np.count_nonzero(segment.deleted[self.rows.rows]))
            self._seen, self._visible = segment.deleted_count, None
        return self._deleted_count

    @property
    def mask(self) -> Mask:
        """Whether each row passes and is visible."""
        if not self.deleted_count:
            return self.rows.mask
        if self._visible is None:
            self._visible = self.rows.mask & ~self._segment.deleted
        return self._visible
