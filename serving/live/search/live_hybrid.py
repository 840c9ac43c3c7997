"""The fused search of a bundle and its live items.

Live items are scored by the statistics of the bundle: its idf, and its mean length. Words that the bundle
does not know have none, and find nothing until the towers are trained again.
"""

import numpy as np

from protos.hybrid.fusion import FusionQuery, Ranked, by_reciprocal_ranks, fuse_held, rarest, upper_bound
from serving.live.search.overlay import Mask, Overlay
from serving.retrieval.hybrid_search import HybridSearch
from serving.retrieval.query import SearchOptions


class LiveHybrid(HybridSearch):
    """As `HybridSearch`, of a bundle's items without the hidden ones, and an overlay's; for its thread.

    Args:
        base: of the bundle.
        live: the overlay.
    """

    def __init__(self, base: HybridSearch, live: Overlay) -> None:
        super().__init__(base.manifest, base.fusion)
        self._live = live
        self._visible: Mask | None = None  # rows of the bundle, after `_changes` of the overlay
        self._changes = -1

    def rank(self, query: FusionQuery, k: int, options: SearchOptions, weight: float | None) -> Ranked:
        """As `HybridSearch.rank`."""
        of_bundle, of_overlay = self._split(query, *self._masks(options))
        if not self._live.live_count:
            return self.fusion.rank(of_bundle, k, weight)
        hybrid = self.fusion.hybrid
        if weight is None and hybrid.method == "reciprocal_ranks":
            most = len(of_overlay.rows) + max(hybrid.lexical_candidates, k)  # all candidates
            own = self._rank_overlay(of_overlay, most, 0.0)
            return by_reciprocal_ranks(_joined(self.fusion.candidates(of_bundle, k), own), k)
        share = hybrid.weight if weight is None else weight
        own = self._rank_overlay(of_overlay, k, share)
        best = self.fusion.rank(of_bundle, k, share)
        both = [*zip(*_joined(best, own), strict=True)]
        both.sort(key=lambda each: (-each[1], each[0]))
        if not both or not k:
            return [], [], [], []
        rows, scores, dense, lexical = zip(*both[:k], strict=True)
        return [*rows], [*scores], [*dense], [*lexical]

    def _split(
        self, query: FusionQuery, passing: Mask | None, slots: Mask
    ) -> tuple[FusionQuery, FusionQuery]:
        """The query with what was found in the bundle, and with what was found in the overlay.

        The overlay's rows begin at 0 there.
        """
        first = self._live.first_row
        of_bundle = FusionQuery(query.terms, query.vector, [], [], passing)
        of_overlay = FusionQuery(query.terms, query.vector, [], [], slots)
        for row, score in zip(query.rows, query.scores, strict=True):
            part, start = (of_bundle, 0) if row < first else (of_overlay, first)
            part.rows.append(row - start)
            part.scores.append(score)
        return of_bundle, of_overlay

    def _masks(self, options: SearchOptions) -> tuple[Mask | None, Mask]:
        """The rows of the bundle (None for all) and of the overlay that the lexical side may find."""
        live = self._live
        if options.filter is not None:
            mask = options.filter.row_mask
            return mask[: live.first_row], mask[live.first_row :]
        if live.hidden_count and self._changes != live.changes:
            self._visible, self._changes = ~live.hidden, live.changes
        return (self._visible if live.hidden_count else None), live.alive[: live.count]

    def _rank_overlay(self, query: FusionQuery, k: int, weight: float) -> Ranked:
        """The best of the overlay's rows, as `Fusion.rank` ranks the bundle's.

        Args:
            query: with the candidates of the overlay, and the rows that may be found as its mask.
            k: items wanted.
            weight: of the lexical score.
        """
        live, hybrid, base = self._live, self.fusion.hybrid, self.index.postings
        bag = rarest(base, query.terms, hybrid.most_terms)
        held = [(times, *live.postings.of(term)) for term, times in bag]
        held.sort(key=lambda each: len(each[1]))
        sums, most = np.zeros(live.count, np.float32), max(hybrid.lexical_candidates, k)
        bound = upper_bound(base, bag)
        best = fuse_held(held, bound, sums, live.vectors, hybrid, query, weight, most, k)
        return ([row + live.first_row for row in best[0]], *best[1:])


def _joined(one: Ranked, other: Ranked) -> Ranked:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3]
