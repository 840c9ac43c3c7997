"""The end of a run on histories: a linear model beside the trained towers, with a weight from validation.

    mixed = mix(trainer, fitting)            towers with `[tower] linear` above 0

The linear model is EASE or SLIST (`train/evaluation/baselines/`). Its item-item weights become `linear`
coordinates on either side, so that the index, the exported graph and the service need nothing new: an inner
product of the longer vectors is the weighted sum of both scores. The towers differ from the baseline in three
ways: recency weights go by position, an item that a history holds twice counts twice, and only `max_length`
items are read. Weights from 0, the towers alone, to 16 are tried on validation. An item that training has not
seen has the towers' coordinates only, so the linear model never stands alone.

Of the weights that are within a standard error of the best, the middle one is taken (after Breiman et al.
1984, section 3.4.3, who prune trees so): the curve is flat around its top, and where in the flat part the
highest point lies is luck. The fewer users validation has, the more weights are close, and the nearer to 1,
where both scores vary equally, is the middle. The error is that of users, whose queries resemble each other.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from protos.features import FIRST_KNOWN
from train.config import Experiment
from train.data.training_data import TrainingData
from train.evaluation.baselines import ease, ease_recency, slist
from train.evaluation.exact_search import mask_seen
from train.evaluation.metrics import CUTOFFS, per_query
from train.evaluation.ranking import Fitting, Floats, selection_metric
from train.models.collaborative import interaction_matrix, position_weights, score_factors
from train.models.placement import beside
from train.models.sequence_encoders import IdEncoder, PoolingEncoder
from train.models.tower_factory import Towers
from train.models.towers import Mixture, Tower
from train.training.trainer import Trainer

Rows = npt.NDArray[np.int64]
Curve = Mapping[float, npt.NDArray[np.float64]]  # weight -> a metric of each query

# Of the linear scores, once both have the same standard deviation; infinity is measured, and not chosen.
WEIGHTS = (0.0, *(2.0 ** (n / 2) for n in range(-8, 9)), math.inf)
LEAST_USERS = 10  # of validation; by fewer the weight is 1
MOST_QUERIES = 5_000  # of validation that are read, drawn with a seed
_BLOCK = 512  # queries at a time
_BASELINES = (ease_recency.BASELINE, slist.BASELINE)
EASE, SLIST = "EASE", "SLIST"  # their labels as linear models


@dataclass(frozen=True)
class Linear:
    """A linear model of histories.

    Args:
        label: its name.
        weights: float32 (N, N), item-item weights.
        decay: factor on an event for each later step of the history.
        settings: what was chosen for it, by name.
    """

    label: str
    weights: Floats
    decay: float
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Mixed:
    """What was chosen.

    Args:
        label: of the linear model.
        weight: of its scores against those of the towers, once both have the same standard deviation; 0 if
            the towers are better alone, which then have no coordinates for it.
        unit: the standard deviation of the towers' scores, divided by that of the linear ones.
        metric: that chose.
        linear: the metric of the linear model alone on validation.
        learned: that of the towers alone.
        mixture: that of the mixture.
        settings: of the linear model.
    """

    label: str
    weight: float
    unit: float
    metric: str
    linear: float
    learned: float
    mixture: float
    settings: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """The choice in words."""
        chosen = f"{self.label} weighs {self.weight:.2g} times the towers" if self.weight else "towers alone"
        return (
            f"mixture, in units of standard deviation: {chosen}; {self.metric} on validation "
            f"{self.mixture:.4f}, towers {self.learned:.4f}, coordinates of {self.label} {self.linear:.4f}"
        )

    def parameters(self) -> dict[str, Any]:
        """What a run logs as parameters."""
        return {"model": self.label, "weight": self.weight, **self.settings}

    def metrics(self) -> dict[str, float]:
        """What a run logs as metrics of validation."""
        named = {"mixture": self.mixture, "mixture_linear": self.linear, "mixture_learned": self.learned}
        return {f"{name}_{self.metric}": value for name, value in named.items()}


def drop_useless_coordinates(towers: Towers, experiment: Experiment, data: TrainingData) -> str:
    """Take the coordinates away if no linear model applies to the data; returns a warning, or `""`."""
    if towers[0].mixture is None or any(each.applies(experiment, data) for each in _BASELINES):
        return ""
    for tower in towers:
        tower.remove_mixture()
    needs = " or ".join(f"{each.label} (needs {each.needs})" for each in _BASELINES)
    return f"tower.linear: the towers get no linear model, because none applies to the data: {needs}"


def mix(trainer: Trainer, fitting: Fitting) -> Mixed | None:
    """Add the best linear model to the towers, and choose its weight on validation.

    Towers to which it adds nothing lose their coordinates for it.

    Args:
        trainer: with the towers of the best epoch.
        fitting: of the baselines of the same run.

    Returns:
        What was chosen; None if the towers have no coordinates for a linear model. Where no linear model
        applies to the data, call `drop_useless_coordinates` first.
    """
    if trainer.towers[0].mixture is None:
        return None
    metric = selection_metric(fitting.experiment)
    tried: list[tuple[Linear, _Curves]] = []
    for model in _models(fitting):
        _place(model, trainer)
        tried.append((model, _Curves(trainer, metric)))
    model, curves = max(tried, key=lambda each: each[1].quality)
    _place(model, trainer)
    weight = curves.chosen
    if weight:
        curves.apply(weight, curves.unit)
    else:
        _remove(trainer)
    ends = {at: float(curves.values[at].mean()) for at in (0.0, math.inf, weight)}
    values = ends[math.inf], ends[0.0], ends[weight]
    return Mixed(model.label, weight, curves.unit, metric, *values, model.settings)


def mix_as(trainer: Trainer, fitting: Fitting, mixed: Mixed | None) -> None:
    """Add a linear model to towers with the weight that was chosen before.

    The unit of the weight stays, too: the new towers have learned the validation queries, so the spread of
    their scores says little about other queries.

    Args:
        trainer: with other towers of the same experiment.
        fitting: to the same training pairs as these towers.
        mixed: what `mix` returned.
    """
    if mixed is None:
        return
    if not mixed.weight:
        _remove(trainer)
        return
    (model,) = _models(fitting, mixed.label)
    _place(model, trainer)
    _Weighting(trainer).apply(mixed.weight, mixed.unit)


def choose_weight(curve: Curve) -> float:
    """Of the weights that are within a standard error of the best, the middle one; 0 if no other is close.

    Args:
        curve: weight -> a metric of each user.
    """
    best = max(curve.values(), key=np.mean)
    if len(best) < LEAST_USERS:
        return 1.0

    def is_close(values: npt.NDArray[np.float64]) -> bool:
        lost = best - values
        return bool(lost.mean() <= lost.std() / len(lost) ** 0.5)

    close = [weight for weight in sorted(curve) if weight and is_close(curve[weight])]
    return close[(len(close) - 1) // 2] if close else 0.0


def _models(fitting: Fitting, label: str = "") -> list[Linear]:
    """The linear models that apply to the data; only the one with a label, if it is given."""
    experiment, data = fitting.experiment, fitting.data
    found = []
    with_ease, with_slist = (
        each.applies(experiment, data) and label in ("", name)
        for each, name in zip(_BASELINES, (EASE, SLIST), strict=True)
    )
    if with_ease:
        decay = ease_recency.decay(fitting)
        settings = {"lambda": ease.strength(fitting), "decay": decay}
        found.append(Linear(EASE, ease.weights(fitting), decay, settings))
    if with_slist:
        weights, chosen = slist.weights(fitting)
        found.append(Linear(SLIST, weights, chosen.decay, slist.named(chosen)))
    return found


def _place(model: Linear, trainer: Trainer) -> None:
    """Set the linear coordinates of both towers to factors of a model."""
    query, item = (_mixture(tower).encoder for tower in trainer.towers)
    assert isinstance(query, PoolingEncoder)
    assert isinstance(item, IdEncoder)
    data, positions = trainer.data, query.age.shape[0]
    rows = trainer.items.arrays[trainer.towers[1].linear_name][:, 0].astype(np.int64)  # of the table
    known = np.flatnonzero(rows >= FIRST_KNOWN)
    factors = score_factors(interaction_matrix(data), model.weights, query.table.shape[1])
    weights = position_weights(data, model.decay, positions)
    with torch.no_grad():
        index = beside(torch.from_numpy(rows[known]), item.table)
        for table, values in zip((query.table, item.table), factors, strict=True):
            table[index] = beside(torch.from_numpy(values[known]), table)
        query.age[:] = torch.from_numpy(np.log(np.maximum(weights, 1e-12)))


def _remove(trainer: Trainer) -> None:
    """Take the coordinates for a linear model away from both towers."""
    for tower in trainer.towers:
        tower.remove_mixture()
    trainer.clear_cached_vectors()
    trainer.item_vectors()  # which fits the radius of the inner product


def _mixture(tower: Tower) -> Mixture:
    assert tower.mixture is not None
    return tower.mixture


class _Weighting:
    """Sets the weight of the linear model that the towers hold now.

    Args:
        trainer: with the towers.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        encoder = _mixture(trainer.towers[0]).encoder
        assert isinstance(encoder, PoolingEncoder)
        self._width = encoder.table.shape[1]
        queries, relevant = trainer.data.parts["validation"].by_query()
        drawn = np.sort(np.random.default_rng(0).permutation(len(queries))[:MOST_QUERIES])
        self._queries, self._relevant = queries[drawn], [relevant[n] for n in drawn]
        self._set((1.0, 1.0), (1.0, 1.0))
        self._items, self._vectors = trainer.item_vectors(), trainer.query_vectors(self._queries)
        self._lengths = [self._parts_of(self._vectors), self._parts_of(self._items)]

    def apply(self, weight: float, unit: float) -> None:
        """Set the weights of both towers.

        The product of both sides is what counts for scores. For the graph of the index, which compares
        items with each other, each part is as large beside the other on the items' side as on the queries'.

        Args:
            weight: of the linear scores, in units of standard deviation.
            unit: that unit.
        """
        linear, own = _weights(weight * unit)
        scale = 1.0
        if linear and own:
            (query_linear, query_own), (item_linear, item_own) = self._lengths
            scale = (linear * query_linear * item_own / max(1e-12, item_linear * query_own)) ** 0.5
        self._set((linear / (scale or 1.0), own), (scale if linear else 0.0, own))
        self._trainer.item_vectors()  # which fits the radius of the inner product

    def _set(self, query: tuple[float, float], item: tuple[float, float]) -> None:
        for tower, weights in zip(self._trainer.towers, (query, item), strict=True):
            _mixture(tower).set_weights(*weights)
        self._trainer.clear_cached_vectors()

    def _parts_of(self, vectors: Tensor) -> tuple[float, float]:
        """Mean length of the linear part and of the other."""
        linear, own = vectors[:, : self._width], vectors[:, self._width : -1]
        return float(linear.norm(dim=1).mean()), float(own.norm(dim=1).mean())

    def _ratio(self, vectors: Tensor, items: Tensor) -> float:
        """The standard deviation over the items of the towers' scores by that of the linear model's.

        1 if the towers' scores do not vary: then any weight ranks as the linear model does.
        """
        some = vectors[:1000]
        linear = some[:, : self._width] @ items[:, : self._width].T
        own = some[:, self._width :] @ items[:, self._width :].T
        return float(own.std(dim=1).mean()) / max(1e-12, float(linear.std(dim=1).mean())) or 1.0


class _Curves(_Weighting):
    """The quality of all weights on validation, for the linear model that the towers hold now.

    Args:
        trainer: with the towers.
        metric: of the ranking.

    Attributes:
        unit: the standard deviation of the towers' scores, divided by that of the linear model's.
        values: weight -> the metric of each user, the mean over the user's queries.
    """

    def __init__(self, trainer: Trainer, metric: str) -> None:
        super().__init__(trainer)
        self.unit = self._ratio(self._vectors, self._items)
        ranked = self._ranked(self._vectors, self._items, trainer.data.seen(self._queries))
        users = _users(trainer, self._queries)
        self.values = {
            weight: np.bincount(users, per_query(rows, self._relevant)[metric]) / np.bincount(users)
            for weight, rows in ranked.items()
        }

    def _ranked(self, vectors: Tensor, items: Tensor, seen: list[Rows]) -> dict[float, Rows]:
        """Weight -> (Q, K) item rows, best first; the scores of both parts are computed once."""
        k, width = min(max(CUTOFFS), len(items)), self._width
        found: dict[float, list[Tensor]] = {weight: [] for weight in WEIGHTS}
        for at in range(0, len(vectors), _BLOCK):
            some = vectors[at : at + _BLOCK]
            linear, own = some[:, :width] @ items[:, :width].T, some[:, width:] @ items[:, width:].T
            for weight, blocks in found.items():
                factor, own_factor = _weights(weight * self.unit)
                scores = factor * linear + own_factor * own
                mask_seen(scores, seen[at : at + _BLOCK])
                best = torch.topk(scores, k, dim=1)
                blocks.append(best.indices.masked_fill(best.values.isneginf(), -1))
        return {weight: torch.cat(blocks).cpu().numpy() for weight, blocks in found.items()}

    @property
    def chosen(self) -> float:
        """The weight that is taken."""
        return choose_weight({weight: each for weight, each in self.values.items() if weight < math.inf})

    @property
    def quality(self) -> float:
        """The mean of the metric at that weight."""
        return float(self.values[self.chosen].mean())


def _users(trainer: Trainer, queries: Rows) -> Rows:
    """The number of the user of each query (Q,) of validation, from 0 on; each its own if none is known."""
    pairs = trainer.data.parts["validation"].positive()
    if pairs.user is None:
        return np.arange(len(queries))
    _, first = np.unique(pairs.query, return_index=True)
    at = first[np.searchsorted(np.unique(pairs.query), queries)]
    return np.unique(pairs.user[at], return_inverse=True)[1]


def _weights(weight: float) -> tuple[float, float]:
    """Weights of the linear part and of the other."""
    return (1.0, 0.0) if math.isinf(weight) else (weight, 1.0)
