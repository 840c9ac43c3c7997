"""Losses as short functions of score matrices."""

import torch
import torch.nn.functional as F
from torch import Tensor


def in_batch_softmax(scores: Tensor, positive: Tensor, same: Tensor, temperature: float) -> Tensor:
    """Softmax over the items of the batch, one loss a query.

    The other items of the batch are the negatives; an item that is a positive of the same query is
    not one of them (Yi et al. 2019, section 3, without the sampling correction).

    Args:
        scores: cosines (B, N) of B queries and N >= B items.
        positive: int64 (B,), the column of each query's own item.
        same: bool (B, N), true where the item is a known positive of the query.
        temperature: divides the cosines.

    Returns:
        (B,)
    """
    own = F.one_hot(positive, scores.shape[1]).bool()
    logits = (scores / temperature).masked_fill(same & ~own, float("-inf"))
    return F.cross_entropy(logits, positive, reduction="none")


def sampled_softmax(positive: Tensor, negatives: Tensor, gamma: float) -> Tensor:
    """Minus log of the smoothed posterior of the clicked item (Huang et al. 2013, equations 5 and 6).

    Args:
        positive: cosines (B,) of query and clicked item.
        negatives: cosines (B, J) of query and J random items.
        gamma: smoothing factor, the inverse of a temperature.

    Returns:
        (B,)
    """
    logits = gamma * torch.cat([positive[:, None], negatives], dim=1)
    return -F.log_softmax(logits, dim=1)[:, 0]
