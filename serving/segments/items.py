"""Rows to items and back, over all segments: ids, popularity and display fields."""

from collections.abc import Collection, Iterable, Sequence
from itertools import islice

import numpy as np

from twinspire.serving.segments.neighbours import Mask
from twinspire.serving.segments.searcher import Searcher, Segment

RANKING_STEP = 4096  # items of the ranking that are compared with a filter at once


class Items:
    """The items of a bundle, and live items.

    An item has the popularity that it had when the towers were trained; one that was added since has none.

    Args:
        searcher: of the segments that hold them.

    Attributes:
        knows_popular: as of `Catalogue`.
    """

    def __init__(self, searcher: Searcher) -> None:
        self._searcher, self._built, self._growing = searcher, searcher.built, searcher.growing
        catalogue = self._built.catalogue
        self._ranking, self._shares = catalogue.ranking, catalogue.shares
        self.knows_popular = catalogue.knows_popular

    def item_id(self, row: int) -> str:
        """The id of the item in a row."""
        return self._segment_of(row).item_id(row)

    def find(self, item_id: str) -> int | None:
        """The row of an item; None if there is no such item."""
        growing = self._growing
        if growing is not None and item_id in growing.rows:
            return growing.rows[item_id]
        return self._built.find(item_id)

    def find_all(self, item_ids: Sequence[str]) -> list[int | None]:
        """As `find`, of each id."""
        return self._built.find_all(item_ids) if self._growing is None else [*map(self.find, item_ids)]

    def rows(self, item_ids: Iterable[str]) -> set[int]:
        """The rows of items; unknown ids are skipped."""
        if self._searcher.is_built_alone:
            return self._built.catalogue.rows(item_ids)
        return {row for row in map(self.find, item_ids) if row is not None}

    def current(self, rows: frozenset[int]) -> frozenset[int]:
        """The rows that hold the items of `rows` now, after live items have replaced or deleted some."""
        if not rows or self._searcher.is_built_alone:
            return rows
        return frozenset(now for row in rows if (now := self._current(row)) is not None)

    def _current(self, row: int) -> int | None:
        growing = self._growing
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
        if mask is None and self._searcher.is_built_alone:
            best = [row for row in self._ranking[: k + len(excluded)] if row not in excluded]
            return best[:k], [self._shares[row] for row in best[:k]]
        ranking, deleted = np.asarray(self._ranking), self._built.deleted
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
                    shares.append(self._shares[row])
                    if len(rows) == k:
                        return rows, shares
        if self._growing is not None:
            own = None if mask is None else mask[self._growing.first_row :]
            added = (row for row in self._growing.added(own) if row not in excluded)
            rows += islice(added, k - len(rows))
        return rows, shares + [0.0] * (len(rows) - len(shares))

    def fields(self, row: int) -> dict[str, str]:
        """The display fields of an item; one that it lacks is left out."""
        return self._segment_of(row).fields(row)

    def _segment_of(self, row: int) -> Segment:
        growing = self._growing
        return self._built if growing is None or row < growing.first_row else growing
