"""Losses over pairs of query and item, each item judged apart from the rest of the catalogue.

`known` is bool (B, J) everywhere: true where a negative turned out to be a known positive of the
query, as happens when a query has hardly any items to be told from. It then counts for nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def bce(
    positive: Tensor,
    negatives: Tensor,
    known: Tensor | None = None,
    positive_weight: float = 1.0,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Binary cross-entropy of the own item and the sum of that of the sampled ones.

    Negative sampling of Mikolov et al. 2013, equation 4, and Kang and McAuley 2018, section III-E. With
    J negatives a `positive_weight` of J gives both classes the same weight.

    Args:
        positive: logits (B,) of query and own item.
        negatives: logits (B, J) of query and J sampled items.
        known: bool (B, J) or None.
        positive_weight: multiplies the own item's term.
        focal_gamma: see `labelled_bce`.

    Returns:
        (B,)
    """
    own = labelled_bce(positive, torch.ones_like(positive), positive_weight, focal_gamma)
    others = labelled_bce(negatives, torch.zeros_like(negatives), 1.0, focal_gamma)
    return own + _dropped(others, known).sum(dim=1)


def labelled_bce(
    logits: Tensor, labels: Tensor, positive_weight: float = 1.0, focal_gamma: float = 0.0
) -> Tensor:
    """Binary cross-entropy of pairs whose label the data tells, or their focal loss.

    -w (1 - p)^gamma log p, where p is the probability of the label that is true (Lin et al. 2017,
    equation 5, with alpha and 1 - alpha as w : 1); a gamma of 0 is plain cross-entropy.

    Args:
        logits: of any shape, usually (B,).
        labels: of the same shape; above 0 is positive.
        positive_weight: w of a positive pair; that of a negative one is 1.
        focal_gamma: the larger, the less what is already told well counts.

    Returns:
        The shape of the logits.
    """
    of_truth = torch.where(labels > 0, logits, -logits)
    loss = F.softplus(-of_truth)
    if focal_gamma:
        loss = loss * (focal_gamma * F.logsigmoid(-of_truth)).exp()
    return torch.where(labels > 0, positive_weight * loss, loss)


def hinge(positive: Tensor, negatives: Tensor, known: Tensor | None = None, margin: float = 0.2) -> Tensor:
    """By how much the own item fails to beat each sampled one by a margin (Ying et al. 2018, equation 1).

    Args:
        positive: scores (B,) of query and own item.
        negatives: scores (B, J) of query and J sampled items.
        known: bool (B, J) or None.
        margin: in units of the scores.

    Returns:
        (B,), the mean over the J items.
    """
    return _mean(F.relu(margin + negatives - positive[:, None]), known)


def bpr(positive: Tensor, negatives: Tensor, known: Tensor | None = None) -> Tensor:
    """Minus log probability that the own item beats a sampled one (Rendle et al. 2009, BPR-Opt, section 4.1).

    The paper's regulariser is the optimiser's weight decay.

    Args:
        positive: scores (B,) of query and own item.
        negatives: scores (B, J) of query and J sampled items.
        known: bool (B, J) or None.

    Returns:
        (B,), the mean over the J items.
    """
    return _mean(F.softplus(negatives - positive[:, None]), known)


def _dropped(terms: Tensor, known: Tensor | None) -> Tensor:
    """The terms (B, J) with those of known positives at 0."""
    return terms if known is None else terms.masked_fill(known, 0)


def _mean(terms: Tensor, known: Tensor | None) -> Tensor:
    """(B,): the mean of the terms (B, J) that count; 0 where none does."""
    if known is None:
        return terms.mean(dim=1)
    return _dropped(terms, known).sum(dim=1) / (~known).sum(dim=1).clamp(min=1)
