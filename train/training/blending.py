"""The end of a run on histories: other models beside the trained towers, each with a weight from validation.

    mixed = mix(trainer, fitter)                               towers with `[tower] linear` above 0
    recent = add_recent_popularity(trainer, "ndcg_at_10")      towers with `[tower] recent_popularity` above 0

The towers learn without these coordinates, and `part_weights.py` chooses their weight. The index, the
exported graph and the service need nothing new: an inner product of the longer vectors is the weighted sum of
all scores.

The linear model is EASE or SLIST (`train/evaluation/baselines/`), or item-kNN where EASE leaves items out.
Its item-item weights are factorised at a rank of `linear`, and the factors become coordinates on either side.
The towers differ from the baseline in three ways: weights of events go by position, and by no age; an item
that a history holds twice counts twice; and only `max_length` items are read. An item that training has not
seen has the towers' coordinates only, so the linear model never stands alone.

Recent popularity is what was popular before a query, whose time it needs; `train/models/recent_popularity.py`
says what the coordinates are. Their form and half-life are those of the best nDCG@100, each with its weight;
a form is taken before the next if one of its half-lives is within a standard error of the best. (A weight
that training learned was too low on `online-retail`, as the query tower learns from the same events what
sells in which month.)
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twinspire.protos.features import FIRST_KNOWN
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import Rows, TrainingData
from twinspire.train.evaluation.baselines import ease, itemknn, slist
from twinspire.train.evaluation.intervals import Clusters, within_standard_error
from twinspire.train.evaluation.ranking import BaselineFitter, selection_metric
from twinspire.train.metrics import Floats
from twinspire.train.models.collaborative import (
    ItemWeights,
    interaction_matrix,
    position_weights,
    score_factors,
)
from twinspire.train.models.placement import to_device_of
from twinspire.train.models.recent_popularity import FORMS, EventsByPeriod, Form, PeriodEncoder
from twinspire.train.models.sequence_encoders import IdEncoder, PoolingEncoder
from twinspire.train.models.tower_factory import Towers
from twinspire.train.models.towers import Part
from twinspire.train.training.part_weights import ChosenPart, WeightCurves, part_of
from twinspire.train.training.trainer import Trainer

# Of the towers' coordinates.
LINEAR: Part = "mixture"
RECENT: Part = "recent"
_BASELINES = (ease.RECENCY, slist.BASELINE)
EASE, SLIST, ITEM_KNN = "EASE", "SLIST", "item-kNN"  # labels as linear models
HALF_LIVES = (1.0, 2.0, 4.0, 7.0, 14.0, 30.0, 60.0)  # days
_Kind = tuple[Form, float]  # of recent popularity, and half-life
DEFAULT_WEIGHT = (
    0.25  # of recent popularity with too few users in validation; else the nearest close one is taken
)


@dataclass(frozen=True)
class Linear:
    """A linear model of histories.

    Args:
        decay: factor on an event for each later step of the history.
    """

    label: str
    weights: ItemWeights
    decay: float
    settings: Mapping[str, Any]


def drop_useless_coordinates(towers: Towers, experiment: Experiment, data: TrainingData) -> str:
    """Take the coordinates away if no linear model applies to the data; returns a warning, or `""`."""
    if towers[0].mixture is None or any(each.applies(experiment, data) for each in _BASELINES):
        return ""
    for tower in towers:
        tower.remove(LINEAR)
    needs = " or ".join(f"{each.label} (needs {each.reads})" for each in _BASELINES)
    return f"tower.linear: the towers get no linear model, because none applies to the data: {needs}"


def mix(trainer: Trainer, fitter: BaselineFitter) -> ChosenPart | None:
    """Add the best linear model to the towers, and choose its weight on validation.

    Towers to which it adds nothing lose their coordinates for it.

    Args:
        trainer: with the towers of the best epoch.

    Returns:
        What was chosen; None if the towers have no coordinates for a linear model. Where no linear model
        applies to the data, call `drop_useless_coordinates` first.
    """
    if trainer.towers[0].mixture is None:
        return None
    metric = selection_metric(fitter.experiment)
    tried: list[tuple[Linear, WeightCurves]] = []
    for model in _linear_models(fitter):
        _place_linear(model, trainer)
        tried.append((model, WeightCurves(trainer, LINEAR, metric)))
    model, curves = max(tried, key=lambda each: each[1].quality)
    _place_linear(model, trainer)
    chosen = curves.choice(model.label, model.settings)
    chosen.apply(trainer)
    return chosen


def _linear_models(fitter: BaselineFitter, label: str = "") -> list[Linear]:
    """The linear models that apply to the data; only the one with a label, if it is given."""
    experiment, data = fitter.experiment, fitter.data
    found = []
    with_ease, with_slist = (
        each.applies(experiment, data) and label in ("", name)
        for each, name in zip(_BASELINES, (EASE, SLIST), strict=True)
    )
    if with_ease:
        weights, chosen = ease.recency_weights(fitter)
        found.append(Linear(EASE, weights, chosen.decay, ease.named(fitter) | vars(chosen)))
    if with_slist:
        weights, of_slist = slist.weights(fitter)
        found.append(Linear(SLIST, weights, of_slist.decay, slist.named(fitter, of_slist)))
    if label == ITEM_KNN or (not label and with_ease and data.item_count > ease.LARGEST):
        weights, of_knn = itemknn.weights(fitter)
        found.append(Linear(ITEM_KNN, weights, of_knn.decay, vars(of_knn)))
    return found


def _place_linear(model: Linear, trainer: Trainer) -> None:
    """Set the linear coordinates of both towers to factors of a model."""
    query, item = (part_of(tower, LINEAR).encoder for tower in trainer.towers)
    assert isinstance(query, PoolingEncoder)
    assert isinstance(item, IdEncoder)
    data, positions, linear = trainer.data, query.age.shape[0], model.weights
    of_items = trainer.items.arrays[part_of(trainer.towers[1], LINEAR).feature]
    rows = of_items[linear.rows, 0].astype(np.int64)  # of the table
    known = np.flatnonzero(rows >= FIRST_KNOWN)
    matrix = interaction_matrix(data)[:, linear.rows]
    factors = score_factors(matrix, linear.values, query.table.shape[1], linear.own)
    weights = position_weights(data, model.decay, positions)
    with torch.no_grad():
        query.table.zero_()
        item.table.zero_()
        index = to_device_of(rows[known], item.table)
        for table, values in zip((query.table, item.table), factors, strict=True):
            table[index] = to_device_of(values[known], table)
        query.age[:] = torch.from_numpy(np.log(np.maximum(weights, 1e-12)))


def add_recent_popularity(trainer: Trainer, metric: str) -> ChosenPart | None:
    """Add recent popularity to the towers, and choose form, half-life and weight on validation.

    Towers to which it adds nothing lose their coordinates for it.

    Args:
        trainer: with the towers of the best epoch, and with a linear model where they have one.
        metric: of the ranking, that is shown.

    Returns:
        What was chosen; None if the towers have no coordinates for it.
    """
    if trainer.towers[0].recent is None:
        return None
    events, tried = _events(trainer), dict[_Kind, WeightCurves]()
    first, *others = itertools.product(FORMS, HALF_LIVES)
    _place_popularity(events, first, trainer)
    tried[first] = WeightCurves(trainer, RECENT, metric, DEFAULT_WEIGHT)
    for kind in others:
        _place_popularity(events, kind, trainer)
        tried[kind] = tried[first].with_coordinates(*_coordinates(trainer, tried[first].queries))
    form, days = kind = _best_kind({each: curves.values[curves.chosen] for each, curves in tried.items()})
    chosen = tried[kind].choice("recent popularity", {"form": form, "half_life_days": days})
    _place_popularity(events, kind, trainer)
    chosen.apply(trainer)
    return chosen


def add_as_chosen(trainer: Trainer, fitter: BaselineFitter, added: Iterable[ChosenPart]) -> None:
    """Add parts to other towers of the same experiment, with the weights that were chosen before.

    Args:
        fitter: to the same training pairs as these towers.
        added: what `mix` and `add_recent_popularity` returned, in this order.
    """
    for chosen in added:
        if chosen.weight and chosen.part == LINEAR:
            (model,) = _linear_models(fitter, chosen.label)
            _place_linear(model, trainer)
        elif chosen.weight:
            kind = chosen.settings["form"], chosen.settings["half_life_days"]
            _place_popularity(_events(trainer), kind, trainer)
        chosen.apply(trainer)


def _best_kind(values: Mapping[_Kind, Floats]) -> _Kind:
    """The best kind of the first form that has one within a standard error of the best.

    Args:
        values: kind -> nDCG@100 of each user.
    """
    close = within_standard_error(values, Clusters.single(len(next(iter(values.values()))), "users"))
    return max(close, key=lambda kind: (-FORMS.index(kind[0]), values[kind].mean()))


def _events(trainer: Trainer) -> EventsByPeriod:
    """The positive training events, by the rows of the items."""
    data = trainer.data
    train = data.some_pairs
    assert train.time is not None  # as the time of a query needs
    return EventsByPeriod(train.time, train.item, data.item_count)


def _place_popularity(events: EventsByPeriod, kind: _Kind, trainer: Trainer) -> None:
    """Set the coordinates of both towers, as yet without their weight."""
    periods, items = (part_of(tower, RECENT).encoder for tower in trainer.towers)
    assert isinstance(periods, PeriodEncoder)
    assert isinstance(items, IdEncoder)
    rows = _rows_of_items(trainer)[:, 0]
    known = np.flatnonzero(rows >= FIRST_KNOWN)
    of_periods, of_items = events.factors(*kind, periods.table.shape[1])
    with torch.no_grad():
        periods.begins.copy_(torch.from_numpy(events.begins))
        periods.table.copy_(torch.from_numpy(of_periods))
        index = to_device_of(rows[known], items.table)
        items.table[index] = to_device_of(of_items[known].astype(np.float32), items.table)


def _coordinates(trainer: Trainer, queries: Rows) -> tuple[Tensor, Tensor]:
    """Those of some queries (Q, K) and of all items (N, K)."""
    place, feature = trainer.process.place, part_of(trainer.towers[0], RECENT).feature
    given = (trainer.queries.arrays[feature][queries], _rows_of_items(trainer))
    with torch.inference_mode():
        asked, offered = (
            part_of(tower, RECENT).encoder(place(torch.from_numpy(rows)))
            for tower, rows in zip(trainer.towers, given, strict=True)
        )
    return asked, offered


def _rows_of_items(trainer: Trainer) -> Rows:
    """int64 (N, 1): the items in the table of the item tower."""
    return trainer.items.arrays[part_of(trainer.towers[1], RECENT).feature].astype(np.int64)
