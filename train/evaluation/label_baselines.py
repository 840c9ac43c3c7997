"""Baselines that predict labels, fitted on the training pairs and tuned on the validation pairs.

| name            | what it is                                                                     |
|-----------------|--------------------------------------------------------------------------------|
| `base_rate`     | the share of positives in training                                             |
| `itemmean`      | each item's share of positives, drawn to the share of all                      |
| `user_item`     | log-odds of the item, plus the user's mean residual, drawn to zero             |
| `user_item_knn` | the same, plus item-kNN of the residuals of the pair's history                 |

To add one, add a `LabelBaseline` to `LABEL_BASELINES`, and its name to `train/config/baselines.py`.
`user_item` is also the start of click towers:

    logit p = logit(s_i) + factor * sum_j (y_j - s_j) / (n + k)

s_i is the share of positives among the item's training pairs, shrunk towards that of all pairs. The sum is
over the n events j that are known of the user before the pair. The item's share s_j is subtracted from each
label y_j, which makes users comparable whichever items they met. k shrinks the user's mean towards zero.

`user_item_knn` also reads which items a user has liked and disliked:

    logit p = logit of user + item means + weight * sum_j s_ij r_j

The sum is over the events j of the pair's own history, all of which happened before it: the newest ones, as
many as the towers read, or all; of these over the `neighbours` with the largest |s_ij|. r_j is the event's
label less the share of positives of its item, less the mean of that over the user's events, shrunk likewise.
s_ij is the cosine of such residuals in training over the n users of both items, times n / (n + shrinkage)
(Koren 2008, section 2.2), so an item that came before counts as its own neighbour.

Events, shrinkage, neighbours and weight are those with the lowest log loss on up to `TUNED_PAIRS` validation
pairs, of a grid of 2 x 3 x 2 x 4 = 48 settings. Of a larger catalogue the `LARGEST` items with most training
pairs are read; all others have no neighbours.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.special

from twinspire.protos.features import FeatureSpec, HistoryFeature
from twinspire.train.config import Experiment
from twinspire.train.data.ranges import gather_ranges, range_starts
from twinspire.train.data.training_data import Histories, Pairs, TrainingData
from twinspire.train.evaluation.labelled_metrics import pair_losses
from twinspire.train.metrics import Floats

Predict = Callable[[Pairs], Floats]  # pairs (P,) -> probabilities (P,)
Residuals = Callable[[Pairs], tuple[Floats, Floats]]

SMOOTHINGS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # events
USER_FACTORS = (3.0, 4.0, 5.0, 6.0)
KINDS = ("history", "negative_history")
EVENTS = ("as the towers", "all")
SHRINKAGES = (30.0, 100.0, 300.0)  # users
NEIGHBOURS = (30, 200)
WEIGHTS = (0.5, 1.0, 2.0, 4.0)
LARGEST = 5_000  # items; up to six matrices of N x N are held at once, 600 MB at this size
TUNED_PAIRS = 20_000
_BLOCK = 1_000  # pairs whose events are read at a time


@dataclass(frozen=True)
class FittedLabels:
    """What a baseline predicts, and what was chosen for it."""

    predict: Predict
    settings: Mapping[str, Any]


def lowest_loss(data: TrainingData, fitted: Iterable[FittedLabels]) -> FittedLabels:
    """The predictions with the lowest log loss on validation; of equal ones the first."""
    validation = data.parts["validation"]
    return min(fitted, key=lambda each: pair_losses(validation.is_positive, each.predict(validation)).mean())


def item_means(data: TrainingData) -> FittedLabels:
    """Each item's share of positives, shrunk towards that of all pairs; validation chooses by how much."""
    shares = {smoothing: item_shares(data, smoothing) for smoothing in SMOOTHINGS}
    tried = [FittedLabels(partial(_of_items, each), {"smoothing": k}) for k, each in shares.items()]
    return lowest_loss(data, tried)


def _of_items(shares: Floats, pairs: Pairs) -> Floats:
    return shares[pairs.item]


def user_item(query: Mapping[str, FeatureSpec], data: TrainingData) -> FittedLabels:
    """The formula of this module; validation chooses k and the factor, after the smoothing of `item_means`.

    Where the towers read histories of both kinds, a pair's events are those of the histories: the newest
    ones, as many as the towers read, or all; validation chooses. Else they are the user's training pairs;
    without users there are none.
    """
    smoothing = item_means(data).settings["smoothing"]
    shares = item_shares(data, smoothing)
    histories, item = histories_of(query, data), scipy.special.logit(shares)
    residuals: list[tuple[dict[str, Any], Residuals]]
    if len(histories) == len(KINDS):
        residuals = [
            ({"events": name}, _history_sums(histories, shares, as_read))
            for name, as_read in zip(EVENTS, (True, False), strict=True)
        ]
    else:
        residuals = [({}, _training_sums(data, shares))]
    tried = [
        FittedLabels(
            partial(_of_users, item, of_users, k, factor),
            {"item_smoothing": smoothing, "smoothing": k, "factor": factor, **events},
        )
        for events, of_users in residuals
        for k, factor in itertools.product(SMOOTHINGS, USER_FACTORS)
    ]
    return lowest_loss(data, tried)


def _of_users(item: Floats, residuals: Residuals, smoothing: float, factor: float, pairs: Pairs) -> Floats:
    """(P,): the probabilities by the formula of this module.

    Args:
        item: (N,), log-odds of each item.
        residuals: pairs (P,) -> for each pair's user the sum of y_j - s_j, (P,), and the number n of events,
            (P,).
        smoothing: k, in events.
    """
    sums, counts = residuals(pairs)
    return np.asarray(scipy.special.expit(item[pairs.item] + factor * sums / (counts + smoothing)))


def histories_of(
    query: Mapping[str, FeatureSpec], data: TrainingData
) -> dict[str, tuple[HistoryFeature, Histories]]:
    """Kind -> feature and values of the queries' histories; empty if there are none."""
    found: dict[str, tuple[HistoryFeature, Histories]] = {}
    for name, spec in query.items():
        values = data.queries.get(name)
        if isinstance(spec, HistoryFeature) and isinstance(values, Histories):
            found[spec.kind] = (spec, values)
    return found


def item_shares(data: TrainingData, smoothing: float) -> Floats:
    """(N,): each item's share of positives in training, shrunk towards that of all pairs."""
    train = data.parts["train"]
    labels = train.is_positive
    positives = np.bincount(train.item, labels, data.item_count)
    total = np.bincount(train.item, minlength=data.item_count)
    return np.asarray((positives + smoothing * labels.mean()) / (total + smoothing))


def first_event(spec: HistoryFeature, values: Histories, as_read: bool) -> npt.NDArray[np.int64]:
    """(Q,): where in `run` each history begins, of all its events or of the newest, as a tower reads them."""
    return np.maximum(values.read_from, values.end - spec.longest) if as_read else values.begin


def _history_sums(
    histories: Mapping[str, tuple[HistoryFeature, Histories]], shares: Floats, as_read: bool
) -> Residuals:
    sides: list[tuple[Floats, Floats]] = []
    for kind, residuals in zip(KINDS, (1 - shares, -shares), strict=True):
        spec, values = histories[kind]
        begin = first_event(spec, values, as_read)
        running = np.concatenate([[0.0], np.cumsum(residuals[values.run])])
        sides.append((running[values.end] - running[begin], (values.end - begin).astype(np.float64)))
    sums, counts = sides[0][0] + sides[1][0], sides[0][1] + sides[1][1]
    return lambda pairs: (sums[pairs.query], counts[pairs.query])


def _training_sums(data: TrainingData, shares: Floats) -> Residuals:
    train = data.parts["train"]
    if train.user is None:
        return lambda pairs: (np.zeros(len(pairs)), np.zeros(len(pairs)))
    size = 1 + max(int(part.user.max(initial=0)) for part in data.parts.values() if part.user is not None)
    sums = np.bincount(train.user, train.is_positive - shares[train.item], size).astype(np.float64)
    counts = np.bincount(train.user, minlength=size).astype(np.float64)
    return lambda pairs: (sums[pairs.user], counts[pairs.user])


def item_neighbours(query: Mapping[str, FeatureSpec], data: TrainingData) -> FittedLabels:
    """The predictions of this module with the settings that validation prefers."""
    base, validation = user_item(query, data), data.parts["validation"]
    model = ResidualNeighbours(query, data, base)
    tuned = validation.where(np.random.default_rng(0).permutation(len(validation)) < TUNED_PAIRS)
    known = scipy.special.logit(base.predict(tuned))
    losses: dict[tuple[str, float, int, float], float] = {}
    for events, shrinkage, neighbours in itertools.product(EVENTS, SHRINKAGES, NEIGHBOURS):
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


@dataclass(frozen=True)
class LabelBaseline:
    """A model of labels that is compared with the towers.

    Args:
        name: prefix of its metrics.
        reads_histories: whether it needs histories.
    """

    name: str
    label: str
    fit: Callable[[Experiment, TrainingData], FittedLabels]
    reads_histories: bool = False


def label_baselines(experiment: Experiment, data: TrainingData) -> dict[str, FittedLabels]:
    """Name -> predictions of each baseline that applies to the towers, and that `[baselines] run` allows."""
    measured = [each for each in LABEL_BASELINES if experiment.baselines.measures(each.name)]
    return {each.name: each.fit(experiment, data) for each in measured if not _needs(each, experiment, data)}


def labels_needed(experiment: Experiment, data: TrainingData) -> dict[str, str]:
    """Name -> what it needs, of each baseline that does not apply to these towers and data."""
    if not data.parts["test"].has_both_labels:
        needs = "positive and negative pairs in the test part"
        return {each.name: needs for each in LABEL_BASELINES}
    return {each.name: needs for each in LABEL_BASELINES if (needs := _needs(each, experiment, data))}


def _needs(baseline: LabelBaseline, experiment: Experiment, data: TrainingData) -> str:
    """What a baseline needs that these towers and data lack; empty if it applies.

    Item means stand beside every model of labelled pairs, the others beside a predicted probability.
    """
    if baseline.name != "itemmean" and not experiment.tower.predicts_probability:
        return 'towers that predict a probability: tower.kind = "clicks"'
    return "histories" if baseline.reads_histories and not histories_of(experiment.query, data) else ""


def _base_rate(experiment: Experiment, data: TrainingData) -> FittedLabels:
    share = float(data.parts["train"].is_positive.mean())
    return FittedLabels(lambda pairs: np.full(len(pairs), share), {})


LABEL_BASELINES = (
    LabelBaseline("base_rate", "base rate", _base_rate),
    LabelBaseline("itemmean", "item means", lambda _, data: item_means(data)),
    LabelBaseline("user_item", "user + item means", lambda each, data: user_item(each.query, data)),
    LabelBaseline(
        "user_item_knn",
        "user + item means, item-kNN",
        lambda each, data: item_neighbours(each.query, data),
        reads_histories=True,
    ),
)
