"""SLIST (Choi et al. 2021): item-item weights of one ridge regression for similarity and for order.

A row of the regression is a user's training history. With weight alpha, all its items predict all its items
(SLIS); with the rest, the items up to each step predict the items of later steps, both weighted by
exp(-distance / tau) in steps from the border (SLIT). A step is a session where the split is by session, else
an event. The weights are (A + lambda I)^-1 C with A = alpha X'X + (1 - alpha) S'S and C = alpha X'X +
(1 - alpha) S'T. The paper's weights of whole sessions by their date are left out: a history here spans all
dates of a user. A query's history is weighted by a factor for each later step, and by age
(`ranking.py`).

alpha, tau, lambda and the factor are chosen on validation, one after the other, until none changes.

Of a larger catalogue the items with most events are read, and all others have the score 0. Items with equal
scores are in the order of popularity.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import Tensor

from twinspire.train.data.training_data import Floats, Pairs, Rows, TrainingData
from twinspire.train.evaluation.ranking import (
    DECAYS,
    TUNED_ITEMS,
    BaselineFitter,
    Scorer,
    item_baseline,
)
from twinspire.train.models.collaborative import (
    ItemWeights,
    gram_matrix,
    history_matrix,
    interaction_matrix,
    invert_ridge,
)

LARGEST = 10_000  # items; five matrices of N x N are kept, 2 GB at this size
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
TAUS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # steps
STRENGTHS = (10.0, 30.0, 100.0, 300.0, 1000.0)
REACH = 4.0  # a step this many tau away does not count: its weight is below .02
LARGEST_TRANSITIONS = 100_000  # borders between steps: the latest ones; without times, drawn with a seed


@dataclass(frozen=True)
class SlistSettings:
    """What is chosen on validation; see the module."""

    alpha: float = 0.4
    tau: float = 2.0
    strength: float = 100.0
    decay: float = 0.9


class Slist:
    """The regression for some data. What does not depend on a setting is computed once."""

    def __init__(self, data: TrainingData) -> None:
        self._data = data
        self._together = gram_matrix(interaction_matrix(data))
        self._by_tau: tuple[float, Tensor, Tensor] | None = None
        self._solved: tuple[tuple[float, float, float], Tensor, Tensor] | None = None

    def scorer(self, settings: SlistSettings) -> Scorer:
        """Scores of all items for some queries."""
        data, (inverse, target) = self._data, self.solve(settings)

        def score(rows: Rows) -> Floats:
            history = history_matrix(data, rows, settings.decay)
            return (torch.from_numpy(np.asarray(history @ inverse.numpy())) @ target).numpy()

        return score

    def solve(self, settings: SlistSettings) -> tuple[Tensor, Tensor]:
        """(A + lambda I)^-1 and C, each (N, N); their product are the weights."""
        key = (settings.alpha, settings.tau, settings.strength)
        if self._solved is None or self._solved[0] != key:
            self._solved = None
            past, future = self._transitions(settings.tau)
            matrix = settings.alpha * self._together + (1 - settings.alpha) * past
            target = settings.alpha * self._together + (1 - settings.alpha) * future
            self._solved = (key, invert_ridge(matrix, settings.strength), target)
        return self._solved[1:]

    def _transitions(self, tau: float) -> tuple[Tensor, Tensor]:
        """S'S and S'T, each (N, N)."""
        if self._by_tau is None or self._by_tau[0] != tau:
            self._by_tau = None
            past, future = transitions(self._data, tau)
            self._by_tau = (tau, gram_matrix(past), gram_matrix(past, future))
        return self._by_tau[1:]


def transitions(data: TrainingData, tau: float) -> tuple[scipy.sparse.csr_matrix, scipy.sparse.csr_matrix]:
    """S and T, each (B, N): the items before and after each border between two steps of a training history.

    Args:
        tau: an item d steps from the nearest step of its side weighs exp(-d / tau).
    """
    pairs = data.some_pairs
    histories = data.histories
    assert histories is not None
    # The events of one step have the same history, whose end tells the steps of a user apart.
    user, end = histories.begin[pairs.query], histories.end[pairs.query]
    steps, step = np.unique(np.stack([user, end]), axis=1, return_inverse=True)
    step = step.ravel()
    # Where a step lies: its distance from another may count items that are left out while tuning.
    place = steps[1] if histories.steps is None else histories.steps[steps[1]]
    is_last = np.append(steps[0, 1:] != steps[0, :-1], True) if steps.size else np.empty(0, bool)
    row_of = np.full(len(is_last), -1, np.int64)  # of the border after each step; -1 where there is none
    chosen = _chosen_borders(pairs, step, ~is_last)
    row_of[chosen] = np.arange(len(chosen))

    def side(offset: int, direction: int) -> scipy.sparse.csr_matrix:
        """Items at the steps of a border + `offset` and on, in one direction."""
        rows, items, weights = [], [], []
        for between in range(int(REACH * tau) + 1):
            at = step - direction * between - offset  # the step before the border
            inside = (at >= 0) & (at < len(is_last))
            at = np.where(inside, at, 0)
            inside &= (steps[0, at] == user) & (row_of[at] >= 0)
            at, far = at[inside], step[inside]
            distance = np.abs(place[far] - place[at + offset])
            near = distance <= REACH * tau
            rows.append(row_of[at[near]])
            items.append(pairs.item[inside][near])
            weights.append(np.exp(-distance[near] / tau).astype(np.float32))
        coordinates = (np.concatenate(rows), np.concatenate(items))
        shape = (len(chosen), data.item_count)
        return scipy.sparse.csr_matrix((np.concatenate(weights), coordinates), shape=shape)

    return side(0, -1), side(1, 1)


def _chosen_borders(pairs: Pairs, step: Rows, has_border: npt.NDArray[np.bool_]) -> Rows:
    """The steps whose borders are fitted, sorted: the latest ones; without times, drawn with a seed.

    Args:
        step: int64 (P,), their steps.
        has_border: bool (S,), whether another step of the same user follows.
    """
    borders = np.flatnonzero(has_border)
    if len(borders) <= LARGEST_TRANSITIONS:
        return borders
    if pairs.time is None:
        order = np.random.default_rng(0).permutation(borders)
    else:
        latest = np.full(len(has_border), -np.inf)
        np.maximum.at(latest, step, pairs.time)
        order = borders[np.argsort(latest[borders], kind="stable")]
    return np.sort(order[-LARGEST_TRANSITIONS:])


def weights(fitter: BaselineFitter) -> tuple[ItemWeights, SlistSettings]:
    """SLIST's weights over the items with most events, and what was chosen for them."""

    def fit() -> tuple[ItemWeights, SlistSettings]:
        settings = fitter.choose("SLIST", SlistSettings, _choose)
        data, rows = fitter.popular(LARGEST)
        fitter.say(f"{len(rows):,} items")
        inverse, target = Slist(data).solve(settings)
        return ItemWeights((inverse @ target).numpy(), rows), settings

    return fitter.once("weights of SLIST", fit)


def named(fitter: BaselineFitter, settings: SlistSettings) -> dict[str, float]:
    """What was chosen, by name, as a run logs it."""
    chosen = {name: getattr(settings, name) for name in ("alpha", "tau", "decay")}
    return {"lambda": settings.strength, **chosen, **fitter.reach(LARGEST)}


def _choose(fitter: BaselineFitter) -> SlistSettings:
    tuning = fitter.tuning(TUNED_ITEMS)
    ranges = [("decay", DECAYS), ("tau", TAUS), ("alpha", ALPHAS), ("strength", STRENGTHS)]
    return tuning.search(SlistSettings(), ranges, Slist(tuning.data).scorer)


BASELINE = item_baseline("slist", "SLIST", weights, named)
