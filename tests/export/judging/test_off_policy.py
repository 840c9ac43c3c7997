"""The value of a challenger from explored answers, on made users whose clicks have known means."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.export.judging.simulations import World, coverage
from twinspire.export.judging.off_policy import Explored, estimate, next_item, verdict
from twinspire.export.judging.served_answers import Click
from twinspire.protos.errors import InvalidInput

WORLDS = ("position", "cascade")


def test_candidates_that_are_missing_or_drawn_are_not_drawn_again() -> None:
    logits = np.array([[0.0, -np.inf, 1.0], [-np.inf, -np.inf, -np.inf]])
    drawn = np.array([[2, 0], [-1, -1]])
    first, second = (next_item(logits, drawn, position) for position in (0, 1))
    assert first[0].tolist() == pytest.approx([1 / (1 + np.e), 0, np.e / (1 + np.e)])
    assert second.tolist() == [[1, 0, 0], [0, 0, 0]]


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
    assert len(held) == 4 and min(held.values()) >= 90, held


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
