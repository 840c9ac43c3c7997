"""The end of a run on labelled pairs: calibration on validation, and metrics beside baselines on test.

The logits are calibrated by nothing, a temperature, or Platt's scale and shift (Platt 1999; Guo et al. 2017
for the temperature). Which one is chosen by log loss and cross-validation over the users of the validation
pairs, so that a small part does not fit more parameters than it supports. Scale and shift change no order of
the items; they become part of the query tower, and so of the served score.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special

from twinspire.train.config import Experiment
from twinspire.train.evaluation.label_baselines import FittedLabels, label_baselines
from twinspire.train.evaluation.labelled_metrics import (
    Auc,
    Bin,
    Labels,
    calibration_error,
    pair_losses,
    reliability,
)
from twinspire.train.evaluation.report import evaluate_labels
from twinspire.train.metrics import OF_LABELS, Floats
from twinspire.train.models.towers import LogisticHead
from twinspire.train.training.trainer import Trainer

FOLDS = 5
KINDS = ("none", "temperature", "platt")
BOUNDS = ((-4.0, 4.0), (None, None))  # of the logarithm of the scale, and of the shift
FEWEST = 50  # pairs of each label; with fewer the logits are not calibrated


class LabelledPairs:
    """Calibrates the towers of a run, and compares them; does nothing where labels are all alike.

    Attributes:
        settings: name of a baseline -> what was chosen for it.
        reliability: name of a model -> its bins on the test part, for the plot.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._fitted: dict[str, FittedLabels] | None = None
        self._uncalibrated: Floats | None = None
        self.settings: dict[str, dict[str, Any]] = {}
        self.reliability: dict[str, list[Bin]] = {}

    def calibrate(self) -> dict[str, Any]:
        """Calibrate the query tower on validation; returns what was chosen, empty if nothing was."""
        head, parts = self._trainer.towers[0].head, self._trainer.data.parts
        pairs = parts["validation"]
        if not isinstance(head, LogisticHead) or not pairs.has_both_labels:
            return {}
        if parts["test"].has_both_labels:
            self._uncalibrated = self.probabilities("test")
        found = calibrate(pairs.is_positive, self._logits("validation"), pairs.clusters)
        head.calibrate(found.scale, found.shift)
        return {"kind": found.kind, "scale": found.scale, "shift": found.shift}

    def metrics(self, experiment: Experiment) -> dict[str, float]:
        """Metrics of the towers, and of the baselines that apply to them, on the test part."""
        trainer, score = self._trainer, self._trainer.towers[0].head.score()
        pairs = trainer.data.parts["test"]
        if not pairs.has_both_labels:
            return {}
        others = self._baselines(experiment)
        found = evaluate_labels(trainer.data, "test", trainer.inner_products, score, others)
        labels = pairs.is_positive
        if score.kind == "sigmoid":
            self.reliability["two-tower"] = reliability(labels, self.probabilities("test"))
        if self._uncalibrated is not None:
            found["uncalibrated_ece"] = calibration_error(labels, self._uncalibrated)
            found["uncalibrated_log_loss"] = float(pair_losses(labels, self._uncalibrated).mean())
            self.reliability["before calibration"] = reliability(labels, self._uncalibrated)
        return found

    def baselines_on_validation(self, experiment: Experiment) -> dict[str, float]:
        """Name -> the metric that selects the epoch on validation, of each baseline; empty for others."""
        selection = experiment.training.selection
        pairs = self._trainer.data.parts["validation"]
        if selection not in OF_LABELS or not pairs.has_both_labels:
            return {}
        labels = pairs.is_positive
        predicted = {name: each.predict(pairs) for name, each in self._baselines(experiment).items()}
        if selection == "auc":
            return {name: Auc(labels, each)() for name, each in predicted.items()}
        return {name: float(pair_losses(labels, each).mean()) for name, each in predicted.items()}

    def _baselines(self, experiment: Experiment) -> dict[str, FittedLabels]:
        if self._fitted is None:
            self._fitted = label_baselines(experiment, self._trainer.data)
            self.settings = {
                name: dict(each.settings) for name, each in self._fitted.items() if each.settings
            }
        return self._fitted

    def _logits(self, part: str) -> Floats:
        products = self._trainer.inner_products(self._trainer.data.parts[part])
        return products.astype(np.float64) + self._trainer.towers[0].head.score().bias

    def probabilities(self, part: str) -> Floats:
        """(P,): the sigmoid of the logits of a part's pairs."""
        return np.asarray(scipy.special.expit(self._logits(part)))


@dataclass(frozen=True)
class Calibration:
    """A calibrated logit is `scale` times the logit, plus `shift`.

    Args:
        kind: `none`, `temperature` or `platt`.
    """

    kind: str
    scale: float = 1.0
    shift: float = 0.0


def calibrate(labels: Labels, logits: Floats, users: npt.NDArray[np.int64] | None = None) -> Calibration:
    """The calibration with the lowest cross-validated log loss; of equal ones the one with fewer parameters.

    Args:
        labels: bool (P,), of the validation pairs.
        logits: (P,).
        users: number of each pair's user, whose pairs are all in one fold, because they depend on each other;
            None where they are not known. Fewer users than folds count as unknown.
    """
    if min(labels.sum(), (~labels).sum()) < FEWEST:
        return Calibration("none")
    folds = _folds(len(labels), users)
    losses = {kind: _cross_validated(kind, labels, logits, folds) for kind in KINDS}
    best = min(KINDS, key=lambda kind: losses[kind])
    return _fit(best, labels, logits)


def _folds(pairs: int, users: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    """(P,): the fold of each pair."""
    random = np.random.default_rng(0)
    distinct, who = np.unique(users, return_inverse=True) if users is not None else ((), np.empty(0, int))
    if len(distinct) < FOLDS:
        return random.permutation(pairs) % FOLDS
    return np.asarray((random.permutation(len(distinct)) % FOLDS)[who])


def _cross_validated(kind: str, labels: Labels, logits: Floats, folds: npt.NDArray[np.int64]) -> float:
    total = 0.0
    for fold in range(FOLDS):
        held = folds == fold
        fitted = _fit(kind, labels[~held], logits[~held])
        total += _loss(labels[held], logits[held], fitted.scale, fitted.shift) * held.sum()
    return total / len(labels)


def _loss(labels: Labels, logits: Floats, scale: float, shift: float) -> float:
    return float(pair_losses(labels, scipy.special.expit(scale * logits + shift)).mean())


def _fit(kind: str, labels: Labels, logits: Floats) -> Calibration:
    """Scale (above 0, by its logarithm) and shift with the lowest log loss."""
    if kind == "none":
        return Calibration(kind)
    free = 1 if kind == "temperature" else 2

    def loss(parameters: npt.NDArray[np.float64]) -> float:
        return _loss(labels, logits, float(np.exp(parameters[0])), float(parameters[1]) if free == 2 else 0.0)

    from scipy.optimize import minimize  # its import takes a third of a second

    found = minimize(loss, np.zeros(free), method="L-BFGS-B", bounds=BOUNDS[:free])
    return Calibration(kind, float(np.exp(found.x[0])), float(found.x[1]) if free == 2 else 0.0)
