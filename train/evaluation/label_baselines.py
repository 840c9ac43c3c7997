"""Baselines that predict labels, fitted on the training pairs and tuned on the validation pairs.

| name        | what it is                                                                     |
|-------------|--------------------------------------------------------------------------------|
| `base_rate` | the share of positives in training                                             |
| `itemmean`  | each item's share of positives, drawn to the share of all                      |
| `user_item` | log-odds of the item, plus the user's mean residual, drawn to zero             |
| `hashed_lr` | logistic regression over hashed features of query and item, with their ids     |
| `fm`        | factorisation machine (Rendle 2010) over the same features                     |

`user_item` reads the same histories as the towers, where these read positive and negative ones. `hashed_lr`
and `fm` read the user's id and no history. To add a baseline, add a `LabelBaseline` to `LABEL_BASELINES`, and
its name to `LABEL_BASELINE_NAMES` of `train/config/baselines.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protos.features import FeatureSpec, HistoryFeature, NumberFeature, TextFeature
from train.config import Experiment
from train.data.training_data import Histories, Pairs, TrainingData
from train.evaluation.labelled_metrics import pair_losses

Floats = npt.NDArray[np.float64]
Predict = Callable[[Pairs], Floats]  # pairs (P,) -> probabilities (P,)

SMOOTHINGS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # events
STRENGTHS = (0.1, 0.3, 1.0, 3.0)  # C of logistic regression, the inverse of the penalty
DECAYS = (0.1, 0.3, 1.0)  # weight decay of the factorisation machine
HASHED = 1 << 18  # columns
QUANTILES = 10  # of a number, each one feature
FACTORS, EPOCHS, BATCH, RATE = 8, 5, 512, 1e-2


@dataclass(frozen=True)
class FittedLabels:
    """What a baseline predicts, and what was chosen for it."""

    predict: Predict
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class LabelBaseline:
    """A model of labels that is compared with the towers.

    Args:
        name: prefix of its metrics.
        label: its name in tables.
        fit: returns the predictions.
    """

    name: str
    label: str
    fit: Callable[[Experiment, TrainingData], FittedLabels]


def label_baselines(experiment: Experiment, data: TrainingData) -> dict[str, FittedLabels]:
    """Name -> predictions of each baseline that `[baselines] run` does not leave out."""
    chosen = [each for each in LABEL_BASELINES if experiment.baselines.measures(each.name)]
    return {each.name: each.fit(experiment, data) for each in chosen}


def labels_needed(experiment: Experiment, data: TrainingData) -> dict[str, str]:
    """Name -> what it needs, of each baseline that does not apply to these towers and data.

    Item means stand beside every model of labelled pairs, the others beside a predicted probability.
    """
    names = [each.name for each in LABEL_BASELINES]
    if not data.parts["test"].has_both_labels:
        return dict.fromkeys(names, "positive and negative pairs in the test part")
    if experiment.tower.predicts_probability:
        return {}
    needs = 'towers that predict a probability: tower.kind = "clicks" or "shared"'
    return {name: needs for name in names if name != "itemmean"}


def _base_rate(experiment: Experiment, data: TrainingData) -> FittedLabels:
    share = float(data.parts["train"].is_positive.mean())
    return FittedLabels(lambda pairs: np.full(len(pairs), share), {})


def item_means(data: TrainingData) -> FittedLabels:
    """Each item's share of positives, drawn to that of all pairs by a smoothing chosen on validation."""
    return _best(data, {"smoothing": SMOOTHINGS}, lambda smoothing: _by_item(data, smoothing))


def _by_item(data: TrainingData, smoothing: float) -> Predict:
    shares = _item_shares(data, smoothing)
    return lambda pairs: shares[pairs.item]


def _item_shares(data: TrainingData, smoothing: float) -> Floats:
    """(N,): each item's share of positives in training, drawn to that of all pairs."""
    train = data.parts["train"]
    labels = train.is_positive
    positives = np.bincount(train.item, labels, data.item_count)
    total = np.bincount(train.item, minlength=data.item_count)
    return np.asarray((positives + smoothing * labels.mean()) / (total + smoothing))


def _user_item(experiment: Experiment, data: TrainingData) -> FittedLabels:
    """The items' smoothing is that of `item_means`; only then the users' smoothing and factor are chosen."""
    smoothing = item_means(data).settings["smoothing"]
    shares = _item_shares(data, smoothing)
    total, count = _residuals(experiment, data, shares)
    logits = scipy.special.logit(shares)

    def fit(smoothing: float, factor: float) -> Predict:
        def predict(pairs: Pairs) -> Floats:
            user = total(pairs) / (count(pairs) + smoothing)
            return np.asarray(scipy.special.expit(logits[pairs.item] + factor * user))

        return predict

    found = _best(data, {"smoothing": SMOOTHINGS, "factor": (3.0, 4.0, 5.0, 6.0)}, fit)
    return FittedLabels(found.predict, {"item_smoothing": smoothing, **found.settings})


def _residuals(
    experiment: Experiment, data: TrainingData, shares: Floats
) -> tuple[Callable[[Pairs], Floats], Callable[[Pairs], Floats]]:
    """Sum and number of the residuals (label less the item's share) of the events known of a pair's user.

    Where the towers read histories of both kinds, the events are those of the histories; else the user's
    training pairs; without users none.
    """
    found: dict[str, Histories] = {}
    for name, spec in experiment.query.items():
        values = data.queries[name]
        if isinstance(spec, HistoryFeature) and isinstance(values, Histories):
            found[spec.kind] = values
    if len(found) == 2:
        sides = ((found["history"], 1 - shares), (found["negative_history"], -shares))

        def total(pairs: Pairs) -> Floats:
            return sum((_of_span(each, values, pairs) for each, values in sides), np.zeros(len(pairs)))

        def count(pairs: Pairs) -> Floats:
            lengths = sum((each.end - each.begin for each, _ in sides), np.zeros(data.query_count))
            return np.asarray(lengths[pairs.query], np.float64)

        return total, count
    train = data.parts["train"]
    if train.user is None:
        return (lambda pairs: np.zeros(len(pairs)),) * 2
    size = 1 + max(int(part.user.max(initial=0)) for part in data.parts.values() if part.user is not None)
    sums = np.bincount(train.user, train.is_positive - shares[train.item], size)
    counts = np.bincount(train.user, minlength=size)
    return lambda pairs: sums[pairs.user], lambda pairs: np.asarray(counts[pairs.user], np.float64)


def _of_span(histories: Histories, values: Floats, pairs: Pairs) -> Floats:
    """The sum of the items' values over the history of each pair."""
    sums = np.concatenate([[0], np.cumsum(values[histories.run])])
    return np.asarray(sums[histories.end[pairs.query]] - sums[histories.begin[pairs.query]])


def _hashed_lr(experiment: Experiment, data: TrainingData) -> FittedLabels:
    from sklearn.linear_model import LogisticRegression  # its import takes a second

    features = _HashedFeatures(experiment, data)
    train = data.parts["train"]
    matrix, labels = features(train), train.is_positive

    def fit(c: float) -> Predict:
        model = LogisticRegression(C=c, max_iter=300).fit(matrix, labels)
        return lambda pairs: np.asarray(model.predict_proba(features(pairs))[:, 1])

    return _best(data, {"C": STRENGTHS}, fit)


class _HashedFeatures:
    """`name=value` of each feature of query and item, the item's id and the user's, hashed."""

    def __init__(self, experiment: Experiment, data: TrainingData) -> None:
        from sklearn.feature_extraction import FeatureHasher

        self._hasher = FeatureHasher(HASHED, input_type="string")
        self._query = _tokens("query", experiment.query, data.queries, data.query_count)
        self._item = _tokens("item", experiment.item, data.items, data.item_count)
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
    side: str, features: Mapping[str, FeatureSpec], values: Mapping[str, Sequence[Any]], count: int
) -> list[list[str]]:
    """For each record its features as strings; histories are left out."""
    rows: list[list[str]] = [[] for _ in range(count)]
    for name, spec in features.items():
        if isinstance(spec, HistoryFeature) or spec.kind == "id":
            continue
        column = values[name]
        if isinstance(spec, NumberFeature):
            column = _quantiles(column)
        for row, value in zip(rows, column, strict=True):
            several = value.lower().split() if isinstance(spec, TextFeature) else value
            listed = several if isinstance(several, list | tuple) else [several]
            row += [f"{side}.{name}={each}" for each in listed]
    return rows


def _quantiles(values: Sequence[Any]) -> list[int | None]:
    known = np.array([each for each in values if each is not None], np.float64)
    edges = np.quantile(known, np.linspace(0, 1, QUANTILES + 1)[1:-1]) if len(known) else np.empty(0)
    return [None if each is None else int(np.searchsorted(edges, each)) for each in values]


def _fm(experiment: Experiment, data: TrainingData) -> FittedLabels:
    features = _HashedFeatures(experiment, data)
    train = data.parts["train"]
    matrix = features(train)
    columns = np.unique(matrix.indices)  # others are unknown, and are left out

    def fit(weight_decay: float) -> Predict:
        model = _FactorisationMachine(len(columns))
        _train(model, matrix[:, columns].sorted_indices(), train.is_positive, weight_decay)

        def predict(pairs: Pairs) -> Floats:
            with torch.inference_mode():
                return torch.sigmoid(model(*_bags(features(pairs)[:, columns]))).double().numpy()

        return predict

    return _best(data, {"weight_decay": DECAYS}, fit)


class _FactorisationMachine(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bias = nn.Parameter(torch.zeros(1))
        self.linear = nn.Parameter(torch.zeros(count, 1))
        self.factors = nn.Parameter(torch.randn(count, FACTORS) * 0.01)

    def forward(self, rows: Tensor, offsets: Tensor, signs: Tensor) -> Tensor:
        """(P,): logits."""

        def bag(table: Tensor, weights: Tensor) -> Tensor:
            return F.embedding_bag(rows, table, offsets, mode="sum", per_sample_weights=weights)

        products = bag(self.factors, signs).square() - bag(self.factors.square(), signs.square())
        return self.bias + bag(self.linear, signs)[:, 0] + products.sum(dim=1) / 2


def _bags(matrix: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of a CSR matrix as `embedding_bag` takes them."""
    rows, starts = matrix.indices.astype(np.int64), matrix.indptr[:-1].astype(np.int64)
    return torch.from_numpy(rows), torch.from_numpy(starts), torch.from_numpy(matrix.data.astype(np.float32))


def _train(
    model: _FactorisationMachine, matrix: Any, labels: npt.NDArray[np.bool_], weight_decay: float
) -> None:
    groups = [
        {"params": [model.linear, model.factors], "weight_decay": weight_decay},
        {"params": [model.bias], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=RATE)
    generator = np.random.default_rng(0)
    steps = EPOCHS * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(EPOCHS):
        order = generator.permutation(len(labels))
        for at in range(0, len(order), BATCH):
            rows = order[at : at + BATCH]
            wanted = torch.from_numpy(labels[rows].astype(np.float32))
            loss = F.binary_cross_entropy_with_logits(model(*_bags(matrix[rows])), wanted)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def _best(
    data: TrainingData, grid: Mapping[str, Sequence[float]], fit: Callable[..., Predict]
) -> FittedLabels:
    """The predictions of the values with the lowest log loss on validation."""
    validation = data.parts["validation"]
    labels = validation.is_positive
    choices: list[dict[str, float]] = [{}]
    for name, values in grid.items():
        choices = [{**chosen, name: value} for chosen in choices for value in values]
    best: tuple[float, Predict, dict[str, float]] | None = None
    for chosen in choices:
        predict = fit(*chosen.values())
        loss = float(pair_losses(labels, predict(validation)).mean())
        if best is None or loss < best[0]:
            best = (loss, predict, chosen)
    assert best is not None
    return FittedLabels(best[1], best[2])


LABEL_BASELINES = (
    LabelBaseline("base_rate", "base rate", _base_rate),
    LabelBaseline("itemmean", "item means", lambda _, data: item_means(data)),
    LabelBaseline("user_item", "user + item means", _user_item),
    LabelBaseline("hashed_lr", "hashed logistic regression", _hashed_lr),
    LabelBaseline("fm", "factorisation machine", _fm),
)
