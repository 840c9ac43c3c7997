"""The loss of each `[loss] kind`: softmax over all items, those of a batch or a few, and that of labels.

Each is a function of scores and an `Objective` that supplies its candidates.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from twinspire.protos.errors import DataError
from twinspire.train.config.losses import Bce, FullSoftmax, InBatchSoftmax, LossConfig, SampledSoftmax
from twinspire.train.data.batches import Batch
from twinspire.train.data.training_data import Pairs, TrainingData
from twinspire.train.losses.objective import Candidates, Objective, columns_of
from twinspire.train.models.placement import to_device_of

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


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
        return self.seen_mask(batch, candidates.items)

    def pair_losses(self, scores: Tensor, batch: Batch, candidates: Candidates) -> Tensor:
        """(P,) from scores (P, N)."""
        known = self.not_negatives(batch, candidates)
        seen = None if known is None else to_device_of(known, scores)
        return full_softmax(scores, candidates.positive, seen, self.config.temperature)


class InBatchSoftmaxObjective(Objective[InBatchSoftmax]):
    """`in_batch_softmax`, optionally with hard negatives and uniform negatives."""

    @property
    def hard_negatives(self) -> tuple[int, int] | None:
        """Hard negatives of each pair, and the number of nearest items that they are drawn from."""
        return (self.config.hard_negatives, self.config.mine_from) if self.config.hard_negatives else None

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
        arrays = by_size, self.window_mask(batch, items), size[window], window
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
        logits = scores.gather(1, candidates.positive[:, None])[:, 0]
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
