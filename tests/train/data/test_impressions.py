"""Weights of impressions undo what position and the choice of the service do to clicks."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.helpers.served import START, Answer, event, write_events, write_log
from twinspire.protos.inputs.event_types import EventTypes
from twinspire.train.data.impressions import (
    Period,
    fit_examination,
    read_impressions,
    scan_events,
)

SIMULATED = 20_000  # answers
EXAMINED = 1 / np.arange(1, 6) ** 0.8
PERIOD = Period(0.0, START + 1e6, 86_400.0)


def clicks(shuffled: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, scores and clicks of five hits each, ranked by a score that says how attractive they are.

    Args:
        shuffled: share of the answers whose order is random.
    """
    draw = np.random.default_rng(seed)
    score = -np.sort(-draw.random((SIMULATED, 5)), axis=1)
    is_shuffled = draw.random(SIMULATED) < shuffled
    score[is_shuffled] = draw.permuted(score[is_shuffled], axis=1)
    position = np.tile(np.arange(5), (SIMULATED, 1))
    clicked = draw.random(score.shape) < EXAMINED * score * 0.5
    return position.ravel(), score.ravel(), clicked.ravel()


@pytest.mark.parametrize("shuffled", [0.0, 0.2])
def test_examination_of_positions_is_found_although_good_items_come_first(shuffled: float) -> None:
    position, score, clicked = clicks(shuffled, 1)
    plain = np.bincount(position, clicked) / np.bincount(position)
    stratum = (score * 10).astype(np.int64)
    examination, attractiveness = fit_examination(position, stratum, clicked)
    # With 20,000 answers a standard error is about .02 of the first position's clicks.
    np.testing.assert_allclose(examination, EXAMINED, atol=0.06)
    np.testing.assert_allclose(attractiveness, 0.5 * (np.arange(10) / 10 + 0.05), atol=0.06)
    if not shuffled:
        assert np.abs(plain / plain[0] - EXAMINED).max() > 0.1  # clicks alone mix both


def test_without_clicks_no_position_is_corrected() -> None:
    nothing = np.zeros(10, np.int64)
    examination, _ = fit_examination(np.arange(10) % 3, nothing, nothing > 0)
    assert examination.tolist() == [1, 1, 1]


def read(
    folder: Path, answers: list[Answer], events: list[dict[str, object]]
) -> tuple[pl.DataFrame, dict[str, Any]]:
    write_log(folder / "served", answers)
    found = scan_events(write_events(folder / "events.parquet", events), EventTypes(), PERIOD).collect()
    return read_impressions(folder / "served", found, PERIOD)


def test_weights_estimate_clicks_as_if_every_position_were_examined(tmp_path: Path) -> None:
    """The weighted share of clicks is near the attractiveness of an item, wherever it was shown."""
    draw = np.random.default_rng(2)
    attractive = {"a": 0.6, "b": 0.5, "c": 0.2}
    answers, events = [], []
    for n in range(4_000):
        order = list(draw.permutation([*attractive]))
        if n % 2:
            order = ["a", "b", "c"]
        scores = [attractive[each] for each in order]
        answers.append(Answer(f"r{n}", START + n, order, scores=scores))
        for examined, each in zip((1.0, 0.5, 0.25), order, strict=True):
            if draw.random() < examined * attractive[each]:
                events.append(event("u", each, START + n, f"r{n}"))
    frame = read(tmp_path, answers, events)[0]
    shares = frame.group_by("item_id").agg(
        ((pl.col("label") * pl.col("weight")).sum() / pl.col("weight").sum()).alias("corrected"),
        pl.col("label").mean().alias("plain"),
    )
    found = {name: (corrected, plain) for name, corrected, plain in shares.iter_rows()}
    for name, expected in attractive.items():
        assert found[name][0] == pytest.approx(expected, abs=0.06), name
    assert found["c"][1] < 0.1 and found["b"][1] < 0.4  # half of what they are


def test_a_hit_of_an_explored_answer_weighs_the_inverse_of_its_propensity(tmp_path: Path) -> None:
    explored = {
        "propensities": [0.8, 0.25], "candidate_ids": ["a", "b", "c"], "candidate_scores": [3.0, 2.0, 1.0],
        "temperature": 1.0,
    }  # fmt: skip
    answers = [Answer("r1", START, ["a", "b"], others=explored), Answer("r2", START, ["a", "b"])]
    found = read(tmp_path, answers, [])
    weights = found[0]["weight"].to_list()
    # A uniform draw takes the first of three with 1 / 3, the next of two with 1 / 2.
    assert weights == pytest.approx([1 / 3 / 0.8, 1 / 2 / 0.25, 1, 1], abs=1e-5)
    assert found[1]["explored"] == 0.5


def test_an_event_with_a_value_is_positive_from_the_bound_on(tmp_path: Path) -> None:
    events = [event("u", f"i{n}", START, "r", "rate", value) for n, value in enumerate((5.0, 2.0, None))]
    path = write_events(tmp_path / "events.parquet", [*events, event("u", "i3", START, "r", "view")])
    types = EventTypes({"rate": 1}, True, 4.0)
    assert scan_events(path, types, PERIOD).collect()["use"].to_list() == [1, -1, 1]


def test_scores_of_two_interleaved_bundles_are_not_compared(tmp_path: Path) -> None:
    teams = {"challenger": "b2", "teams": [1, 0]}
    both = [Answer(f"r{n}", START, ["a", "b"], scores=[9.0, 0.5], others=teams) for n in range(3)]
    found = read(tmp_path, both, [event("u", "a", START, "r0")])
    assert found[1]["bundles"] == {"b1": 3}
    assert found[0]["weight"].is_finite().all()


def test_request_ids_that_a_client_repeats_count_once(tmp_path: Path) -> None:
    found = read(tmp_path, [Answer("r", START, ["a"]), Answer("r", START + 5, ["b"])], [])
    assert found[0]["item_id"].to_list() == ["a"]
