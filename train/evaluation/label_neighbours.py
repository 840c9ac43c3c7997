"""Item-kNN of residuals: a baseline of labelled pairs that reads which items a user has liked and disliked.

    logit p = logit of user + item means + weight * sum_j s_ij r_j

The sum is over the events j of the pair's own history, all of which happened before it: the newest ones, as
many as the towers read, or all; of these over the `neighbours` with the largest |s_ij|. r_j is the event's
label less the share of positives of its item, less the mean of that over the user's events, shrunk as in
`label_means.py`. s_ij is the cosine of such residuals in training over the n users of both items, times
n / (n + shrinkage) (Koren 2008, section 2.2), so an item that came before counts as its own neighbour.

Events, shrinkage, neighbours and weight are those with the lowest log loss on up to `TUNED_PAIRS` validation
pairs, of a grid of 2 x 3 x 2 x 4 = 48 settings. Of a larger catalogue the `LARGEST` items with most training
pairs are read; all others have no neighbours.
"""

from collections.abc import Mapping
from itertools import product

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.special

from twinspire.protos.features import FeatureSpec
from twinspire.train.data.ranges import gather_ranges, range_starts
from twinspire.train.data.training_data import Pairs, TrainingData
from twinspire.train.evaluation.label_means import (
    FittedLabels,
    Floats,
    first_event,
    histories_of,
    item_shares,
    user_item,
)
from twinspire.train.evaluation.labelled_metrics import pair_losses

EVENTS = ("as the towers", "all")
SHRINKAGES = (30.0, 100.0, 300.0)  # users
NEIGHBOURS = (30, 200)
WEIGHTS = (0.5, 1.0, 2.0, 4.0)
LARGEST = 5_000  # items; up to six matrices of N x N are held at once, 600 MB at this size
TUNED_PAIRS = 20_000
_BLOCK = 1_000  # pairs whose events are read at a time


def item_neighbours(query: Mapping[str, FeatureSpec], data: TrainingData) -> FittedLabels:
    """The predictions of this module with the settings that validation prefers."""
    base, validation = user_item(query, data), data.parts["validation"]
    model = ResidualNeighbours(query, data, base)
    tuned = validation.where(np.random.default_rng(0).permutation(len(validation)) < TUNED_PAIRS)
    known = scipy.special.logit(base.predict(tuned))
    losses: dict[tuple[str, float, int, float], float] = {}
    for events, shrinkage, neighbours in product(EVENTS, SHRINKAGES, NEIGHBOURS):
        sums = model.sums(tuned, events, shrinkage, neighbours)
        for weight in WEIGHTS:
            found = pair_losses(tuned.is_positive, scipy.special.expit(known + weight * sums))
            losses[events, shrinkage, neighbours, weight] = float(found.mean())
    events, shrinkage, neighbours, weight = min(losses, key=lambda each: losses[each])

    def predict(pairs: Pairs) -> Floats:
        logits = scipy.special.logit(base.predict(pairs))
        sums = model.sums(pairs, events, shrinkage, neighbours)
        return np.asarray(scipy.special.expit(logits + weight * sums))

    names = {"events": events, "shrinkage": shrinkage, "neighbours": neighbours, "weight": weight}
    return FittedLabels(predict, names)


class ResidualNeighbours:
    """The cosines of items, and their sums over the histories of pairs.

    Args:
        base: of `user_item`, whose smoothing the residuals have.
    """

    def __init__(self, query: Mapping[str, FeatureSpec], data: TrainingData, base: FittedLabels) -> None:
        train = data.parts["train"]
        assert train.user is not None  # pairs with histories are events
        self._histories = histories_of(query, data).values()
        self._shares = item_shares(data, base.settings["item_smoothing"])
        self._smoothing = base.settings["smoothing"]
        read = np.argsort(-data.counts(negative=True), kind="stable")[:LARGEST]
        self._place = np.full(data.item_count, len(read))  # of an item in the matrices; the last row is zero
        self._place[read] = np.arange(len(read))
        residuals = self._centred(train.user, train.is_positive - self._shares[train.item])
        shape = (int(train.user.max(initial=0)) + 1, len(read) + 1)
        inside = self._place[train.item] < len(read)
        cells = (train.user[inside], self._place[train.item[inside]])
        by_user = scipy.sparse.csr_matrix((residuals[inside].astype(np.float32), cells), shape)
        met = scipy.sparse.csr_matrix((np.ones(len(cells[0]), np.float32), cells), shape)
        met.data[:] = 1  # of equal pairs the residuals are summed
        self._common = (met.T @ met).toarray()  # n of two items
        squares = (by_user.multiply(by_user).T @ met).toarray()
        self._cosines = (by_user.T @ by_user).toarray() / np.sqrt(squares * squares.T).clip(min=1e-9)

    def _centred(self, of: npt.NDArray[np.int64], residuals: Floats) -> Floats:
        """(E,): residuals less their shrunk mean; `of` says to whom each of them belongs."""
        means = np.bincount(of, residuals) / (np.bincount(of) + self._smoothing)
        return np.asarray(residuals - means[of])

    def sums(self, pairs: Pairs, events: str, shrinkage: float, neighbours: int) -> Floats:
        """(P,): the sum of the formula for each pair, with the settings of this module."""
        blocks = [np.arange(at, min(at + _BLOCK, len(pairs))) for at in range(0, len(pairs), _BLOCK)]
        found = [self._sums(pairs.query[b], pairs.item[b], events, shrinkage, neighbours) for b in blocks]
        return np.concatenate([np.empty(0), *found])

    def _sums(
        self,
        queries: npt.NDArray[np.int64],
        items: npt.NDArray[np.int64],
        events: str,
        shrinkage: float,
        neighbours: int,
    ) -> Floats:
        pair, item, residuals = [], [], []
        for spec, values in self._histories:
            begin = first_event(spec, values, events == EVENTS[0])[queries]
            index, rows = gather_ranges(values.run, begin, values.end[queries])
            pair.append(index)
            item.append(rows)
            residuals.append((spec.kind == "history") - self._shares[item[-1]])
        of, event = np.concatenate(pair), np.concatenate(item)
        centred = self._centred(of, np.concatenate(residuals))
        cell = (self._place[items[of]], self._place[event])
        weights = self._cosines[cell] * (self._common[cell] / (self._common[cell] + shrinkage))
        order = np.lexsort((-np.abs(weights), of))
        starts = range_starts(np.bincount(of, minlength=len(queries)))
        kept = order[np.arange(len(order)) - starts[of[order]] < neighbours]
        return np.asarray(np.bincount(of[kept], weights[kept] * centred[kept], len(queries)))
