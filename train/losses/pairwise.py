"""Losses over pairs of a query and an item: binary cross-entropy, BPR.

Each pair is compared with a few negatives that are sampled for it. In every function `known` is bool (B, J),
true where a sampled negative is a known positive of the query, which happens for a query with hardly any
negatives; its term is dropped.
"""

from abc import abstractmethod
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from twinspire.protos.errors import DataError
from twinspire.train.config.losses import Bce, Bpr
from twinspire.train.data.batches import Batch
from twinspire.train.data.training_data import Pairs, TrainingData
from twinspire.train.losses.objective import OBJECTIVES, Candidates, Objective, columns_of
from twinspire.train.losses.sampling import draw_evenly

Rows = npt.NDArray[np.int64]
Sampled = TypeVar("Sampled", Bce, Bpr)


def bce(positive: Tensor, negatives: Tensor, known: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of the positive item, plus the sum over the sampled items.

    Negative sampling of Mikolov et al. 2013, equation 4, and Kang and McAuley 2018, section III-E.

    Args:
        positive: logits (B,) of query and positive item.
        negatives: logits (B, J) of query and J sampled items.
        known: bool (B, J) or None.

    Returns:
        (B,)
    """
    own = labelled_bce(positive, torch.ones_like(positive))
    others = labelled_bce(negatives, torch.zeros_like(negatives))
    return own + _dropped(others, known).sum(dim=1)


def labelled_bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of labelled pairs.

    Args:
        logits: of any shape, usually (B,).
        labels: of the same shape; above 0 is positive.

    Returns:
        The shape of the logits.
    """
    return F.softplus(torch.where(labels > 0, -logits, logits))


def bpr(positive: Tensor, negatives: Tensor, known: Tensor | None = None) -> Tensor:
    """Minus log probability that the own item beats a sampled one (Rendle et al. 2009, BPR-Opt, section 4.1).

    Without the paper's regulariser.

    Args:
        positive: scores (B,) of query and own item.
        negatives: scores (B, J) of query and J sampled items.
        known: bool (B, J) or None.

    Returns:
        (B,), the mean over the J items.
    """
    return _mean(F.softplus(negatives - positive[:, None]), known)


def _dropped(terms: Tensor, known: Tensor | None) -> Tensor:
    """The terms (B, J) with 0 at known positives."""
    return terms if known is None else terms.masked_fill(known, 0)


def _mean(terms: Tensor, known: Tensor | None) -> Tensor:
    """(B,): the mean of the terms (B, J) without known positives; 0 where none is left."""
    if known is None:
        return terms.mean(dim=1)
    return _dropped(terms, known).sum(dim=1) / (~known).sum(dim=1).clamp(min=1)


class PairwiseObjective(Objective[Sampled]):
    """Base of the losses that compare each pair with items sampled for it."""

    def candidates(self, batch: Batch, hard: Rows | None, generator: np.random.Generator) -> Candidates:
        """The items of the batch, and the negatives sampled for each pair."""
        own, queries = self.pairs.item[batch.pairs], self.pairs.query[batch.pairs]
        count = self.config.negatives
        sampled = draw_evenly(self.trained_items, queries, self.positives, count, generator)
        items = np.unique(np.concatenate([own, sampled.ravel()]))
        known = self.known_mask(batch, items)
        return Candidates(items, columns_of(items, own), known, columns_of(items, sampled))

    def pair_losses(self, scores: Tensor, batch: Batch, candidates: Candidates) -> Tensor:
        """(P,) from scores (P, N)."""
        assert candidates.negatives is not None
        assert candidates.known is not None
        positive = scores.gather(1, candidates.positive[:, None])[:, 0]
        sampled = scores.gather(1, candidates.negatives)
        return self.sampled_losses(positive, sampled, candidates.known.gather(1, candidates.negatives))

    @abstractmethod
    def sampled_losses(self, positive: Tensor, negatives: Tensor, known: Tensor) -> Tensor:
        """(P,) from the scores (P,) of the own items and (P, J) of the sampled ones."""


@OBJECTIVES.register(Bpr)
class BprObjective(PairwiseObjective[Bpr]):
    """`bpr` over sampled negatives."""

    def sampled_losses(self, positive: Tensor, negatives: Tensor, known: Tensor) -> Tensor:
        """(P,) from the scores (P,) of the own items and (P, J) of the sampled ones."""
        return bpr(positive, negatives, known)


@OBJECTIVES.register(Bce)
class BceObjective(PairwiseObjective[Bce]):
    """`bce` over sampled negatives; with `negatives = 0`, `labelled_bce` over the pairs of the data.

    Raises:
        DataError: without sampled negatives, and the data has no negatives either.
    """

    def __init__(self, config: Bce, data: TrainingData) -> None:
        super().__init__(config, data)
        if not config.negatives and self.pairs.label is None:
            raise DataError("loss.negatives = 0, but every training pair is positive: there are no negatives")

    def _select_pairs(self, pairs: Pairs) -> Pairs:
        return pairs.positive() if self.config.negatives else pairs

    def candidates(self, batch: Batch, hard: Rows | None, generator: np.random.Generator) -> Candidates:
        """The items of the batch, and the negatives sampled for each pair, if any."""
        if self.config.negatives:
            return super().candidates(batch, hard, generator)
        own = self.pairs.item[batch.pairs]
        items = np.unique(own)
        return Candidates(items, columns_of(items, own), None)

    def pair_losses(self, scores: Tensor, batch: Batch, candidates: Candidates) -> Tensor:
        """(P,) from scores (P, N)."""
        if self.config.negatives:
            return super().pair_losses(scores, batch, candidates)
        assert self.pairs.label is not None
        logits = scores.gather(1, candidates.positive[:, None])[:, 0]
        labels = torch.from_numpy(self.pairs.label[batch.pairs]).to(logits.device)
        return labelled_bce(logits, labels)

    def sampled_losses(self, positive: Tensor, negatives: Tensor, known: Tensor) -> Tensor:
        """(P,) from the scores (P,) of the own items and (P, J) of the sampled ones."""
        return bce(positive, negatives, known)
