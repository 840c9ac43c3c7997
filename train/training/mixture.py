"""The end of a run on histories: a linear model beside the trained towers, with a weight from validation.

    mixed = mix(trainer, fitter)            towers with `[tower] linear` above 0

The linear model is EASE or SLIST (`train/evaluation/baselines/`), or item-kNN where EASE leaves items out.
Its item-item weights are factorised at a rank of `linear`, and the factors become coordinates on either side.
So the index, the exported graph and the service need nothing new: an inner product of the longer vectors is
the weighted sum of both scores. The towers differ from the baseline in three ways: weights of events go by
position, and by no age; an item that a history holds twice counts twice; and only `max_length` items are
read. An item that training has not seen has the towers' coordinates only, so the linear model never stands
alone. `part_weights.py` chooses the weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from twinspire.protos.features import FIRST_KNOWN
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.baselines import ease, itemknn, slist
from twinspire.train.evaluation.ranking import BaselineFitter, selection_metric
from twinspire.train.models.collaborative import (
    ItemWeights,
    interaction_matrix,
    position_weights,
    score_factors,
)
from twinspire.train.models.placement import to_device_of
from twinspire.train.models.sequence_encoders import IdEncoder, PoolingEncoder
from twinspire.train.models.tower_factory import Towers
from twinspire.train.models.towers import Part
from twinspire.train.training.part_weights import ChosenPart, WeightCurves, part_of
from twinspire.train.training.trainer import Trainer

PART: Part = "mixture"  # of the towers' coordinates
_BASELINES = (ease.RECENCY, slist.BASELINE)
EASE, SLIST, ITEM_KNN = "EASE", "SLIST", "item-kNN"  # labels as linear models


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
        tower.remove(PART)
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
    for model in _models(fitter):
        _place(model, trainer)
        tried.append((model, WeightCurves(trainer, PART, metric)))
    model, curves = max(tried, key=lambda each: each[1].quality)
    _place(model, trainer)
    chosen = curves.choice(model.label, model.settings)
    chosen.apply(trainer)
    return chosen


def mix_as(trainer: Trainer, fitter: BaselineFitter, mixed: ChosenPart | None) -> None:
    """Add a linear model to other towers of the same experiment with the weight that was chosen before.

    Args:
        fitter: to the same training pairs as these towers.
        mixed: what `mix` returned.
    """
    if mixed is None:
        return
    if mixed.weight:
        (model,) = _models(fitter, mixed.label)
        _place(model, trainer)
    mixed.apply(trainer)


def _models(fitter: BaselineFitter, label: str = "") -> list[Linear]:
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


def _place(model: Linear, trainer: Trainer) -> None:
    """Set the linear coordinates of both towers to factors of a model."""
    query, item = (part_of(tower, PART).encoder for tower in trainer.towers)
    assert isinstance(query, PoolingEncoder)
    assert isinstance(item, IdEncoder)
    data, positions, linear = trainer.data, query.age.shape[0], model.weights
    of_items = trainer.items.arrays[part_of(trainer.towers[1], PART).feature]
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
