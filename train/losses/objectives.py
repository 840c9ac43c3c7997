"""The objective of a training run: the candidate items of each step, and the loss over their scores.

    objective = build_objective(experiment.loss, data)
    hard = objective.mine(encode, seed)                            once an epoch
    candidates = objective.candidates(batch, hard, generator)      each step
    losses = objective.losses(scores, share, candidates)           of a share of the batch, or of all

Each `[loss] kind` is a function of scores, and a subclass of `Objective` that supplies its candidates. These
are chosen on the CPU, and the trainer moves them; a loss computes on the device of its scores. Masks are made
on the CPU, too: those that do not depend on the whole batch by `losses`, so that each rank makes only that of
its share.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from twinspire.protos.errors import DataError
from twinspire.train.config.losses import Bce, FullSoftmax, InBatchSoftmax, LossConfig, SampledSoftmax
from twinspire.train.data.batches import Batch
from twinspire.train.data.training_data import Floats, Pairs, Positives, Rows, TrainingData
from twinspire.train.losses.hard_negatives import mine_hard_negatives
from twinspire.train.models.placement import to_device_of

Config = TypeVar("Config")


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
        return None

    def known_mask(self, batch: Batch, items: Rows) -> Tensor:
        """Bool (P, N): is the item a positive of the pair's query, or an excluded item of its history?"""
        place, item = self.positives.of_queries(batch.queries)
        known = self._mask(len(batch.queries), items, place, item)
        seen = self._seen_mask(batch.queries, items)
        if seen is not None:
            known |= seen
        return torch.from_numpy(known)[torch.from_numpy(batch.query)]

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


class FullSoftmaxObjective(Objective[FullSoftmax]):
    """`full_softmax` over all items of training pairs.

    Other positives of the query stay in the sum: the pairs of one query together are a multinomial
    likelihood (Liang et al. 2018, equation 2).
    """

    def candidates(self, batch: Batch, hard: Rows | None, generator: np.random.Generator) -> Candidates:
        """All items of training pairs."""
        items = self.trained_items
        positive = columns_of(items, self.pairs.item[batch.pairs])
        return Candidates(items, positive)

    def not_negatives(self, batch: Batch, candidates: Candidates) -> Tensor | None:
        """Bool (P, N): where the item is in the pair's history; None if histories exclude nothing."""
        seen = self._seen_mask(batch.queries, candidates.items)
        return None if seen is None else torch.from_numpy(seen)[torch.from_numpy(batch.query)]

    def pair_losses(self, scores: Tensor, batch: Batch, candidates: Candidates) -> Tensor:
        """(P,) from scores (P, N)."""
        known = self.not_negatives(batch, candidates)
        seen = None if known is None else to_device_of(known, scores)
        return full_softmax(scores, candidates.positive, seen, self.config.temperature)


class InBatchSoftmaxObjective(Objective[InBatchSoftmax]):
    """`in_batch_softmax`, optionally with hard negatives and uniform negatives."""

    def mine(
        self,
        encode: Callable[[], tuple[Tensor, Tensor]],
        seed: tuple[int, int],
        share: tuple[int, int] = (0, 1),
    ) -> Rows | None:
        """Those of `hard_negatives`, drawn from `mine_from` nearest items."""
        per_pair, depth = self.config.hard_negatives, self.config.mine_from
        if not per_pair:
            return None
        queries, items = encode()
        positives, mask = self.positives, self._seen_mask
        return mine_hard_negatives(queries, items, self.pairs, positives, per_pair, depth, seed, mask, share)

    def candidates(self, batch: Batch, hard: Rows | None, generator: np.random.Generator) -> Candidates:
        """The items of the batch, their hard negatives, and the uniform negatives."""
        own = self.pairs.item[batch.pairs]
        parts = [own] if hard is None else [own, hard[batch.pairs].ravel()]
        if self.config.uniform_negatives:
            parts.append(generator.choice(self.trained_items, self.config.uniform_negatives))
        items = np.unique(np.concatenate(parts))
        known = None
        if self.config.correction == "none" and batch.spans is not None:
            known = self.known_or_only_from_window(batch, items, np.concatenate([own[:0], *parts[1:]]))
        return Candidates(items, columns_of(items, own), known)

    def not_negatives(self, batch: Batch, candidates: Candidates) -> Tensor:
        """Bool (P, N): as `known_mask`; without a correction as `known_or_only_from_window`."""
        mask = candidates.step_mask
        return self.known_mask(batch, candidates.items) if mask is None else mask

    def pair_losses(self, scores: Tensor, batch: Batch, candidates: Candidates) -> Tensor:
        """(P,) from scores (P, N)."""
        log_q = None
        if self.config.correction != "none":
            log_q = self._log_q(batch, candidates, scores)
        known = to_device_of(self.not_negatives(batch, candidates), scores)
        return in_batch_softmax(scores, candidates.positive, known, self.config.temperature, log_q)

    def _log_q(self, batch: Batch, candidates: Candidates, scores: Tensor) -> Tensor:
        """(P, N): log of the probability, given a pair, that the item is among the candidates of its step.

        It is 0 in the columns of the pair's window, except in the own item's: "logq" corrects this one as if
        it were drawn, too.

        Args:
            scores: on whose device the result is.
        """
        window, items = batch.window, candidates.items
        sizes, size = np.unique(np.bincount(window), return_inverse=True)  # in pairs; (W,)
        # At least one, as the own item's column needs a finite value; no other column is drawn then.
        drawn, uniform = np.maximum(1, batch.size - sizes), self.config.uniform_negatives
        by_size = mixed_log_q(self.item_share[items], drawn[:, None], uniform, len(self.trained_items))
        of_window = self._mask(len(size), items, window, self.pairs.item[batch.pairs])  # (W, N)
        arrays = by_size, of_window, size[window], window
        log_q, certain, size_row, window_row = (to_device_of(each, scores) for each in arrays)
        is_certain = certain[window_row].scatter(1, candidates.positive[:, None], False)
        return log_q[size_row].masked_fill(is_certain, 0.0)


class SampledSoftmaxObjective(Objective[SampledSoftmax]):
    """`sampled_softmax` with negatives drawn from the items of the batch."""

    def candidates(self, batch: Batch, hard: Rows | None, generator: np.random.Generator) -> Candidates:
        """The items of the batch, and the negatives drawn from them for each pair."""
        own = self.pairs.item[batch.pairs]
        items = np.unique(own)
        known = self.known_or_only_from_window(batch, items, own[:0])
        negatives = draw_negatives(known, self.config.negatives, generator)
        return Candidates(items, columns_of(items, own), known, negatives)

    def pair_losses(self, scores: Tensor, batch: Batch, candidates: Candidates) -> Tensor:
        """(P,) from scores (P, N)."""
        assert candidates.negatives is not None
        positive = _own(scores, candidates.positive)
        return sampled_softmax(positive, scores.gather(1, candidates.negatives), self.config.gamma)


class BceObjective(Objective[Bce]):
    """`labelled_bce` over the pairs of the data.

    Raises:
        DataError: the data have no negative pairs.
    """

    def __init__(self, config: Bce, data: TrainingData) -> None:
        super().__init__(config, data)
        if self.pairs.label is None:
            raise DataError('loss.kind = "bce", but every training pair is positive: there are no negatives')

    def _select_pairs(self, pairs: Pairs) -> Pairs:
        return pairs

    def candidates(self, batch: Batch, hard: Rows | None, generator: np.random.Generator) -> Candidates:
        """The items of the batch."""
        own = self.pairs.item[batch.pairs]
        items = np.unique(own)
        return Candidates(items, columns_of(items, own))

    def pair_losses(self, scores: Tensor, batch: Batch, candidates: Candidates) -> Tensor:
        """(P,) from scores (P, N)."""
        assert self.pairs.label is not None
        logits = _own(scores, candidates.positive)
        labels = torch.from_numpy(self.pairs.label[batch.pairs]).to(logits.device)
        return labelled_bce(logits, labels)


OBJECTIVES: Mapping[type, type[Objective[Any]]] = {
    FullSoftmax: FullSoftmaxObjective,
    InBatchSoftmax: InBatchSoftmaxObjective,
    SampledSoftmax: SampledSoftmaxObjective,
    Bce: BceObjective,
}


def build_objective(config: LossConfig, data: TrainingData) -> Objective[Any]:
    """The objective of a `[loss]` section.

    Raises:
        DataError: the training pairs do not allow this loss.
    """
    return OBJECTIVES[type(config)](config, data)


def full_softmax(scores: Tensor, positive: Tensor, seen: Tensor | None, temperature: float) -> Tensor:
    """Cross-entropy over the whole catalogue (Covington et al. 2016, section 3.1, without sampling).

    Args:
        scores: (B, N) of B queries and all N items.
        positive: int64 (B,), the column of each query's own item.
        seen: bool (B, N), true where the item is not a negative of the query; None masks nothing.
        temperature: divides the scores.

    Returns:
        (B,)
    """
    logits = scores if temperature == 1 else scores / temperature  # a pass over (B, N) is slow
    if seen is not None:
        logits = _masked(logits, seen, positive)
    return -_own(F.log_softmax(logits, dim=1), positive)


def in_batch_softmax(
    scores: Tensor,
    positive: Tensor,
    known: Tensor,
    temperature: float,
    log_q: Tensor | None = None,
) -> Tensor:
    """Softmax over the items of the batch; returns one loss for each query.

    The other items of the batch are the negatives, except known positives of the query. A popular item is a
    negative in more batches than others, which lowers its scores. With `log_q` this bias is corrected: the
    logits are s_j - log q_j for every column, including the own item's (Yi et al. 2019, section 3).

    Args:
        scores: (B, N) of B queries and N items.
        positive: int64 (B,), the column of each query's own item.
        known: bool (B, N), true where the item is a known positive of the query.
        temperature: divides the scores.
        log_q: (N,) or (B, N), log of the expected number of a query's columns that hold the item, given the
            query. For distinct columns this is the log probability that there is one
            (`mixed_log_q`), 0 for items that are always there; for J columns drawn one by one, log J
            plus the log probability of one draw. None corrects nothing.

    Returns:
        (B,)
    """
    logits = scores / temperature
    if log_q is not None:
        logits = logits - log_q
    return F.cross_entropy(_masked(logits, known, positive), positive, reduction="none")


def mixed_log_q(share: npt.NDArray[np.float64], drawn: int | Rows, uniform: int, catalogue: int) -> Floats:
    """Log probability that an item of no pair of the query's own window is among the query's candidates.

    Candidates are the distinct items of a batch of pairs and of `uniform` uniform draws from the catalogue
    (Yang et al. 2020, "Mixed Negative Sampling"). The paper subtracts the log probability of one draw from
    the mixture, drawn / (drawn + uniform) share + uniform / (drawn + uniform) / N. Here an item drawn several
    times is one column, so q is the probability that it is drawn at least once:

        q_j = 1 - (1 - share_j)^drawn (1 - 1 / N)^uniform

    For small q this is the paper's probability times drawn + uniform. Division by q makes the expected sum
    over the candidates equal to the sum over the catalogue (importance sampling of the partition function:
    Bengio and Senecal 2008, section IV; for distinct columns Horvitz and Thompson 1952; in-batch: Yi et al.
    2019, "Sampling-Bias-Corrected Neural Modeling", equations 4 and 5).

    The sum is that of one query, so q has to be the probability given this query. The pairs of its own
    window (`Batch.window`), its own pair among them, are in its batch with certainty: they are not drawn,
    their items have q_j = 1, also those that are drawn besides, and the other pairs of the batch are the
    `drawn` ones. With the marginal probability, a user's next items would weigh 1 / q_j instead of 1.

    Args:
        share: (M,), the probability that a pair of a batch has an item, of some items.
        drawn: pairs of the batch outside of the query's window, at least 1: a number, or (G, 1) of G queries.
        uniform: draws from the catalogue, with replacement; 0 for none.
        catalogue: N, the number of items that the uniform draws are from.

    Returns:
        float32 (M,) or (G, M); -inf where an item cannot be a candidate.
    """
    with np.errstate(divide="ignore"):  # an item of share 0 gets log 0
        missed = drawn * np.log1p(-share)
        if uniform:
            missed = missed + uniform * np.log1p(-1 / catalogue)
        log_q: Floats = np.log(-np.expm1(missed)).astype(np.float32)
    return log_q


def sampled_softmax(positive: Tensor, negatives: Tensor, gamma: float) -> Tensor:
    """Minus log of the smoothed posterior of the clicked item (Huang et al. 2013, equations 5 and 6).

    Args:
        positive: cosines (B,) of query and clicked item.
        negatives: cosines (B, J) of query and J random items.
        gamma: smoothing factor, the inverse of the temperature.

    Returns:
        (B,)
    """
    logits = gamma * torch.cat([positive[:, None], negatives], dim=1)
    return -F.log_softmax(logits, dim=1)[:, 0]


def labelled_bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of labelled pairs.

    Args:
        logits: of any shape, usually (B,).
        labels: of the same shape; above 0 is positive.

    Returns:
        The shape of the logits.
    """
    return F.softplus(torch.where(labels > 0, -logits, logits))


def columns_of(items: Rows, rows: Rows) -> Tensor:
    """Int64, the shape of `rows`: the column of each item row among `items`, which are ascending."""
    return torch.from_numpy(np.searchsorted(items, rows))


def draw_negatives(known: Tensor, count: int, generator: np.random.Generator) -> Tensor:
    """Int64 (B, count): for each row of the mask (B, N) `count` random columns where it is false.

    The columns of a batch are random items of training pairs, so a column drawn at random is a random item.
    """
    weights = (~known).float()
    weights[weights.sum(dim=1) == 0] = 1.0  # every item of the batch is a positive of this query
    source = torch.Generator().manual_seed(int(generator.integers(2**63)))
    return torch.multinomial(weights, count, replacement=True, generator=source)


def _masked(logits: Tensor, known: Tensor, positive: Tensor) -> Tensor:
    """Logits (B, N) with minus infinity at the known positives, except at each query's own item."""
    return logits.masked_fill(known.scatter(1, positive[:, None], False), float("-inf"))


def _own(values: Tensor, positive: Tensor) -> Tensor:
    """(B,): the value in each query's own column."""
    return values.gather(1, positive[:, None])[:, 0]
