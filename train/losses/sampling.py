"""Negative sampling: items drawn from the catalogue.

sampler = NegativeSampler.from_weights(popularity_weights(share, 0.75))
items = sampler.draw(queries, positives, 4, generator)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twinspire.train.data.training_data import Positives

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_TICKETS = 1 << 40  # rounding to whole tickets is below the precision of float32


def popularity_weights(share: Floats, alpha: float) -> Floats:
    """Weights (N,) of popularity sampling, share^alpha (Mikolov et al. 2013, section 2.2: alpha 0.75).

    Args:
        share: (N,), each item's share of the training interactions.
        alpha: 1 draws an item as often as users interact with it; 0 draws all items with an interaction
            equally often.
    """
    return np.where(share > 0, np.power(share, alpha, where=share > 0, out=np.zeros(len(share))), 0.0)


@dataclass(frozen=True)
class NegativeSampler:
    """Draws items without a query's positives. Each item has whole tickets, so exclusion is exact.

    Args:
        tickets: int64 (N,), number of tickets of each item.
        begin: int64 (N + 1,), the first ticket of each item; the last entry is the number of tickets.
    """

    tickets: Rows
    begin: Rows

    @classmethod
    def from_weights(cls, weights: npt.ArrayLike) -> "NegativeSampler":
        """A sampler in proportion to weights (N,): `np.ones(N)` is uniform; weight 0 is never drawn.

        Raises:
            ValueError: no weight is above 0.
        """
        share = np.asarray(weights, np.float64)
        if not (share > 0).any():
            raise ValueError("weights: expected at least one above 0")
        tickets = np.rint(share / share.sum() * _TICKETS).astype(np.int64)
        tickets = np.where(share > 0, np.maximum(tickets, 1), 0)
        return cls(tickets, np.concatenate([[0], np.cumsum(tickets)]))

    def draw(self, queries: Rows, positives: Positives, count: int, generator: np.random.Generator) -> Rows:
        """For each query `count` items, with replacement, none of them a positive of the query.

        If all items that can be drawn are positives of a query, it gets positives. Memory is proportional
        to the result and to the queries' positives.

        Args:
            queries: int64 (B,), query rows.
            positives: by query row.
            count: items of each query.

        Returns:
            Item rows, int64 (B, count).
        """
        total = int(self.begin[-1])
        place, item = positives.of_queries(queries)  # by place, then by item
        free = total - _sum_by(place, self.tickets[item], len(queries))
        kept = free[place] > 0
        place, item = place[kept], item[kept]
        free = np.where(free > 0, free, total)
        # Removing a query's positives shifts the later tickets down. `before` counts the tickets removed
        # before each positive; `cut` is the position of each removal among the remaining tickets.
        removed = np.concatenate([[0], np.cumsum(self.tickets[item])])
        first = np.searchsorted(place, np.arange(len(queries)))
        before = removed[:-1] - removed[first[place]]
        cut = self.begin[item] - before
        ticket = generator.integers(0, free[:, None], size=(len(queries), count))
        row = np.arange(len(queries))[:, None] * total
        passed = np.searchsorted(place * total + cut, row + ticket, side="right")
        ticket += removed[passed] - removed[first][:, None]
        return np.searchsorted(self.begin, ticket, side="right") - 1


def mixed_log_q(share: Floats, drawn: int | Rows, uniform: int, catalogue: int) -> npt.NDArray[np.float32]:
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
        log_q: npt.NDArray[np.float32] = np.log(-np.expm1(missed)).astype(np.float32)
    return log_q


def _sum_by(place: Rows, values: Rows, length: int) -> Rows:
    """int64 (length,): the sum of the values at each place; bincount would round them to doubles."""
    sums = np.zeros(length, np.int64)
    np.add.at(sums, place, values)
    return sums
