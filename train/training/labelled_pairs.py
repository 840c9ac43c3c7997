"""The end of a run on labelled pairs: calibration on validation, and metrics beside baselines on test."""

from typing import Any

import numpy as np
import scipy.special

from twinspire.train.config import Experiment
from twinspire.train.evaluation.calibration import calibrate
from twinspire.train.evaluation.label_baselines import FittedLabels, label_baselines
from twinspire.train.evaluation.labelled_metrics import (
    Auc,
    Bin,
    Floats,
    calibration_error,
    pair_losses,
    reliability,
)
from twinspire.train.evaluation.report import evaluate_labels
from twinspire.train.metrics import OF_LABELS
from twinspire.train.models.towers import LogisticHead
from twinspire.train.training.trainer import Trainer


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
            self._uncalibrated = self._probabilities("test")
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
            self.reliability["two-tower"] = reliability(labels, self._probabilities("test"))
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

    def _probabilities(self, part: str) -> Floats:
        return np.asarray(scipy.special.expit(self._logits(part)))
