"""Softmax losses: over the whole catalogue, over the items of a batch, over a few sampled items.

Each loss is a function of score matrices and an `Objective` that supplies its candidates.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from train.config.losses import Correction, FullSoftmax, InBatchSoftmax, SampledSoftmax
from train.data.batches import Batch
from train.data.training_data import TrainingData
from train.losses.objective import OBJECTIVES, Candidates, Objective, columns_of
from train.losses.sampling import mixed_log_q
from train.models.placement import to_device_of

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def full_softmax(
    scores: Tensor,
    positive: Tensor,
    seen: Tensor | None,
    temperature: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy over the whole catalogue (Covington et al. 2016, section 3.1, without sampling).

    Smoothing moves a share of the target from the query's own item to all items that are not masked,
    including the own item (Szegedy et al. 2016, section 7).

    Args:
        scores: (B, N) of B queries and all N items.
        positive: int64 (B,), the column of each query's own item.
        seen: bool (B, N), true where the item is not a negative of the query; None masks nothing.
        temperature: divides the scores.
        label_smoothing: the share that is moved, at least 0 and below 1.

    Returns:
        (B,)
    """
    logits = scores if temperature == 1 else scores / temperature  # a pass over (B, N) is slow
    if seen is not None:
        logits = _masked(logits, seen, positive)
    log_p = F.log_softmax(logits, dim=1)
    loss = -_own(log_p, positive)
    if not label_smoothing:
        return loss
    masked = log_p.isneginf()
    everywhere = -log_p.masked_fill(masked, 0).sum(dim=1) / (~masked).sum(dim=1)
    return (1 - label_smoothing) * loss + label_smoothing * everywhere


def in_batch_softmax(
    scores: Tensor,
    positive: Tensor,
    known: Tensor,
    temperature: float,
    correction: Correction = "none",
    log_q: Tensor | None = None,
) -> Tensor:
    """Softmax over the items of the batch; returns one loss for each query.

    The other items of the batch are the negatives, except known positives of the query. A popular item is a
    negative in more batches than others, which lowers its scores; a correction removes this bias:

    - "none": no correction.
    - "logq": s_j - log q_j for every column, including the own item's (Yi et al. 2019, section 3).
    - "khrylchenko": the own item is not drawn but in every batch, so its score is not corrected
      (Khrylchenko et al. 2025, section 3.3). With s = scores / temperature, p the own item and P the
      full softmax, the full gradient is

          (1 - P_p) (-grad s_p + sum_{j != p} P_j / (1 - P_p) grad s_j).

      Z = sum_{columns j != p} exp(s_j - log q_j) has the expectation sum_{j != p} exp(s_j) over the
      catalogue. The paper estimates P_p by exp(s_p) / (exp(s_p) + Z), under a stopped gradient, and
      P_j / (1 - P_p) by exp(s_j - log q_j) / Z. Both use the same draw, so their product is the gradient
      of log(exp(s_p) + Z) - s_p, which is returned: its minimum is 0, and it is finite where every
      negative is masked.

    Args:
        scores: (B, N) of B queries and N items.
        positive: int64 (B,), the column of each query's own item.
        known: bool (B, N), true where the item is a known positive of the query.
        temperature: divides the scores.
        correction: which of the above.
        log_q: (N,) or (B, N), log of the expected number of a query's columns that hold the item, given the
            query. For distinct columns this is the log probability that there is one
            (`sampling.mixed_log_q`), 0 for items that are always there; for J columns drawn one by one, log J
            plus the log probability of one draw.

    Returns:
        (B,)

    Raises:
        ValueError: a correction without log_q, or log_q without a correction.
    """
    if (correction == "none") != (log_q is None):
        raise ValueError(f"correction: {correction!r} does not go with log_q {log_q}")
    logits = scores / temperature
    if log_q is not None:
        subtracted = log_q.expand_as(scores)
        if correction == "khrylchenko":
            subtracted = subtracted.scatter(1, positive[:, None], 0.0)
        logits = logits - subtracted
    return F.cross_entropy(_masked(logits, known, positive), positive, reduction="none")


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


@OBJECTIVES.register(FullSoftmax)
class FullSoftmaxObjective(Objective[FullSoftmax]):
    """`full_softmax` over all items of training pairs.

    Other positives of the query stay in the sum: the pairs of one query together are a multinomial
    likelihood (Liang et al. 2018, equation 2).
    """

    def candidates(self, batch: Batch, hard: Rows | None, generator: np.random.Generator) -> Candidates:
        """All items of training pairs."""
        items = self.trained_items
        positive = columns_of(items, self.pairs.item[batch.pairs])
        return Candidates(items, positive, self.seen_mask(batch, items))

    def pair_losses(self, scores: Tensor, batch: Batch, candidates: Candidates) -> Tensor:
        """(P,) from scores (P, N)."""
        return full_softmax(
            scores,
            candidates.positive,
            candidates.known,
            self.config.temperature,
            self.config.label_smoothing,
        )


@OBJECTIVES.register(InBatchSoftmax)
class InBatchSoftmaxObjective(Objective[InBatchSoftmax]):
    """`in_batch_softmax`, optionally with hard negatives and uniform negatives."""

    @property
    def hard_negatives(self) -> tuple[int, int] | None:
        """Hard negatives of each pair, and the number of nearest items that they are drawn from."""
        return (self.config.hard_negatives, self.config.mine_from) if self.config.hard_negatives else None

    @property
    def drop_above(self) -> float:
        """Share of the own item's score above which a hard negative is dropped; 0 keeps all."""
        return self.config.drop_above

    def candidates(self, batch: Batch, hard: Rows | None, generator: np.random.Generator) -> Candidates:
        """The items of the batch, their hard negatives, and the uniform negatives."""
        own = self.pairs.item[batch.pairs]
        parts = [own] if hard is None else [own, hard[batch.pairs].ravel()]
        if self.config.uniform_negatives:
            parts.append(generator.choice(self.trained_items, self.config.uniform_negatives))
        items = np.unique(np.concatenate(parts))
        if self.config.correction == "none":
            known = self.known_or_only_from_window(batch, items, np.concatenate([own[:0], *parts[1:]]))
        else:
            known = self.known_mask(batch, items)
        return Candidates(items, columns_of(items, own), known)

    def pair_losses(self, scores: Tensor, batch: Batch, candidates: Candidates) -> Tensor:
        """(P,) from scores (P, N)."""
        assert candidates.known is not None
        log_q = None
        if self.config.correction != "none":
            log_q = self._log_q(batch, candidates, scores)
        return in_batch_softmax(
            scores,
            candidates.positive,
            candidates.known,
            self.config.temperature,
            self.config.correction,
            log_q,
        )

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


@OBJECTIVES.register(SampledSoftmax)
class SampledSoftmaxObjective(Objective[SampledSoftmax]):
    """`sampled_softmax` with negatives drawn from the items of the batch."""

    def __init__(self, config: SampledSoftmax, data: TrainingData) -> None:
        super().__init__(config, data)
        self._group: Rows | None = None  # (N,), by item row; items of one number have one value
        if config.within:
            values = [value or "" for value in data.items[config.within]]
            self._group = np.unique(values, return_inverse=True)[1]

    def candidates(self, batch: Batch, hard: Rows | None, generator: np.random.Generator) -> Candidates:
        """The items of the batch, and the negatives drawn from them for each pair."""
        own = self.pairs.item[batch.pairs]
        items = np.unique(own)
        known = excluded = self.known_or_only_from_window(batch, items, own[:0])
        if self._group is not None:
            other = torch.from_numpy(self._group[own][:, None] != self._group[items])
            alone = (known | other).all(dim=1, keepdim=True)  # then the negatives are of all values
            excluded = known | other & ~alone
        negatives = draw_negatives(excluded, self.config.negatives, generator)
        return Candidates(items, columns_of(items, own), known, negatives)

    def pair_losses(self, scores: Tensor, batch: Batch, candidates: Candidates) -> Tensor:
        """(P,) from scores (P, N)."""
        assert candidates.negatives is not None
        positive = _own(scores, candidates.positive)
        return sampled_softmax(positive, scores.gather(1, candidates.negatives), self.config.gamma)


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
