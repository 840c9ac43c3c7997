"""The value of a challenger from explored answers, on made users whose clicks have known means."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.export.judging.simulations import VALID, World, coverage
from twinspire.export.judging.off_policy import Explored, estimate, verdict
from twinspire.export.judging.plackett_luce import at_position, next_item
from twinspire.export.judging.served_answers import Click
from twinspire.protos.errors import InvalidInput

WORLDS = ("position", "cascade")


def test_positions_have_the_probabilities_of_all_orders_together() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 5)
    sums = np.zeros((5, 4))
    orders = [*itertools.permutations(range(5), 4)]
    for order in orders:
        left, chance = [*range(5)], 1.0
        for item in order:
            chance *= np.exp(logits[item]) / np.exp(logits[left]).sum()
            left.remove(item)
        for position, item in enumerate(order):
            sums[item, position] += chance
    drawn = np.array(orders)
    found = at_position(np.tile(logits, (len(orders), 1)), drawn)
    assert np.allclose(found, sums[drawn, np.arange(4)], rtol=1e-4, atol=1e-9)


def test_late_positions_of_like_items_are_exact() -> None:
    found = at_position(np.zeros((1, 60)), np.arange(50)[None])
    assert np.allclose(found, 1 / 60, rtol=1e-5)
    logits = np.repeat([[0.0, -3.0]], [20, 30], axis=1)
    left, expected = np.eye(21)[20], []  # the distribution of the number of items with logit 0 that are left
    for position in range(50):
        count = np.arange(21)
        rest = np.maximum(50 - position - count, 0)
        chance = count / np.maximum(count + rest * np.exp(-3.0), 1e-300)
        expected.append(left @ chance / 20)
        left = left * (1 - chance) + np.append((left * chance)[1:], 0.0)
    found = at_position(logits, np.zeros((1, 50), np.int64))  # the first item at each position
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-9)


def test_very_unlikely_items_are_last() -> None:
    logits = np.array([[0.0, -2000.0, 0.0]])
    assert at_position(logits, np.array([[0, 2, 1]]))[0].tolist() == pytest.approx([0.5, 0.5, 1], rel=1e-5)


def test_candidates_that_are_missing_or_drawn_are_not_drawn_again() -> None:
    logits = np.array([[0.0, -np.inf, 1.0], [-np.inf, -np.inf, -np.inf]])
    drawn = np.array([[2, 0], [-1, -1]])
    first, second = (next_item(logits, drawn, position) for position in (0, 1))
    assert first[0].tolist() == pytest.approx([1 / (1 + np.e), 0, np.e / (1 + np.e)])
    assert second.tolist() == [[1, 0, 0], [0, 0, 0]]
    assert at_position(logits, drawn)[1].tolist() == [1, 1]


def test_champion_and_challenger_alike_have_the_same_value() -> None:
    explored = World("cascade").explored(0, 500)
    judged = estimate(replace(explored, challenger=explored.champion))
    for name, each in judged["estimates"].items():
        error = 0.01 if name == "cascade_dr" else 1e-9  # its Q takes away some of the noise of the draws
        assert each["value"] == pytest.approx(judged["champion"], abs=error), name
        assert each["difference"][0] == pytest.approx(0, abs=error)
        assert (each["effective_sample"], each["refused"]) == (pytest.approx(1500), "")


@pytest.mark.parametrize("clicks", WORLDS)
def test_a_better_challenger_is_told_from_the_champion(clicks: str) -> None:
    judged = estimate(World(clicks).explored(1, 3000))
    assert verdict(judged).startswith("better: +0.0")
    value, lead = (judged["estimates"]["cascade_dr"][name] for name in ("value", "difference"))
    assert value[2] - value[1] > 1.2 * (lead[2] - lead[1])  # what both share cancels
    assert judged["users"] == 3000


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("clicks", WORLDS)
def test_intervals_hold_the_truth_in_nine_of_ten_draws(clicks: str) -> None:
    held = coverage(clicks)
    for world, name in VALID:
        if world == clicks:
            assert min(held[name, "value"], held[name, "difference"]) >= 90, name
    if clicks == "cascade":  # a click depends on the items above it, so this estimator is wrong
        assert held["item_position", "difference"] < 50


def test_few_or_unlike_answers_are_refused() -> None:
    few = estimate(World("cascade").explored(0, 300))
    assert verdict(few).startswith("no estimate: the effective sample is ")
    assert "expected at least 1,000; explore more" in verdict(few)
    explored = World("cascade").explored(0, 400)
    refused = estimate(replace(explored, challenger=-20 * explored.champion))
    assert all(each["refused"] for each in refused["estimates"].values())


def test_a_challenger_without_the_candidates_has_no_support() -> None:
    explored = World("cascade").explored(0, 3000)
    challenger = explored.challenger.copy()
    challenger[: len(challenger) // 2] = -np.inf  # it holds no candidate of half of the answers
    found = estimate(replace(explored, challenger=challenger))["estimates"]["cascade_dr"]
    assert found["gap"] > 0.4
    assert "the champion hardly showed what the challenger prefers" in found["refused"]
    assert (found["value"], found["difference"]) == (None, None)
    nothing = estimate(replace(explored, challenger=np.full_like(challenger, -np.inf)))
    assert {each["effective_sample"] for each in nothing["estimates"].values()} == {0}


RECORD: dict[str, Any] = {
    "request_id": "r1",
    "user": None,
    "item_ids": ["b", "a", "z"],
    "candidate_ids": ["a", "b"],
    "candidate_scores": [0.5, 0.5],
    "propensities": [0.5, 1.0, 1.0],
    "temperature": 0.1,
}


def test_a_hit_behind_the_candidates_was_not_drawn() -> None:
    clicks = [Click(0, "r1", "z"), Click(1, "r2", "a"), Click(2, "r1", "a")]
    explored = Explored.of([RECORD], clicks, [[0.2, None]])
    assert explored.drawn.tolist() == [[1, 0, -1]]
    assert explored.rewards.tolist() == [[0, 1, 1]]
    assert explored.champion.tolist() == [[5, 5]]
    assert explored.challenger.tolist() == [[2, -np.inf]]
    assert explored.conditional(explored.champion).tolist() == [[0.5, 1, 1]]


def test_propensities_of_another_draw_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"got others in 1 records, such as r1"):
        Explored.of([{**RECORD, "propensities": [0.9, 1.0, 1.0]}], [], [[0.2, 0.1]])
