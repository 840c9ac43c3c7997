"""Negatives drawn from the catalogue, and how likely each draw is.

sampler = Sampler.of(popularity(share, 0.75))
items, log_q = sampler.draw(queries, positives, 4, generator)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.problem import Positives

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_TICKETS = 1 << 40  # so fine that rounding to whole tickets shows in no float32


def popularity(share: Floats, alpha: float) -> Floats:
    """Weights (N,) of popularity sampling, share^alpha (Mikolov et al. 2013, section 2.2: alpha 0.75).

    Args:
        share: (N,), each item's share of the training interactions.
        alpha: 1 draws items as often as they are interacted with, 0 all that ever were alike.
    """
    return np.where(share > 0, np.power(share, alpha, where=share > 0, out=np.zeros(len(share))), 0.0)


@dataclass(frozen=True)
class Sampler:
    """A lottery over items: each holds a run of whole tickets, so draws and exclusions are exact.

    Args:
        tickets: int64 (N,), how many tickets each item holds.
        begin: int64 (N + 1,), the first ticket of each item; the last entry is their number.
    """

    tickets: Rows
    begin: Rows

    @classmethod
    def of(cls, weights: npt.ArrayLike) -> "Sampler":
        """Items in proportion to weights (N,): `np.ones(N)` is uniform; 0 is never drawn.

        Raises:
            ValueError: no weight is above 0.
        """
        share = np.asarray(weights, np.float64)
        if not (share > 0).any():
            raise ValueError("weights: expected at least one above 0")
        tickets = np.rint(share / share.sum() * _TICKETS).astype(np.int64)
        tickets = np.where(share > 0, np.maximum(tickets, 1), 0)
        return cls(tickets, np.concatenate([[0], np.cumsum(tickets)]))

    def draw(
        self, queries: Rows, positives: Positives, count: int, generator: np.random.Generator
    ) -> tuple[Rows, npt.NDArray[np.float32]]:
        """For each query `count` items, with replacement, none of them a positive of the query.

        A query whose positives are all that could be drawn gets positives. Memory is that of the
        answer and of the queries' positives.

        Args:
            queries: int64 (B,), query rows.
            positives: by query row.

        Returns:
            Item rows, int64 (B, count), and the log of each one's probability in one draw, float32
            (B, count).
        """
        total = int(self.begin[-1])
        place, item = positives.of_queries(queries)  # by place, then by item
        free = total - _sum_by(place, self.tickets[item], len(queries))
        kept = free[place] > 0
        place, item = place[kept], item[kept]
        free = np.where(free > 0, free, total)
        # With a query's positives cut out, the tickets left of them close up. `before` is what was cut out
        # before each positive, and `cut` the place of each cut among the tickets left.
        gone = np.concatenate([[0], np.cumsum(self.tickets[item])])
        first = np.searchsorted(place, np.arange(len(queries)))
        before = gone[:-1] - gone[first[place]]
        cut = self.begin[item] - before
        ticket = generator.integers(0, free[:, None], size=(len(queries), count))
        row = np.arange(len(queries))[:, None] * total
        passed = np.searchsorted(place * total + cut, row + ticket, side="right")
        ticket += gone[passed] - gone[first][:, None]
        items = np.searchsorted(self.begin, ticket, side="right") - 1
        log_q = np.log(self.tickets[items]) - np.log(free)[:, None]
        return items, log_q.astype(np.float32)


def mixed_log_q(share: Floats, batch: int, uniform: int) -> npt.NDArray[np.float32]:
    """Log probability that an item is among the candidates of a query whose own item it is not.

    Candidates are the distinct items of a batch of pairs and of `uniform` even draws from the
    catalogue (Yang et al. 2020, "Mixed Negative Sampling"). The paper subtracts the log of
    one draw's probability in the mixture, batch / (batch + uniform) share + uniform / (batch + uniform) / N.
    A column stands for all the times its item was drawn, so what counts here is that it was drawn at all:

        q_j = 1 - (1 - share_j)^(batch - 1) (1 - 1 / N)^uniform

    which is the paper's, times batch + uniform, where q is small, and stays a probability where not. The
    query's own pair is no draw: hence batch - 1. Dividing by q makes the sum over candidates that over the
    catalogue in expectation (Horvitz and Thompson 1952).

    Args:
        share: (N,), the probability that a pair of a batch is of this item; sums to 1.
        batch: pairs in a batch, the query's own among them, at least 2.
        uniform: draws from the N items, with replacement; 0 for none.

    Returns:
        float32 (N,), by item row; -inf where an item cannot be a candidate.
    """
    with np.errstate(divide="ignore"):  # log 0 is meant
        missed = (batch - 1) * np.log1p(-share)
        if uniform:
            missed = missed + uniform * np.log1p(-1 / len(share))
        log_q: npt.NDArray[np.float32] = np.log(-np.expm1(missed)).astype(np.float32)
    return log_q


def _sum_by(place: Rows, values: Rows, length: int) -> Rows:
    """int64 (length,): the sum of the values at each place, exact where bincount would round."""
    sums = np.zeros(length, np.int64)
    np.add.at(sums, place, values)
    return sums
