"""The catalogue of a bundle and its live items: ids, popularity, display fields and parts of answers."""

from collections.abc import Collection, Iterable, Sequence
from itertools import islice

import numpy as np

from protos import retrieval_pb2 as wire
from protos.errors import UnknownItem
from serving.live.search.overlay import Mask, Overlay
from serving.retrieval.catalogue import RANKING_STEP, Catalogue, IdsByRow
from serving.retrieval.query import SearchResult
from serving.retrieval.response_bytes import PackedCatalogue, hit_of, pack_parts, pack_score


class LiveCatalogue(Catalogue):
    """As `Catalogue`, of a bundle's items and an overlay's; rows as in the overlay.

    Args:
        base: the bundle's catalogue.
        live: the overlay.
        names: of the display fields, in their order.
    """

    def __init__(self, base: Catalogue, live: Overlay, names: Sequence[str]) -> None:
        self._base, self._live, self._names = base, live, names
        self.ids = _Ids(base.ids, live)
        self.ranking, self.shares = base.ranking, base.shares

    @property
    def sequence(self) -> int:
        """All changes up to this sequence are in the catalogue."""
        return self._live.sequence

    @property
    def bundle(self) -> Catalogue:
        """As `Catalogue.bundle`."""
        return self._base

    def find(self, item_id: str) -> int | None:
        """The row of an item; None if there is no such item."""
        rows = self._live.rows
        return rows[item_id] if item_id in rows else self._base.find(item_id)

    def row(self, item_id: str, field: str) -> int:
        """As `Catalogue.row`."""
        row = self.find(item_id)
        if row is None:
            raise UnknownItem(field, f"the catalogue holds no item {item_id!r}")
        return row

    def rows(self, item_ids: Iterable[str]) -> set[int]:
        """As `Catalogue.rows`."""
        return {row for row in map(self.find, item_ids) if row is not None}

    def current(self, rows: frozenset[int]) -> frozenset[int]:
        """The rows of the current versions of the items of rows."""
        return self._live.current(rows)

    def popular(self, k: int, excluded: Collection[int]) -> tuple[list[int], list[float]]:
        """As `Catalogue.popular`; an item has the popularity that it had when the towers were trained."""
        base, live = self._base, self._live
        ranked = ((live.current_row(row), base.shares[row]) for row in base.ranking)
        found = ((row, share) for row, share in ranked if row is not None and row not in excluded)
        best = [*islice(found, k)]
        added = self._added(live.alive[: live.count], excluded, k - len(best))
        return [row for row, _ in best] + added, [share for _, share in best] + [0.0] * len(added)

    def popular_passing(self, k: int, excluded: Collection[int], mask: Mask) -> tuple[list[int], list[float]]:
        """As `Catalogue.popular_passing`; the mask is of all rows, those of the overlay included."""
        base, live = self._base, self._live
        ranking, hidden = np.asarray(base.ranking), live.hidden
        rows: list[int] = []
        shares: list[float] = []
        for start in range(0, len(ranking), RANKING_STEP):
            block = ranking[start : start + RANKING_STEP]
            for row in block[mask[block] | hidden[block]].tolist():  # of a hidden row, the one in its place
                now = live.current_row(row)
                if now is not None and mask[now] and now not in excluded:
                    rows.append(now)
                    shares.append(base.shares[row])
            if len(rows) >= k:
                return rows[:k], shares[:k]
        passing = mask[live.first_row :] & live.alive[: live.count]
        added = self._added(passing, excluded, k - len(rows))
        return rows + added, shares + [0.0] * len(added)

    def _added(self, wanted: Mask, excluded: Collection[int], most: int) -> list[int]:
        """Rows of items that the bundle does not hold, which have no popularity; ascending.

        Args:
            wanted: whether each row of the overlay is wanted (M,).
            excluded: rows that are not.
            most: rows wanted.
        """
        live = self._live
        rows = np.flatnonzero(wanted & live.added[: live.count]) + live.first_row
        return [*islice((row for row in rows.tolist() if row not in excluded), most)]

    def fields(self, row: int) -> dict[str, str]:
        """As `Catalogue.fields`."""
        place = row - self._live.first_row
        if place < 0:
            return self._base.fields(row)
        fields = hit_of(self._live.hits[place]).fields
        return {name: fields[name] for name in self._names if name in fields}


class LivePacked(PackedCatalogue):
    """As `PackedCatalogue`, of a bundle's items and an overlay's.

    Args:
        base: the bundle's packed catalogue.
        live: the overlay.
    """

    def __init__(self, base: PackedCatalogue, live: Overlay) -> None:
        self.base = base
        self.content, self.ends, self.average = base.content, base.ends, base.average
        self.has_parts, self.score_bytes = base.has_parts, base.score_bytes
        self._live, self._count = live, len(base)

    def __len__(self) -> int:
        return self._count + self._live.count

    @property
    def largest(self) -> int:
        """As `PackedCatalogue.largest`."""
        return max(self.base.largest, self._live.largest + self.score_bytes)

    def hit(self, row: int) -> wire.Hit:
        """As `PackedCatalogue.hit`."""
        return hit_of(self._live.hits[row - self._count]) if row >= self._count else super().hit(row)

    def size(self, found: SearchResult) -> int:
        """As `PackedCatalogue.size`."""
        return len(self._hits(found))

    def _hits(self, found: SearchResult) -> bytes:
        items, ends, hits, count = self.content, self.ends, self._live.hits, self._count
        parts: list[bytes] = []
        add = parts.append
        if self.has_parts:
            both = zip(found.scores, found.dense, found.lexical, strict=True)
            for row, scores in zip(found.rows, both, strict=True):
                add(items[ends[row] : ends[row + 1]] if row < count else hits[row - count])
                add(pack_parts(*scores))
            return b"".join(parts)
        for row, score in zip(found.rows, found.scores, strict=True):
            add(items[ends[row] : ends[row + 1]] if row < count else hits[row - count])
            add(pack_score(score))
        return b"".join(parts)


class _Ids(IdsByRow):
    """Ids of the bundle's items, and of the overlay's after them."""

    def __init__(self, base: Sequence[str], live: Overlay) -> None:
        self._base, self._live = base, live

    def __len__(self) -> int:
        return self._live.first_row + self._live.count

    def _id(self, row: int) -> str:
        place = row - self._live.first_row
        return self._live.ids[place] if place >= 0 else self._base[row]
