"""The end of a run of click towers: an additive model of labels beside them, with a weight from validation.

    chosen = add_additive_model(trainer, experiment)      towers with `[tower] additive`

The logits become (1 - w) * those of the towers + w * those of the model. In an additive model each value adds
a number of its own to the logit, so the query's numbers and the item's are parts of the biases b_u and b_v,
and the vectors get no further coordinates. There are two such models:

    means      user and item means of labels (`train/evaluation/label_means.py`), if queries have histories of
               both kinds and items have ids
    logistic   logistic regression over the categories of both sides and the item's id

The one whose own log loss on validation is lower is taken. On most logs towers and model together are better
than either (`train/RESULTS.md`). Of the weights within a standard error of the best, whose loss is no higher
than at 0, the one nearest to `DEFAULT_WEIGHT` is taken, for the reason that `part_weights.py` gives.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.special
import torch

from twinspire.protos.features import FIRST_KNOWN, FeatureSpec, HistoryFeature, IdFeature
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import Pairs
from twinspire.train.evaluation.calibration import FEWEST
from twinspire.train.evaluation.exact_search import blocks_of_like_length
from twinspire.train.evaluation.intervals import Clusters, pair_clusters_of, within_standard_error
from twinspire.train.evaluation.label_baselines import STRENGTHS
from twinspire.train.evaluation.label_means import Floats, both_histories, user_item_means
from twinspire.train.evaluation.labelled_metrics import pair_losses
from twinspire.train.metrics import OF_LABELS
from twinspire.train.models.clicks import ADDITIVE, AdditivePart, ClickTower
from twinspire.train.models.heads import LogisticHead
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.training.part_weights import MIN_USERS
from twinspire.train.training.trainer import Trainer

Rows = npt.NDArray[np.int64]

WEIGHTS = tuple(n / 20 for n in range(19))  # 1 would leave nothing of the vectors to rank by
# Set on eleven overlapping logs of the same people, also by their test parts: from .5 to .8 the mean log loss
# on test differs by .0005.
DEFAULT_WEIGHT = 0.65


@dataclass(frozen=True)
class Additive:
    """What was chosen.

    Args:
        kind: `means` or `logistic`.
        weight: of the model, 0 to .9; with 0 the towers stay as they were.
        before: log loss on validation of the towers alone.
        after: that with the model.
    """

    kind: str
    weight: float
    settings: Mapping[str, Any]
    before: float
    after: float

    def line(self) -> str:
        """The choice in words."""
        name = {"means": "user and item means of labels", "logistic": "logistic regression"}[self.kind]
        chosen = f"{self.weight:g} of the logits" if self.weight else "left out"
        return (
            f"{name} beside the towers: {chosen}; log loss on validation {self.after:.4f}, without it "
            f"{self.before:.4f}"
        )

    def parameters(self) -> Mapping[str, Any]:
        """What a run logs as parameters."""
        return {"kind": self.kind, "weight": self.weight, **self.settings}

    def metrics(self) -> dict[str, float]:
        """What a run logs as metrics of validation."""
        return {"additive_log_loss": self.after}


@dataclass(frozen=True)
class _Model:
    """A fitted additive model.

    Args:
        tables: for each side, name of a feature -> (V,), the number of each value.
    """

    kind: str
    settings: Mapping[str, Any]
    constant: float
    tables: tuple[Mapping[str, Floats], Mapping[str, Floats]]
    smoothing: float = 1.0


def add_additive_model(trainer: Trainer, experiment: Experiment) -> Additive | None:
    """Mix the biases of the towers with an additive model, and choose model and weight on validation.

    Args:
        trainer: with the towers of the best epoch, not yet calibrated.

    Returns:
        What was chosen; None if the towers have no place for a model, one label is too rare, or the epochs
        are not selected by a metric of labels.
    """
    parts = tuple(tower.additive for tower in trainer.towers if isinstance(tower, ClickTower))
    query, item = parts if len(parts) == 2 else (None, None)
    if query is None or item is None:
        return None
    pairs = trainer.data.parts["validation"]
    labels = pairs.is_positive
    models: list[_Model] = []
    is_wanted = trainer.config.selection in OF_LABELS and trainer.data.parts["train"].has_both_labels
    if is_wanted and min(labels.sum(), (~labels).sum()) >= FEWEST:
        models = [*_models(trainer, experiment, query, item)]
    if not models:
        _remove(trainer)
        return None

    def loss(logits: Floats) -> Floats:
        return pair_losses(labels, scipy.special.expit(logits))

    # By the vocabularies of the towers, which may lack items, so that the loss is that of the served model.
    all_logits = [_logits(trainer, model, query, item, pairs) for model in models]
    model, of_model = min(zip(models, all_logits, strict=True), key=lambda each: float(loss(each[1]).mean()))
    of_towers = trainer.inner_products(pairs).astype(np.float64) + trainer.towers[0].head.score().bias
    losses = {weight: loss((1 - weight) * of_towers + weight * of_model) for weight in WEIGHTS}
    weight = choose_weight(losses, pair_clusters_of(trainer.data, "validation"))
    before, after = float(losses[0.0].mean()), float(losses[weight].mean())
    if weight:
        _apply(trainer, model, weight, query, item)
    else:
        _remove(trainer)
    return Additive(model.kind, weight, model.settings, before, after)


def choose_weight(losses: Mapping[float, npt.NDArray[Any]], clusters: Clusters) -> float:
    """Of the weights that are within a standard error of the best, the one nearest to the default.

    With fewer than `MIN_USERS` users it is the default. No weight is taken at which the loss is higher than
    at 0.

    Args:
        losses: weight -> the log loss of each pair.
        clusters: of the pairs: their users, where they are known.
    """
    useful = {weight for weight, each in losses.items() if each.mean() <= losses[0.0].mean()}
    if len(clusters) < MIN_USERS:
        return DEFAULT_WEIGHT if DEFAULT_WEIGHT in useful else 0.0
    curve = {weight: np.asarray(-each, np.float64) for weight, each in losses.items()}
    close = useful & {*within_standard_error(curve, clusters)}
    return min(close, key=lambda weight: abs(weight - DEFAULT_WEIGHT))


def _models(
    trainer: Trainer, experiment: Experiment, query: AdditivePart, item: AdditivePart
) -> Iterator[_Model]:
    """The models for which the towers have tables."""
    ids = [name for name, spec in experiment.item.items() if isinstance(spec, IdFeature)]
    if len(query.history_tables) and ids and both_histories(experiment.query, trainer.data):
        yield _means(trainer, experiment.query, ids[0], len(item.value_tables[ids[0]]))
    if len(query.value_tables) or len(item.value_tables):
        yield _logistic(trainer, query, item)


def _means(trainer: Trainer, features: Mapping[str, FeatureSpec], id_name: str, size: int) -> _Model:
    """User and item means; the residual of an event is multiplied by their factor already."""
    means = user_item_means(features, trainer.data, as_read=True)
    rows = trainer.items.arrays[id_name][:, 0].astype(np.int64)
    known = rows >= FIRST_KNOWN
    constant = float(scipy.special.logit(means.positive_rate))

    def table(values: Floats) -> Floats:
        of_rows = np.zeros(size)
        of_rows[rows[known]] = values[known]
        return of_rows

    residuals = {
        name: table(means.factor * (float(spec.kind == "history") - means.shares))
        for name, spec in features.items()
        if isinstance(spec, HistoryFeature)
    }
    log_odds = {id_name: table(scipy.special.logit(means.shares) - constant)}
    settings = {name: getattr(means, name) for name in ("item_smoothing", "smoothing", "factor")}
    return _Model("means", settings, constant, (residuals, log_odds), means.smoothing)


def _logistic(trainer: Trainer, query: AdditivePart, item: AdditivePart) -> _Model:
    """Logistic regression with the L2 penalty that is best on validation."""
    from sklearn.linear_model import LogisticRegression  # its import takes a second

    of_query, of_item = _one_hot(trainer.queries, query), _one_hot(trainer.items, item)

    def matrix(pairs: Pairs) -> Any:
        return scipy.sparse.hstack([of_query[pairs.query], of_item[pairs.item]], format="csr")

    train, validation = trainer.data.parts["train"], trainer.data.parts["validation"]
    given, asked = matrix(train), matrix(validation)
    tried = []
    for strength in STRENGTHS:
        fitted = LogisticRegression(C=strength, max_iter=300).fit(given, train.is_positive)
        loss = pair_losses(validation.is_positive, fitted.predict_proba(asked)[:, 1].astype(np.float64))
        tried.append((float(loss.mean()), strength, fitted))
    _, strength, fitted = min(tried, key=lambda each: each[0])
    left = fitted.coef_[0].astype(np.float64)
    tables: list[dict[str, Floats]] = []
    for part in (query, item):
        tables.append({})
        for name, table in part.value_tables.items():
            tables[-1][name], left = left[: len(table)], left[len(table) :]
    return _Model("logistic", {"C": strength}, float(fitted.intercept_[0]), (tables[0], tables[1]))


def _one_hot(records: PreparedInputs, part: AdditivePart) -> Any:
    """(number of records, sum of V), CSR: how often a record has each known value of each feature."""
    blocks = [scipy.sparse.csr_matrix((len(records), 0))]
    for name, table in part.value_tables.items():
        rows = records.arrays[name].astype(np.int64)
        record, column = np.nonzero(rows >= FIRST_KNOWN)
        cells = (np.ones(len(record)), (record, rows[record, column]))
        blocks.append(scipy.sparse.csr_matrix(cells, shape=(len(records), len(table))))
    return scipy.sparse.hstack(blocks, format="csr")


def _apply(trainer: Trainer, model: _Model, weight: float, query: AdditivePart, item: AdditivePart) -> None:
    """Set the parts of both towers, and the weight of the model."""
    head = trainer.towers[0].head
    assert isinstance(head, LogisticHead)
    _fill(model, query, item)
    with torch.no_grad():
        for part in (query, item):
            part.model_factors[part.bias_index] = weight
        # The head multiplies b_u and b_v by learned numbers, which must not change the model.
        of_query, of_item = head.weight[-2:].tolist()
        head.weight[-2:] = 1.0
        query.tower_factors[: query.bias_index] = 1 - weight
        query.tower_factors[query.bias_index] = (1 - weight) * of_query
        item.tower_factors[item.bias_index] = (1 - weight) * of_item
        head.bias.mul_(1 - weight).add_(weight * model.constant)
    trainer.clear_cached_vectors()


def _fill(model: _Model, query: AdditivePart, item: AdditivePart) -> None:
    """Set tables and smoothing of both parts, and not the weight."""
    with torch.no_grad():
        for part, tables in zip((query, item), model.tables, strict=True):
            for name, table in (*part.value_tables.items(), *part.history_tables.items()):
                values = tables.get(name, np.zeros(len(table)))
                table.copy_(torch.from_numpy(values.astype(np.float32)))
        query.smoothing.fill_(model.smoothing)


def _logits(trainer: Trainer, model: _Model, query: AdditivePart, item: AdditivePart, pairs: Pairs) -> Floats:
    """(P,): the logits of a model, from what the towers read."""
    _fill(model, query, item)
    found = np.full(len(pairs), model.constant)
    for part, records, rows in ((query, trainer.queries, pairs.query), (item, trainer.items, pairs.item)):
        distinct, which = np.unique(rows, return_inverse=True)
        values = np.zeros(len(distinct))
        for block in blocks_of_like_length(records, distinct):
            with torch.inference_mode():
                inputs = trainer.process.place(records.batch(distinct[block]))
                values[block] = part.logits(inputs).cpu().numpy()
        found += values[which]
    return found


def _remove(trainer: Trainer) -> None:
    for tower in trainer.towers:
        tower.remove(ADDITIVE)
