"""Baselines that predict labels, fitted on the training pairs and tuned on the validation pairs.

| name            | what it is                                                                     |
|-----------------|--------------------------------------------------------------------------------|
| `base_rate`     | the share of positives in training                                             |
| `itemmean`      | each item's share of positives, drawn to the share of all                      |
| `user_item`     | log-odds of the item, plus the user's mean residual, drawn to zero             |
| `user_item_knn` | the same, plus item-kNN of the residuals of the pair's history                 |
| `hashed_lr`     | logistic regression over hashed features of query and item, with their ids     |

`user_item` reads the histories of the towers, where these read positive and negative ones
(`label_means.py`). `user_item_knn` also reads which items are in them (`label_neighbours.py`). `hashed_lr`
reads the user's id and no history. To add a baseline, add a `LabelBaseline` to `LABEL_BASELINES`, and its
name to `LABEL_BASELINE_NAMES` of `train/config/baselines.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.protos.features import FeatureSpec, HistoryFeature, NumberFeature, TextFeature
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import Pairs, TrainingData
from twinspire.train.evaluation.label_means import (
    FittedLabels,
    Predict,
    best_on_validation,
    item_means,
    user_item,
)
from twinspire.train.evaluation.label_neighbours import histories_of, item_neighbours

Rows = npt.NDArray[np.int64]

STRENGTHS = (0.1, 0.3, 1.0, 3.0)  # C of logistic regression, the inverse of the penalty
HASHED = 1 << 18  # columns
QUANTILES = 10  # of a number, each one feature


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
    """Name -> predictions of each baseline that applies to the towers, and that `[baselines] run` allows.

    Item means stand beside every model of labelled pairs, the others beside a predicted probability.
    """
    found = [each for each in LABEL_BASELINES if experiment.baselines.measures(each.name)]
    if not experiment.tower.predicts_probability:
        found = [each for each in found if each.name == "itemmean"]
    if not histories_of(experiment.query, data):
        found = [each for each in found if not each.reads_histories]
    return {each.name: each.fit(experiment, data) for each in found}


def labels_needed(experiment: Experiment, data: TrainingData) -> dict[str, str]:
    """Name -> what it needs, of each baseline that does not apply to these towers and data."""
    names = [each.name for each in LABEL_BASELINES]
    if not data.parts["test"].has_both_labels:
        return dict.fromkeys(names, "positive and negative pairs in the test part")
    if experiment.tower.predicts_probability:
        without = not histories_of(experiment.query, data)
        return {each.name: "histories" for each in LABEL_BASELINES if each.reads_histories and without}
    needs = 'towers that predict a probability: tower.kind = "clicks"'
    return {name: needs for name in names if name != "itemmean"}


def _base_rate(experiment: Experiment, data: TrainingData) -> FittedLabels:
    share = float(data.parts["train"].is_positive.mean())
    return FittedLabels(lambda pairs: np.full(len(pairs), share), {})


def _hashed_lr(experiment: Experiment, data: TrainingData) -> FittedLabels:
    from sklearn.linear_model import LogisticRegression  # its import takes a second

    features = _HashedFeatures(experiment, data)
    train = data.parts["train"]
    matrix, labels = features(train), train.is_positive
    columns = np.unique(matrix.indices)  # the weights of others stay 0, and would take most of the time
    matrix = matrix[:, columns]

    def fit(C: float) -> Predict:
        model = LogisticRegression(C=C, max_iter=300).fit(matrix, labels)
        return lambda pairs: np.asarray(model.predict_proba(features(pairs)[:, columns])[:, 1])

    return best_on_validation(data, {"C": STRENGTHS}, fit)


class _HashedFeatures:
    """`name=value` of each feature of query and item, the item's id and the user's, hashed."""

    def __init__(self, experiment: Experiment, data: TrainingData) -> None:
        from sklearn.feature_extraction import FeatureHasher

        self._hasher = FeatureHasher(HASHED, input_type="string")
        train = data.parts["train"]
        self._query = _tokens("query", experiment.query, data.queries, data.query_count, train.query)
        self._item = _tokens("item", experiment.item, data.items, data.item_count, train.item)
        self._ids = data.item_ids

    def __call__(self, pairs: Pairs) -> Any:
        """(P, HASHED), CSR."""
        users = ["" for _ in pairs.query] if pairs.user is None else [f"user={each}" for each in pairs.user]
        rows = (
            [*self._query[query], *self._item[item], f"id={self._ids[item]}", *([user] if user else [])]
            for query, item, user in zip(pairs.query, pairs.item, users, strict=True)
        )
        return self._hasher.transform(rows)


def _tokens(
    side: str,
    features: Mapping[str, FeatureSpec],
    values: Mapping[str, Sequence[Any]],
    count: int,
    trained: Rows,
) -> list[list[str]]:
    """For each record its features as strings; histories are left out.

    Args:
        trained: records of training pairs, whose numbers give the quantiles.
    """
    rows: list[list[str]] = [[] for _ in range(count)]
    for name, spec in features.items():
        if isinstance(spec, HistoryFeature) or spec.kind == "id":
            continue
        column = values[name]
        if isinstance(spec, NumberFeature):
            column = _quantiles(column, np.unique(trained))
        for row, value in zip(rows, column, strict=True):
            several = value.lower().split() if isinstance(spec, TextFeature) else value
            listed = several if isinstance(several, list | tuple) else [several]
            row += [f"{side}.{name}={each}" for each in listed]
    return rows


def _quantiles(values: Sequence[Any], trained: Rows) -> list[int | None]:
    known = np.array([values[row] for row in trained if values[row] is not None], np.float64)
    edges = np.quantile(known, np.linspace(0, 1, QUANTILES + 1)[1:-1]) if len(known) else np.empty(0)
    return [None if each is None else int(np.searchsorted(edges, each)) for each in values]


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
    LabelBaseline("hashed_lr", "hashed logistic regression", _hashed_lr),
)
