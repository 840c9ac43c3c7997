"""Probabilities of a Plackett-Luce policy, which draws items one after the other.

The next item is drawn with a probability in proportion to exp(logit), of the items that are left (Plackett
1975; Luce 1959). R records have M candidates and K positions; a logit of -infinity is no candidate.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

STEP = 0.5  # of the integral, at most
FINENESS = 0.8  # step times the square root of K, at most
EARLIEST = -16.0  # logarithm of the time before which no item is drawn, but with a probability of 1e-6
LATEST = 3.5  # above the logarithm of the mean time of the slowest item that is shown
LEAST_LOGIT = -56.0  # below the best one; a lower one counts as this, so that the times end
BLOCK = 8192  # candidates of the records that are computed together


def next_item(logits: Floats, drawn: Places, position: int) -> Floats:
    """The probability of each candidate at a position, given the items before it, (R, M).

    Args:
        logits: (R, M).
        drawn: (R, K), the candidate at each position; -1 for none.
        position: from 0.
    """
    left = logits.copy()
    for before in range(position):
        rows = np.flatnonzero(drawn[:, before] >= 0)
        left[rows, drawn[rows, before]] = -np.inf
    best = left.max(axis=1, keepdims=True)
    weights = np.exp(left - np.where(np.isfinite(best), best, 0.0))
    total = weights.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(weights, total, out=np.zeros_like(weights), where=total > 0))


def at_position(logits: Floats, drawn: Places) -> Floats:
    """The probability that each drawn item is at its position, whatever the others are, (R, K).

    In a race of exponential clocks with rates exp(logit), the order of their rings is a Plackett-Luce draw.
    So an item is at position k if k - 1 others ring before it: an integral over its time of the density times
    a Poisson binomial probability. It is taken over the logarithm of the time, by the trapezoidal rule.
    For the k-th of many items with equal logits, a step h has the relative error
    2 |Gamma(k + 2 pi i / h)| / Gamma(k), which is below 1e-6 at each position with `STEP` and `FINENESS`.

    Args:
        logits: (R, M).
        drawn: (R, K); -1 for none, whose probability is 1.
    """
    size = max(1, BLOCK // max(1, logits.shape[1]))
    blocks = range(0, len(logits), size)
    parts = [_at_position(logits[at : at + size], drawn[at : at + size]) for at in blocks]
    return np.concatenate(parts) if parts else np.ones(drawn.shape)


def _at_position(logits: Floats, drawn: Places) -> Floats:
    best = logits.max(axis=1, keepdims=True)
    gaps = logits - np.where(np.isfinite(best), best, 0.0)
    rates = np.where(np.isfinite(gaps), np.exp(np.maximum(gaps, LEAST_LOGIT)), 0.0)  # (R, M)
    shown = np.take_along_axis(rates, np.maximum(drawn, 0), axis=1)
    slowest = shown[(drawn >= 0) & (shown > 0)].min(initial=1.0)
    step = min(STEP, FINENESS / np.sqrt(drawn.shape[1]))
    times = np.exp(np.arange(EARLIEST, LATEST - np.log(slowest), step))  # (T,)
    rings = -np.expm1(-rates[:, None, :] * times[:, None])  # (R, T, M): whether each has rung
    records, found = np.arange(len(logits)), np.ones(drawn.shape)
    for position in range(drawn.shape[1]):
        own = np.maximum(drawn[:, position], 0)
        before = np.zeros((*rings.shape[:2], position + 1))  # how many others have rung
        before[..., 0] = 1.0
        for item in range(logits.shape[1]):
            rung = rings[..., item] * (own != item)[:, None]
            before[..., 1:] += rung[..., None] * (before[..., :-1] - before[..., 1:])
            before[..., 0] *= 1.0 - rung
        rate = rates[records, own][:, None]
        density = rate * times * np.exp(-rate * times)  # by the logarithm of the time
        integral = step * (density * before[..., position]).sum(axis=1)
        found[:, position] = np.where(drawn[:, position] >= 0, integral, 1.0)
    return found
