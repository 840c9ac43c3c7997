"""Metrics of labelled pairs agree with scikit-learn's, and intervals are paired and by user."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from twinspire.train.evaluation.intervals import Clusters
from twinspire.train.evaluation.labelled_metrics import Auc, calibration_error, compare, reliability
from twinspire.train.training.labelled_pairs import calibrate


def drawn(count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the logits that they were drawn from."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 1.5, count)
    return random.random(count) < 1 / (1 + np.exp(-logits)), logits


def alone(labels: np.ndarray) -> Clusters:
    return Clusters.single(len(labels), "pairs")


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits)))


def test_auc_and_log_loss_are_those_of_scikit_learn() -> None:
    labels, logits = drawn()
    rounded = np.round(logits, 1)  # with ties
    found = compare(
        labels, {"": sigmoid(rounded), "flat": np.full(len(labels), 0.3)}, alone(labels), draws=20
    )
    assert found["auc"] == pytest.approx(roc_auc_score(labels, rounded))
    assert found["log_loss"] == pytest.approx(log_loss(labels, sigmoid(rounded)))
    assert found["flat_auc"] == 0.5
    assert found["flat_auc_gain"] == pytest.approx(found["auc"] - 0.5)
    assert found["flat_log_loss_gain"] == pytest.approx(found["flat_log_loss"] - found["log_loss"])
    weights = np.random.default_rng(1).integers(0, 4, len(labels)).astype(float)
    expected = roc_auc_score(labels, rounded, sample_weight=weights)
    assert Auc(labels, rounded)(weights) == pytest.approx(expected)


def test_intervals_over_users_are_wider_where_pairs_of_a_user_agree() -> None:
    labels, logits = drawn(400)
    labels, logits = np.repeat(labels, 10), np.repeat(logits, 10)  # ten equal pairs of each user
    users = Clusters(np.repeat(np.arange(400), 10), "users")
    widths = []
    for who in (users, alone(labels)):
        found = compare(labels, {"": sigmoid(logits)}, who, draws=300)
        assert found["auc_low"] < found["auc"] < found["auc_high"]
        widths.append(found["auc_high"] - found["auc_low"])
    assert widths[0] > 2 * widths[1]


def test_the_calibration_error_is_the_distance_of_the_shares() -> None:
    labels = np.array([True] * 30 + [False] * 70)
    assert calibration_error(labels, np.full(100, 0.5)) == pytest.approx(0.2)  # whatever the order of rows
    (one,) = reliability(labels, np.full(100, 0.5))
    assert (one.predicted, one.count) == (0.5, 100)
    assert one.share == pytest.approx(0.3)
    assert [each.count for each in reliability(labels, np.linspace(0, 1, 100))] == [10] * 10
    labels, logits = drawn()
    assert calibration_error(labels, sigmoid(logits)) < 0.02 < calibration_error(labels, sigmoid(3 * logits))


@pytest.mark.parametrize(
    ("scale", "shift", "kind"),
    [(1.0, 0.0, "none"), (3.0, 0.0, "temperature"), (2.0, 1.5, "platt"), (1.0, 9.0, "platt")],
)
def test_calibration_finds_what_was_distorted(scale: float, shift: float, kind: str) -> None:
    labels, logits = drawn(20_000)
    distorted = scale * logits + shift
    found = calibrate(labels, distorted)
    assert kind in ("none", found.kind)  # of undistorted logits any is as good
    restored = found.scale * distorted + found.shift
    assert calibration_error(labels, sigmoid(restored)) < 0.015
    assert found.scale == pytest.approx(1 / scale, rel=0.1)


def test_pairs_of_a_user_are_in_one_fold_of_the_calibration() -> None:
    """Five users with shares of their own: what four of them have in common does not hold for the fifth."""
    shares = np.repeat([0.8, 0.8, 0.3, 0.3, 0.6], 400)
    labels = np.tile(np.arange(400) / 400, 5) < shares
    users = np.repeat(np.arange(5), 400)
    assert calibrate(labels, np.zeros(2000)).kind == "platt"
    assert calibrate(labels, np.zeros(2000), users).kind == "none"
    assert calibrate(labels, np.zeros(2000), users // 2).kind == "platt"  # fewer users than folds
