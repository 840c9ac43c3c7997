"""The weight of a part of the coordinates: which one is taken of a curve of weights."""

import math
from typing import Any

import numpy as np
import pytest

from twinspire.train.training.part_weights import MIN_USERS, WEIGHTS, choose_weight

FINITE = [weight for weight in WEIGHTS if weight < math.inf]


def choose(curve: dict[float, Any], default: float = 1.0) -> float:
    """The weight where each one above 0 raises the selected metric."""
    return choose_weight(curve, {weight: values + (weight > 0) for weight, values in curve.items()}, default)


def curve_with_best(best: float, loss: float, noise: float, users: int = 400) -> dict[float, Any]:
    """A metric that is lower by `loss` at all other weights, with noise of each user and weight."""
    random = np.random.default_rng(0)
    common = random.random(users)
    return {weight: common - loss * (weight != best) + noise * random.normal(size=users) for weight in FINITE}


@pytest.mark.parametrize("best", [0.0, 0.25, 4.0])
def test_a_weight_that_is_clearly_best_is_taken(best: float) -> None:
    assert choose(curve_with_best(best, 0.2, 0.1)) == best


def test_where_all_weights_are_as_good_both_scores_weigh_alike() -> None:
    common = np.random.default_rng(0).random(MIN_USERS)
    assert choose({weight: np.roll(common, n) for n, weight in enumerate(FINITE)}) == 1.0


@pytest.mark.parametrize("best", [0.0, 0.25, 4.0])
def test_where_all_differences_may_be_chance_both_scores_weigh_nearly_alike(best: float) -> None:
    assert 0.25 <= choose(curve_with_best(best, 1e-4, 0.3)) <= 4


@pytest.mark.parametrize(
    ("low", "high", "default", "chosen"),
    [(0.125, 0.5, 1.0, 0.5), (0.0, 0.25, 1.0, 0.25), (4.0, 16.0, 1.0, 4.0), (0.125, 0.5, 0.25, 0.25)],
)
def test_of_a_flat_part_of_the_curve_the_weight_nearest_to_the_default_is_taken(
    low: float, high: float, default: float, chosen: float
) -> None:
    curve = curve_with_best(WEIGHTS[WEIGHTS.index(low) + 1], 0.0, 0.01)
    outside = {w: values - 0.1 for w, values in curve.items() if not low <= w <= high}
    # Inside, the same values in another order: as good, and each with its own luck.
    flat = {w: np.roll(curve[low], n) for n, w in enumerate(curve) if low <= w <= high}
    assert choose({**outside, **flat}, default) == chosen


def test_few_users_choose_nothing() -> None:
    assert choose(curve_with_best(16.0, 0.5, 0.1, MIN_USERS - 1)) == 1.0
    assert choose(curve_with_best(16.0, 0.5, 0.1, MIN_USERS - 1), default=0.25) == 0.25
    assert choose(curve_with_best(16.0, 0.5, 0.1, MIN_USERS)) == 16.0


def test_no_weight_is_taken_at_which_the_selected_metric_is_not_higher_than_without_the_part() -> None:
    curve = curve_with_best(1.0, 0.2, 0.1)
    without = curve[0.0]
    lower = {weight: without - 0.01 * (weight > 0) for weight in FINITE}
    assert choose(curve) == 1.0
    assert choose_weight(curve, lower) == 0.0
    flat = dict.fromkeys(FINITE, without)
    assert choose_weight(curve, flat) == 0.0
    assert choose_weight(flat, {**lower, 0.25: without + 0.01, 8.0: without + 0.02}) == 0.25
