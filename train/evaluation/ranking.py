"""What baselines share: their description, how they rank, and how their parameters are chosen.

    BASELINE = Baseline("popularity", "popularity", has_histories, fit, "histories")

A parameter is chosen on validation, within a budget: on some of the validation queries
(`BaselineFitter.tuning`), and by what takes time with the cube of the items (`BaselineFitter.popular`), on
`TUNED_ITEMS` of them.

Item-item weights are summed over a history (`item_baseline`). The towers may read when events were and when a
query is asked, so these baselines may, too: an event weighs decay^steps * (1 + age / minute)^-ages. Beyond
minutes, twice the age is the same factor whether it is hours or years, so one power suits any data. On
validation of `history.toml`, nDCG@10 of SLIST is .1407 with it, .1401 with the best of exp(-age / tau) with a
floor, and .1366 without ages. The power and the decay are searched one after the other, from 7 and 13 values,
with the item-item weights that were chosen without ages.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch

from twinspire.protos.toml_config import parse
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import Floats, Pairs, Rows, TrainingData
from twinspire.train.evaluation.exact_search import mask_seen
from twinspire.train.evaluation.intervals import Clusters, clusters_of, within_standard_error
from twinspire.train.metrics import CUTOFFS, OF_LABELS, per_query
from twinspire.train.models.collaborative import ItemWeights

Values = npt.NDArray[np.float64]  # a metric of each query
Ranker = Callable[[Rows], Rows]  # query rows (Q,) -> item rows (Q, K), best first
Scorer = Callable[[Rows], Floats]  # query rows (Q,) -> scores of all items (Q, N)
T = TypeVar("T")

# The budget of a choice.
TUNED_ITEMS = 4_000  # the most popular ones, where a trial takes time with the cube of the items
TUNED_QUERIES, FEWEST_QUERIES = 2_000, 500  # of validation: as many as give `TUNED_SCORES`, within these
TUNED_SCORES = 100_000_000
FEW_USERS = 500  # of validation; with fewer, where the best setting lies is mostly luck
ROUNDS = 3  # in which the fields of some settings climb
OWN = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # weights of an item's own events
USUAL_OWN = 0.3  # where a search begins: with 0, factors that forget all but the last event look best
# Factors on an event for each later step of a history.
DECAYS = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
AGES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2)  # powers of an event's age
_BLOCK, _SCORES = 512, 20_000_000  # queries and scores at a time


@dataclass(frozen=True)
class FittedBaseline:
    """The ranking of a baseline.

    Args:
        settings: what was chosen for it, by name; numbers and texts.
    """

    rank: Ranker
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, queries: Rows) -> Rows:
        """Rank the items for some queries."""
        return self.rank(queries)


class Tuning:
    """Chooses parameters on the validation part of some data.

    The value with the best metric is taken. With fewer users than `FEW_USERS` it is the one nearest to the
    default of those that are within a standard error of the best, as in `lexical_choice.py`.

    Args:
        experiment: with the metric that chooses.
        say: is told what is being tried.
    """

    def __init__(self, experiment: Experiment, data: TrainingData, say: Callable[[str], None]) -> None:
        self.data = data
        self._metric, self._say = selection_metric(experiment), say
        users = clusters_of(data, "validation")
        self._users = users if len(users) else Clusters.single(1, "users")

    def quality(self, score: Scorer) -> Values:
        """(Q,): the metric of scores for each validation query; one 0 where there are none."""
        queries, relevant = self.data.parts["validation"].by_query()
        if not len(queries):
            return np.zeros(1)
        return per_query(rank_by(self.data, score)(queries), relevant)[self._metric]

    def best(self, values: Sequence[T], scorer: Callable[[T], Scorer]) -> T:
        """The value whose scores are best, of all; for a parameter along which quality may rise twice.

        Args:
            values: those nearest to the default first; of equal ones the first is taken.
        """
        return self._chosen({value: self.quality(scorer(value)) for value in values})

    def search(
        self,
        default: T,
        ranges: Sequence[tuple[str, Sequence[Any]]],
        scorer: Callable[[T], Scorer],
    ) -> T:
        """The settings that are best when one field after the other climbs.

        All fields are gone through until none changes, at most `ROUNDS` times.

        Args:
            default: a dataclass with the values to start from.
            ranges: name of a field and its ordered values; a name may occur again.
        """

        @cache
        def quality(tried: T) -> Values:
            self._say(", ".join(f"{name} {value}" for name, value in vars(tried).items()))
            return self.quality(scorer(tried))

        settings = default
        for _ in range(ROUNDS):
            before = settings
            for name, values in ranges:
                along = [_changed(settings, name, value) for value in values]
                usual = _changed(settings, name, getattr(default, name))
                settings = self._climbed(along, settings, usual, quality)
            if settings == before:
                break
        return settings

    def _climbed(self, values: Sequence[T], start: T, default: T, quality: Callable[[T], Values]) -> T:
        """The best of ordered values that steps from `start` reach, up and then down.

        Steps go on over values that are as good as the best so far. A value beyond a worse one is not tried:
        quality rises and falls once with such a parameter, apart from noise.

        Args:
            default: to which the choice leans where there are few users.
        """
        at_place = cache(lambda place: quality(values[place]))
        at, usual = values.index(start), values.index(default)
        for step in (1, -1):
            place = at + step
            while 0 <= place < len(values) and at_place(place).mean() >= at_place(at).mean():
                at = place if at_place(place).mean() > at_place(at).mean() else at
                place += step
        if len(self._users) >= FEW_USERS:
            return values[at]
        step = 1 if usual < at else -1
        return self._chosen({values[place]: at_place(place) for place in range(usual, at + step, step)})

    def _chosen(self, curve: Mapping[T, Values]) -> T:
        """See the class; the values nearest to the default are first."""
        if len(self._users) >= FEW_USERS:
            return max(curve, key=lambda value: float(curve[value].mean()))
        return within_standard_error(curve, self._users)[0]


def _changed(settings: Any, name: str, value: Any) -> Any:
    return replace(settings, **{name: value})


class BaselineFitter:
    """What the baselines of one run are fitted with. What several of them need is computed once.

    Args:
        say: is told what is being done.
        choices: made before on the same split, by name; others are added.
        stored: choices that a run with the same settings, data and code has made, as parsed from JSON.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: TrainingData,
        say: Callable[[str], None] = lambda _: None,
        choices: dict[str, Any] | None = None,
        stored: Mapping[str, Any] | None = None,
    ) -> None:
        self.experiment, self.data, self.say = experiment, data, say
        self.choices: dict[str, Any] = {} if choices is None else choices
        self._stored = stored or {}
        self._made: dict[str, Any] = {}
        self._chooser: BaselineFitter | None = None  # to the data of before a refit, where choices are made

    def _tell(self, text: str) -> None:
        self.say(text)  # read anew at each call: the command replaces it

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` returns, computed at the first call with this name."""
        if name not in self._made:
            self._made[name] = make()
        made: T = self._made[name]
        return made

    def choose(self, name: str, kind: type[T], make: "Callable[[BaselineFitter], T]") -> T:
        """What `make` chooses on validation, at the first call with this name, unless it is stored.

        A stored value is ignored if it does not fit `kind`; else it is trusted, as are the towers, which come
        from the same store.

        Args:
            kind: type of what is chosen: int, float, or a dataclass of these and texts.
            make: gets a fitter to data whose training pairs hold none of validation.
        """
        if name not in self.choices and name in self._stored:
            with suppress(ValueError):
                self.choices[name] = parse(self._stored[name], kind, name)
        if name not in self.choices:
            before = self.data.before_refit
            if self._chooser is None and before is not None:
                self._chooser = BaselineFitter(
                    self.experiment, before, self._tell, self.choices, self._stored
                )
            self.choices[name] = make(self._chooser or self)
        chosen: T = self.choices[name]
        return chosen

    def tuning(self, items: int | None = None, queries: int = TUNED_QUERIES) -> Tuning:
        """Chooses parameters on some of the validation queries, over the most popular items; None for all."""

        def make() -> Tuning:
            data, _ = self.popular(self.data.item_count if items is None else items)
            count = min(queries, max(FEWEST_QUERIES, TUNED_SCORES // data.item_count))
            validation = _of_some_queries(data.parts["validation"].positive(), count)
            fewer = replace(data, parts={**data.parts, "validation": validation})
            return Tuning(self.experiment, fewer, self._tell)

        return self.once(f"tuning on {items} and {queries}", make)

    def popular(self, items: int) -> tuple[TrainingData, Rows]:
        """The data of the items with most training pairs, and the rows (M,) of these in all data, ascending.

        With all items, the data are returned unchanged.
        """
        return self.once(f"the {items} most popular items", lambda: _most_popular(self.data, items))

    def reach(self, most: int) -> dict[str, int]:
        """The settings `items` and `tuned_items` of a method that reads up to `most` items, where these are
        fewer than all.
        """
        reads = {"items": most, "tuned_items": TUNED_ITEMS}
        return {name: count for name, count in reads.items() if count < self.data.item_count}


@dataclass(frozen=True)
class Baseline:
    """A ranking that needs no training by gradient.

    Args:
        name: prefix of its metrics, as in `bm25_ndcg_at_10`.
        applies: whether the data hold what it reads.
        reads: what it reads, for the sentence that says why it does not apply.
    """

    name: str
    label: str
    applies: Callable[[Experiment, TrainingData], bool]
    fit: Callable[[BaselineFitter], FittedBaseline]
    reads: str


def own_range(data: TrainingData) -> list[tuple[str, Sequence[float]]]:
    """The range of a field `own`, the weight of a history's own items; empty where these are no answers."""
    return [] if data.exclude_seen else [("own", OWN)]


def usual_own(data: TrainingData) -> float:
    """The start of that range; 0 where it is empty."""
    return 0.0 if data.exclude_seen else USUAL_OWN


def selection_metric(experiment: Experiment) -> str:
    """The metric that chooses the epoch and the baselines' parameters; nDCG@10 instead of AUC.

    Baselines rank, and do not predict labels.
    """
    selection = experiment.training.selection
    return "ndcg_at_10" if selection in OF_LABELS else selection


def has_histories(experiment: Experiment, data: TrainingData) -> bool:
    """Whether queries have histories."""
    return data.histories is not None


def has_times(experiment: Experiment, data: TrainingData) -> bool:
    """Whether queries have histories and moments."""
    return data.histories is not None and data.moments is not None


def rank_by(data: TrainingData, score: Scorer) -> Ranker:
    """Rank by scores, without the items that a query has seen.

    Items with equal scores are in the order of their training pairs, the most popular first, then of their
    rows: a query without a history, and items that a method has not read, have the score 0.
    """
    priority = np.empty(data.item_count, np.int64)
    priority[np.argsort(-data.counts(), kind="stable")] = np.arange(data.item_count - 1, -1, -1)

    def rank(queries: Rows) -> Rows:
        ranked = np.empty((len(queries), min(max(CUTOFFS), data.item_count)), np.int64)
        block = max(1, min(_BLOCK, _SCORES // data.item_count))
        for at in range(0, len(queries), block):
            rows = queries[at : at + block]
            scores = score(rows)
            mask_seen(torch.from_numpy(scores), data.seen(rows))
            ranked[at : at + block] = _first(scores, ranked.shape[1], priority)
        return ranked

    return rank


def rank_by_scores(data: TrainingData, scores: Floats) -> Ranker:
    """Rank by one score for each item (N,), the same for every query."""
    return rank_by(data, lambda rows: np.tile(scores, (len(rows), 1)))


def most_popular(fitter: BaselineFitter) -> FittedBaseline:
    """The items with most training pairs, the same for every query."""
    return FittedBaseline(rank_by_scores(fitter.data, fitter.data.counts().astype(np.float32)))


def summed(
    data: TrainingData,
    weights: ItemWeights | Floats | scipy.sparse.csr_matrix,
    decay: float = 1.0,
    ages: float = 0.0,
) -> Scorer:
    """Item-item weights, summed over a history.

    Args:
        weights: of some items, or (N, N).
        decay: factor on an event for each later step of the history, see `history_matrix`.
        ages: power of the age of an event, see there.
    """
    if not isinstance(weights, ItemWeights):
        weights = ItemWeights(weights, np.arange(data.item_count))
    return lambda rows: weights.scores(data, rows, decay, ages)


@dataclass(frozen=True)
class EventWeights:
    """What is chosen on validation.

    Args:
        decay: factor on an event for each later step of the history.
        ages: the power of an event's age.
    """

    decay: float
    ages: float = 0.0


def item_baseline(
    name: str,
    label: str,
    weights: Callable[[BaselineFitter], tuple[ItemWeights, Any]],
    named: Callable[[BaselineFitter, Any], Mapping[str, float]] = lambda _, settings: vars(settings),
) -> Baseline:
    """The baseline of some item-item weights, summed over the history.

    Args:
        weights: with what was chosen for them, a `decay` among it, from which the search for that of the
            baseline begins. What mixes a linear model into towers, which know steps alone, uses the first.
        named: what was chosen, by name, as a run logs it.
    """

    def choose(chooser: BaselineFitter) -> EventWeights:
        tuning, (found, settings) = chooser.tuning(), weights(chooser)

        def scorer(tried: EventWeights) -> Scorer:
            return summed(tuning.data, found, tried.decay, tried.ages)

        return tuning.search(EventWeights(settings.decay), [("ages", AGES), ("decay", DECAYS)], scorer)

    def fit(fitter: BaselineFitter) -> FittedBaseline:
        data, (found, settings) = fitter.data, weights(fitter)
        events, shown = EventWeights(settings.decay), {**named(fitter, settings)}
        if data.histories is not None and data.histories.times is not None and data.moments is not None:
            events = fitter.choose(f"{label}, ages", EventWeights, choose)
            shown |= vars(events)
        return FittedBaseline(rank_by(data, summed(data, found, events.decay, events.ages)), shown)

    return Baseline(name, label, has_histories, fit, "histories")


def _first(scores: Floats, k: int, priority: Rows) -> Rows:
    """(Q, k) rows of the largest scores (Q, N), best first; -1 where a score is minus infinity.

    A score and the priority of its row become one integer, which orders equal scores.

    Args:
        priority: int64 (N,), distinct numbers from 0 to N - 1; of equal scores that of the highest is first.
    """
    bits = torch.from_numpy(scores + np.float32(0)).view(torch.int32)  # + 0 turns -0 into 0
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    keys = (ordered << 32) + torch.from_numpy(priority)
    rows = torch.topk(keys, k, dim=1).indices.numpy()
    return np.where(np.isneginf(np.take_along_axis(scores, rows, 1)), -1, rows)


def _most_popular(data: TrainingData, items: int) -> tuple[TrainingData, Rows]:
    """The data with the items that have most training pairs, without test, and the rows of these items.

    The steps of a history keep their numbers, so that weights by distance are chosen on the scale on which
    they are used. Validation queries whose items are all left out are left out.
    """
    histories = data.histories
    if data.item_count <= items or histories is None:
        return data, np.arange(data.item_count)
    rows = np.sort(np.argsort(-data.counts(), kind="stable")[:items])
    new_rows = np.full(data.item_count, -1, np.int64)
    new_rows[rows] = np.arange(items)
    kept = new_rows[histories.run] >= 0
    before = np.concatenate([[0], np.cumsum(kept)])
    steps = np.arange(len(histories.run)) if histories.steps is None else histories.steps
    fewer = replace(
        histories,
        run=new_rows[histories.run[kept]],
        begin=before[histories.begin],
        end=before[histories.end],
        steps=steps[kept],
        times=None if histories.times is None else histories.times[kept],
    )
    parts = {name: _of_items(data.parts[name].positive(), new_rows) for name in ("train", "validation")}
    return replace(data, parts=parts, item_count=items, histories=fewer), rows


def _of_some_queries(pairs: Pairs, count: int) -> Pairs:
    """The pairs of `count` queries, drawn with a seed; of all queries if there are fewer."""
    distinct = np.unique(pairs.query)
    if len(distinct) <= count:
        return pairs
    drawn = np.sort(np.random.default_rng(0).permutation(distinct)[:count])
    return pairs.where(np.isin(pairs.query, drawn))


def _of_items(pairs: Pairs, new_rows: Rows) -> Pairs:
    """The pairs of the items that have a new row (-1 for none)."""
    return pairs.where(new_rows[pairs.item] >= 0).with_rows(new_rows)
