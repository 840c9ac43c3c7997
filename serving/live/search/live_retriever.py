"""A bundle and its live items as one retriever, filters included."""

from collections.abc import Iterable

import numpy as np

from protos.search import BLOCK, exact_search, top_k
from serving.filters.columns import FilterColumns, Work
from serving.filters.compiled import CompiledFilter, ItemFilters
from serving.filters.expression import Filter
from serving.filters.plan import Plan
from serving.filters.planner import search_passing
from serving.live.search.live_catalogue import LiveCatalogue
from serving.live.search.live_hybrid import LiveHybrid
from serving.live.search.overlay import LiveIndex, Mask, Overlay, merged, remaining
from serving.retrieval.query import PLAIN, SearchResult
from serving.retrieval.retriever import Retriever
from serving.retrieval.vector_index import Neighbours, Rows, Vectors, shown_scores

COPIED_SHARE = 4  # the vectors of at most 1/4 of the overlay's rows are copied; of more, all are compared


class LiveFilter(CompiledFilter):
    """A filter on the items of a bundle and of an overlay.

    `overlay_mask`, `hidden_count`, `count_of` and `row_mask` take the overlay into account. The other
    attributes, such as `rows` and `count`, are of the bundle's items alone, hidden ones included.

    Args:
        base: the filter on the bundle's items.
        filters: that keep it.
    """

    def __init__(self, base: CompiledFilter, filters: "LiveFilters") -> None:
        super().__init__(base.expression, base.passing, base.item_count, filters.reserve)
        self._live = filters.live
        self._changes = -1  # of the overlay, when the next two were computed
        self._overlay_mask: Mask = np.empty(0, np.bool_)
        self._hidden_count = 0

    @property
    def overlay_mask(self) -> Mask:
        """Whether each row of the overlay passes and is current: bool (M,)."""
        self._refresh()
        return self._overlay_mask

    @property
    def hidden_count(self) -> int:
        """How many of the bundle's items that pass are hidden."""
        self._refresh()
        return self._hidden_count

    def _refresh(self) -> None:
        live = self._live
        if self._changes != live.changes:
            self._overlay_mask = live.columns.evaluate(self.expression, live.count) & live.alive[: live.count]
            self._hidden_count = int(np.count_nonzero(live.hidden[self.rows])) if live.hidden_count else 0
            self._changes = live.changes

    def count_of(self, rows: Iterable[int]) -> int:
        """As `CompiledFilter.count_of`, rows of the overlay included."""
        mask, first = self.overlay_mask, self._live.first_row
        return sum(bool(mask[row - first]) if row >= first else row in self.passing for row in rows)

    @property
    def row_mask(self) -> Mask:
        """As `CompiledFilter.row_mask`: bool (N + M,)."""
        return np.concatenate([self.mask & ~self._live.hidden, self.overlay_mask])


class LiveFilters(ItemFilters):
    """As `ItemFilters`, of a bundle's items and an overlay's.

    Args:
        columns: of the bundle's items.
        live: the overlay.
    """

    def __init__(self, columns: FilterColumns, live: Overlay) -> None:
        super().__init__(columns)
        self.live = live

    def evaluated(self, expression: Filter, work: Work | None = None) -> CompiledFilter:
        """As `ItemFilters.evaluated`."""
        return LiveFilter(super().evaluated(expression, work), self)


def nearest_overlay_rows(items: Vectors, vectors: Vectors, k: int, passing: Mask) -> Neighbours:
    """The `k` nearest of an overlay's rows that pass, fewer if there are fewer.

    Args:
        items: vectors of the overlay's rows, float32 (M, D).
        vectors: of the queries, float32 (B, D).
        k: items wanted.
        passing: whether each row passes, bool (M,).

    Returns:
        Rows of the overlay, from 0 on, and their inner products, (B, min(k, number that pass)) each.
    """
    slots = np.flatnonzero(passing)
    if not len(slots):
        return Neighbours(np.empty((len(vectors), 0), np.int64), np.empty((len(vectors), 0), np.float32))
    k = min(k, len(slots))
    if len(slots) * COPIED_SHARE <= len(items):
        places, products = exact_search(vectors, items[slots], k)
        return Neighbours(slots[places], products)
    rows, scores = np.empty((len(vectors), k), np.int64), np.empty((len(vectors), k), np.float32)
    for start in range(0, len(vectors), BLOCK):
        products = vectors[start : start + BLOCK] @ items.T
        products[:, ~passing] = -np.inf
        rows[start : start + BLOCK] = best = top_k(products, k)
        scores[start : start + BLOCK] = np.take_along_axis(products, best, axis=1)
    return Neighbours(rows, scores)


class LiveRetriever(Retriever):
    """Searches a bundle's items without the hidden ones, and an overlay's; for the overlay's thread.

    Args:
        base: the bundle's retriever.
        live: the overlay.
    """

    def __init__(self, base: Retriever, live: Overlay) -> None:
        catalogue = LiveCatalogue(base.catalogue, live, base.manifest.display_fields)
        filters = LiveFilters(base.filters.columns, live)
        hybrid = None if base.hybrid is None else LiveHybrid(base.hybrid, live)
        super().__init__(
            base.manifest, base._encoder, LiveIndex(base.index, live), catalogue, filters, hybrid
        )
        self._base_index, self._live = base.index, live

    def _find_one_passing(self, vector: Vectors, k: int, passing: CompiledFilter) -> SearchResult:
        """As `Retriever._find_one_passing`."""
        ((rows, products, _, plan),) = self._nearest(vector, k, True, passing)
        return SearchResult(rows.tolist(), products.tolist(), PLAIN, plan)

    def _nearest(
        self, vectors: Vectors, width: int, approximate: bool, passing: CompiledFilter | None
    ) -> Iterable[tuple[Rows, Vectors, Vectors, Plan]]:
        """As `Retriever._nearest`."""
        if passing is None:
            return super()._nearest(vectors, width, approximate, passing)
        assert isinstance(passing, LiveFilter), "`LiveFilters` makes no other filter"
        plans = [Plan.EMPTY] * len(vectors)

        def search(queries: Rows, k: int) -> Neighbours:
            found = search_passing(
                self._base_index,
                vectors[queries],
                k,
                passing,
                self._free_width,
                approximate and self._has_graph,
            )
            for query, each in zip(queries, found, strict=True):
                plans[query] = each.plan
            return Neighbours(
                np.stack([each.rows for each in found]), np.stack([each.scores for each in found])
            )

        hidden = self._live.hidden
        best = remaining(search, np.arange(len(vectors)), width, hidden, passing.hidden_count, passing.count)
        own = nearest_overlay_rows(self._live.vectors, vectors, width, passing.overlay_mask)
        if own.rows.shape[1]:
            best = merged(best, Neighbours(own.rows + self._live.first_row, own.scores), width)
            plans = [Plan.EXACT if each is Plan.EMPTY else each for each in plans]
        return zip(best.rows, best.scores, shown_scores(best.scores, self.manifest.score), plans, strict=True)
