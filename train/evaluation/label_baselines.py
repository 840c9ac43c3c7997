"""Baselines that predict labels, fitted on the training pairs and tuned on the validation pairs.

| name            | what it is                                                                     |
|-----------------|--------------------------------------------------------------------------------|
| `base_rate`     | the share of positives in training                                             |
| `itemmean`      | each item's share of positives, drawn to the share of all                      |
| `user_item`     | log-odds of the item, plus the user's mean residual, drawn to zero             |
| `user_item_knn` | the same, plus item-kNN of the residuals of the pair's history                 |

`user_item` reads the histories of the towers, where these read positive and negative ones
(`label_means.py`). `user_item_knn` also reads which items are in them (`label_neighbours.py`). To add a
baseline, add a `LabelBaseline` to `LABEL_BASELINES`, and its name to `train/config/baselines.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from twinspire.train.config import Experiment
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.label_means import (
    FittedLabels,
    histories_of,
    item_means,
    user_item,
)
from twinspire.train.evaluation.label_neighbours import item_neighbours


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
