"""Softmax losses as short functions of score matrices; losses over single pairs are in `pairwise`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from train.config.losses import Correction


def full_softmax(
    scores: Tensor,
    positive: Tensor,
    seen: Tensor | None,
    temperature: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy over the whole catalogue (Covington et al. 2016, section 3.1, without sampling).

    Smoothing moves a part of the target from the query's own item to all items that are not masked,
    the own one among them (Szegedy et al. 2016, section 7).

    Args:
        scores: (B, N) of B queries and all N items.
        positive: int64 (B,), the row of each query's own item.
        seen: bool (B, N), true where the item is a known positive of the query, which makes it no
            negative; None masks nothing.
        temperature: divides the scores.
        label_smoothing: the part that is moved, at least 0 and below 1.

    Returns:
        (B,)
    """
    logits = scores if temperature == 1 else scores / temperature  # a pass over (B, N) is what costs
    if seen is not None:
        logits = _without(logits, seen, positive)
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
    same: Tensor,
    temperature: float,
    correction: Correction = "none",
    log_q: Tensor | None = None,
) -> Tensor:
    """Softmax over the items of the batch, one loss a query.

    The other items of the batch are the negatives; an item that is a positive of the same query is
    not one of them. What is popular is in more batches, so its score is held down unless corrected:

    - "none": no correction.
    - "logq": s_j - log q_j for every column, the own one too (Yi et al. 2019, section 3).
    - "khrylchenko": the own item is not drawn, it is always there, so nothing is taken off its score
      (Khrylchenko et al. 2025, section 3.3). With s = scores / temperature, p the own item and P the
      full softmax, the full gradient is

          (1 - P_p) (-grad s_p + sum_{j != p} P_j / (1 - P_p) grad s_j).

      Z = sum_{columns j != p} exp(s_j - log q_j) has the expectation sum_{j != p} exp(s_j) over the
      catalogue. The paper puts exp(s_p) / (exp(s_p) + Z) for P_p, under a stopped gradient, and
      exp(s_j - log q_j) / Z for P_j / (1 - P_p). Both come from the same draw, so the two factors
      are together just the gradient of log(exp(s_p) + Z) - s_p, which is what is returned: it is
      0 at best, and finite where every negative is masked.

    Args:
        scores: (B, N) of B queries and N items.
        positive: int64 (B,), the column of each query's own item.
        same: bool (B, N), true where the item is a known positive of the query.
        temperature: divides the scores.
        correction: which of the above.
        log_q: (N,) or (B, N), log of how many times the item is expected among a query's drawn
            columns; for distinct columns, of the probability that it is one (`sampling.mixed_log_q`),
            and for J columns drawn one by one, log J more than one draw's. "logq" needs it only up to
            a constant.

    Returns:
        (B,)

    Raises:
        ValueError: a correction without log_q, or log_q without a correction.
    """
    if (correction == "none") != (log_q is None):
        raise ValueError(f"correction: {correction!r} does not go with log_q {log_q}")
    logits = scores / temperature
    if log_q is not None:
        taken_off = log_q.expand_as(scores)
        if correction == "khrylchenko":
            taken_off = taken_off.scatter(1, positive[:, None], 0.0)
        logits = logits - taken_off
    return F.cross_entropy(_without(logits, same, positive), positive, reduction="none")


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


def _without(logits: Tensor, known: Tensor, positive: Tensor) -> Tensor:
    """The logits (B, N) with the known positives out of the softmax, the own one apart."""
    return logits.masked_fill(known.scatter(1, positive[:, None], False), float("-inf"))


def _own(values: Tensor, positive: Tensor) -> Tensor:
    """(B,): the value of each query's own column."""
    return values.gather(1, positive[:, None])[:, 0]
