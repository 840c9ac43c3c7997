"""The objective of a training run: the candidate items of each step, and the loss over their scores.

    objective = build_objective(experiment.loss, data)
    hard = objective.mine(encode, seed)                            once an epoch
    candidates = objective.candidates(batch, hard, generator)      each step
    losses = objective.losses(scores, share, candidates)           of a share of the batch, or of all

Each `[loss] kind` is a subclass of `Objective` in `kinds.py`. Candidates are chosen on the CPU,
and the trainer moves them; a loss computes on the device of its scores. Masks are made on the CPU, too: those
that do not depend on the whole batch by `losses`, so that each rank makes only that of its share.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twinspire.protos.errors import DataError
from twinspire.train.data.batches import Batch
from twinspire.train.data.training_data import Pairs, Positives, TrainingData
from twinspire.train.models.heads import largest_products
from twinspire.train.models.placement import to_device_of

Rows = npt.NDArray[np.int64]
Config = TypeVar("Config")
SeenMask = Callable[[Rows, Rows], npt.NDArray[np.bool_] | None]
_BLOCK = 1024  # pairs whose scores are in memory at a time
_PARTS = 8  # of the items, in a random one of which a block of pairs is mined
_FEWEST = 4  # items for each negative that are nearest in such a part


@dataclass(frozen=True)
class Candidates:
    """The items that one training step scores for its queries.

    Args:
        items: int64 (N,), distinct item rows in ascending order.
        positive: int64 (P,), the column of each pair's own item.
        step_mask: bool (P, N), what `Objective.not_negatives` returns, if that depends on all pairs of the
            step; else None.
        negatives: int64 (P, J), columns of the items sampled for each pair; None if the loss uses all
            columns.
    """

    items: Rows
    positive: Tensor
    step_mask: Tensor | None = None
    negatives: Tensor | None = None

    def of_pairs(self, pairs: Rows | None) -> "Candidates":
        """The same items, for some of the pairs.

        Args:
            pairs: int64, places of the pairs, in the order that they shall have; None for all.
        """
        if pairs is None:
            return self
        places = torch.from_numpy(pairs)
        mask = None if self.step_mask is None else self.step_mask[places]
        negatives = None if self.negatives is None else self.negatives[places]
        return Candidates(self.items, self.positive[places], mask, negatives)


class Objective(ABC, Generic[Config]):
    """One loss over the training pairs of one data set.

    Raises:
        DataError: there are fewer than two training pairs, or none is positive.
    """

    def __init__(self, config: Config, data: TrainingData) -> None:
        self.config = config
        self.data = data
        self.pairs = self._select_pairs(data.parts["train"])
        if len(self.pairs) < 2:
            raise DataError("the train part of the split holds a single pair: it has no negatives")
        self.positives = Positives.of(self.pairs, data.query_count)
        counts = data.counts()
        if not counts.any():
            raise DataError("the train part of the split holds no positive pair")
        self.trained_items = np.flatnonzero(counts)  # items with a positive training pair
        self.item_share = counts / counts.sum()  # (N,), of the positive training pairs
        self._column_of = np.zeros(data.item_count, np.int64)  # scratch of `_mask`

    def _select_pairs(self, pairs: Pairs) -> Pairs:
        """The training pairs that the loss uses: by default the positive ones."""
        return pairs.positive()

    @abstractmethod
    def candidates(self, batch: Batch, hard: Rows | None, generator: np.random.Generator) -> Candidates:
        """The items to score for a batch.

        Args:
            batch: of `self.pairs`.
            hard: what `mine` returned for this epoch.
        """

    def not_negatives(self, batch: Batch, candidates: Candidates) -> Tensor | None:
        """Bool (P, N): where an item is not a negative of a pair's query; None if nowhere.

        Args:
            batch: the step or a share of it; the candidates are those of its pairs.
        """
        return candidates.step_mask

    @abstractmethod
    def pair_losses(self, scores: Tensor, batch: Batch, candidates: Candidates) -> Tensor:
        """(P,): the loss of each pair, from scores (P, N) of its query and all candidates."""

    @property
    def hard_negatives(self) -> tuple[int, int] | None:
        """Hard negatives of each pair, and the number of nearest items that they are drawn from."""
        return None

    def losses(self, scores: Tensor, batch: Batch, candidates: Candidates) -> Tensor:
        """(P,): the loss of each pair, from scores (B, N) of the batch's queries and all candidates."""
        if len(batch.query) != len(scores):
            scores = scores[torch.from_numpy(batch.query).to(scores.device)]
        return self.pair_losses(scores, batch, candidates)

    def mine(
        self,
        encode: Callable[[], tuple[Tensor, Tensor]],
        seed: tuple[int, int],
        share: tuple[int, int] = (0, 1),
    ) -> Rows | None:
        """Hard negatives for an epoch, item rows (P, J); None if the loss uses none.

        Args:
            encode: computes the vectors of all queries and of all items; called only if needed.
            seed: of the draw: that of the run, and the epoch from 0.
            share: see `mine_hard_negatives`.
        """
        if self.hard_negatives is None:
            return None
        queries, items = encode()
        per_pair, depth = self.hard_negatives
        positives, mask = self.positives, self._seen_mask
        return mine_hard_negatives(queries, items, self.pairs, positives, per_pair, depth, seed, mask, share)

    def known_mask(self, batch: Batch, items: Rows) -> Tensor:
        """Bool (P, N): is the item a positive of the pair's query, or an excluded item of its history?"""
        place, item = self.positives.of_queries(batch.queries)
        known = self._mask(len(batch.queries), items, place, item)
        seen = self._seen_mask(batch.queries, items)
        if seen is not None:
            known |= seen
        return torch.from_numpy(known)[torch.from_numpy(batch.query)]

    def seen_mask(self, batch: Batch, items: Rows) -> Tensor | None:
        """Bool (P, N): is the item in the history of the pair's query? None if histories exclude nothing."""
        seen = self._seen_mask(batch.queries, items)
        return None if seen is None else torch.from_numpy(seen)[torch.from_numpy(batch.query)]

    def known_or_only_from_window(self, batch: Batch, items: Rows, others: Rows) -> Tensor:
        """Bool (P, N): `known_mask`, and items that are in the step only because of the query's own window.

        Such an item is in every batch of the query, unlike a random item, and the user takes it next. Without
        a correction it would be a negative too often. A pair without any other negative keeps those of its
        window.

        Args:
            others: item rows of the step that do not come from its pairs.
        """
        known = self.known_mask(batch, items)
        if batch.spans is None:  # the pairs of a window have one query, so `known` holds their items
            return known
        column, window = np.searchsorted(items, self.pairs.item[batch.pairs]), batch.window
        counts = np.bincount(column, minlength=len(items))
        counts += np.bincount(np.searchsorted(items, others), minlength=len(items))
        own = np.zeros((window.max(initial=-1) + 1, len(items)), np.int64)
        np.add.at(own, (window, column), 1)
        masked = known | torch.from_numpy(own == counts)[torch.from_numpy(window)]
        return torch.where(masked.all(dim=1, keepdim=True), known, masked)

    def window_mask(self, batch: Batch, items: Rows) -> npt.NDArray[np.bool_]:
        """Bool (W, N): is the item that of a pair of the window?"""
        window = batch.window
        return self._mask(window.max(initial=-1) + 1, items, window, self.pairs.item[batch.pairs])

    def _mask(self, count: int, items: Rows, place: Rows, item: Rows) -> npt.NDArray[np.bool_]:
        """Bool (count, N): true at each (place, item) whose item is among the N items.

        The table `_column_of` keeps columns of earlier calls. So an entry counts only where its column holds
        the item (a sparse set, Briggs and Torczon 1993).
        """
        self._column_of[items] = np.arange(len(items))
        column = self._column_of[item]
        present = items[np.minimum(column, len(items) - 1)] == item
        mask = np.zeros(count * len(items), bool)
        mask[(place * len(items) + column)[present]] = True
        return mask.reshape(count, len(items))

    def _seen_mask(self, queries: Rows, items: Rows) -> npt.NDArray[np.bool_] | None:
        if self.data.histories is None or not self.data.exclude_seen:
            return None
        return self._mask(len(queries), items, *self.data.histories.of_queries(queries))


def columns_of(items: Rows, rows: Rows) -> Tensor:
    """Int64, the shape of `rows`: the column of each item row among `items`, which are ascending."""
    return torch.from_numpy(np.searchsorted(items, rows))


def mine_hard_negatives(
    queries: Tensor,
    items: Tensor,
    pairs: Pairs,
    positives: Positives,
    per_pair: int,
    depth: int,
    seed: tuple[int, int],
    seen_mask: SeenMask = lambda queries, items: None,
    share: tuple[int, int] = (0, 1),
) -> Rows:
    """Hard negatives of each pair (Xiong et al. 2021, "ANCE", section 4).

    They are drawn uniformly from the `depth` nearest items of training pairs, without the query's positives
    and the items that the query has seen. Where there are many pairs, each block of them gets another random
    part of the items, and negatives are drawn from as small a part of `depth`: the nearest 5 of an eighth are
    about as near as the nearest 40 of all, and found in an eighth of the time.

    Args:
        queries: (Q, D), vectors of all queries; or (Q, K * D), whose largest product counts.
        items: (N, D), vectors of all items, on the same device.
        depth: number of nearest items that they are drawn from.
        seen_mask: query rows (B,) and item rows (M,) -> bool (B, M), true where the query has seen the
            item; None if no query has.
        share: the rank of a process and their number. It mines for every `number`-th block of pairs; the
            rows of the others are 0, so that the sum over all processes is what one process mines.

    Returns:
        int64 (P, per_pair) item rows; fewer columns where there are fewer items. A query with too few
        negatives gets some of its positives, which the loss masks.
    """
    generator = np.random.default_rng(seed)
    all_drawable = np.unique(pairs.item)
    depth = min(depth, len(all_drawable))
    per_pair = min(per_pair, depth)
    parts = max(1, min(_PARTS, depth // (_FEWEST * per_pair), len(pairs) // _BLOCK))
    depth //= parts
    mined = np.zeros((len(pairs), per_pair), np.int64)
    rank, processes = share
    for at in range(0, len(pairs), _BLOCK):
        rows = pairs.query[at : at + _BLOCK]
        drawable = np.sort(generator.choice(all_drawable, len(all_drawable) // parts, replace=False))
        random = generator.random((len(rows), depth))  # both also for the blocks of other processes
        if at // _BLOCK % processes != rank:
            continue
        vectors = items[to_device_of(drawable, items)]
        scores = largest_products(queries[to_device_of(rows, queries)], vectors)
        place, item = positives.of_queries(rows)
        column = np.searchsorted(drawable, item)
        is_there = drawable[np.minimum(column, len(drawable) - 1)] == item
        place, column = place[is_there], column[is_there]
        scores[to_device_of(place, scores), to_device_of(column, scores)] = -torch.inf
        seen = seen_mask(rows, drawable)
        if seen is not None:
            scores[to_device_of(seen, scores)] = -torch.inf
        best = torch.topk(scores, depth, dim=1)
        nearest, masked = best.indices.cpu().numpy(), best.values.isneginf().cpu().numpy()
        picks = (random + masked).argpartition(per_pair - 1, axis=1)
        mined[at : at + _BLOCK] = drawable[np.take_along_axis(nearest, picks[:, :per_pair], 1)]
    return mined
