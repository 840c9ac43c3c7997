"""Calibration of a model's logits on the validation pairs: none, a temperature, or Platt's scale and shift.

Platt 1999; Guo et al. 2017 for the temperature. Which one is chosen by log loss and cross-validation over
the users of the validation pairs, so that a small part does not fit more parameters than it supports. Scale
and shift change no order of the items; they become part of the query tower, and so of the served score.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.special

from twinspire.train.evaluation.labelled_metrics import Floats, Labels, pair_losses

FOLDS = 5
KINDS = ("none", "temperature", "platt")
BOUNDS = ((-4.0, 4.0), (None, None))  # of the logarithm of the scale, and of the shift
FEWEST = 50  # pairs of each label; with fewer the logits are not calibrated


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
