"""A challenger from interleaved answers and from explored ones, on users whose preferences are known."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.served_traffic.logs import interleaved, write_events, write_log
from tests.export.served_traffic.simulations import Seekers, World, coverage
from twinspire.export.served_traffic import served_answers
from twinspire.export.served_traffic.off_policy import Explored, estimate, next_item, verdict
from twinspire.export.served_traffic.preference import decided, interval, log_e_value, preference_of
from twinspire.export.served_traffic.served_answers import Click, ServedFiles
from twinspire.protos.errors import InvalidInput, MissingStage

ERROR = 0.05


def row(request: str, user: str | None, **columns: Any) -> dict[str, Any]:
    items = {"item_ids": ["a", "b", "c"], "teams": [0, 1, None]}
    return {"request_id": request, "user": user, "challenger": "two", **items, **columns}


def test_the_first_click_of_each_user_counts(tmp_path: Path) -> None:
    rows = [
        row("r1", "u1"),
        row("r2", "u1"),
        row("r3", None),
        row("r4", None),
        row("r5", "u2", challenger="three"),
        row("r6", "u2", bundle="zero"),
        {"request_id": "r7", "item_ids": ["a"], "user": "u3"},
    ]
    write_log(tmp_path / "log", rows)
    clicks = [
        ("r1", "c"),  # of both
        ("r2", "b"),  # the first of u1
        ("r1", "a"),
        ("r3", "b"),
        ("r4", "a"),
        ("r4", "unknown"),
        ("r5", "a"),
        ("r6", "a"),
        ("r7", "a"),
    ]
    write_events(tmp_path / "events.parquet", clicks)
    files = ServedFiles(tmp_path / "log", tmp_path / "events.parquet")
    found = preference_of(files, "one", "two", ERROR)
    assert found is not None
    assert (found.answers, found.clicks, found.wins, found.losses) == (4, 4, 2, 1)
    assert found.decision == "open"
    assert "open: 2 users preferred the challenger, 1 the champion (share 0.667, " in found.text
    assert preference_of(files, "one", "four", ERROR) is None
    purchases = ServedFiles(files.log, files.events, ("purchase",))
    none = preference_of(purchases, "one", "two", ERROR)
    assert none is not None
    assert (none.wins, none.losses, none.e_value, none.low, none.high) == (0, 0, 1, 0, 1)


def test_files_that_are_missing_or_of_another_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingStage, match="holds no served log; `serve --served-log FOLDER` writes one"):
        preference_of(ServedFiles(tmp_path, tmp_path / "events.parquet"), "one", "two", ERROR)
    files = interleaved(tmp_path, [1])
    with pytest.raises(InvalidInput, match="events: expected Parquet with recorded, request_id, item_id"):
        preference_of(ServedFiles(files.log, tmp_path / "none"), "one", "two", ERROR)


def test_a_preference_is_decided_and_stays_so(tmp_path: Path) -> None:
    files = interleaved(tmp_path, [1] * 40 + [0] * 30)
    found = preference_of(files, "one", "two", ERROR)
    assert found is not None
    assert (found.decision, found.wins, found.losses) == ("better", 40, 30)
    assert found.e_value < 20
    assert decided([0] * 40 + [1] * 30, ERROR).decision == "worse"


def test_evidence_is_a_fair_bet_against_no_preference() -> None:
    for count in (1, 7, 40):
        wins = np.arange(count + 1, dtype=np.float64)
        logs = np.cumsum(np.log(np.maximum(wins, 1)))
        chances = np.exp(logs[-1] - logs - logs[::-1]) / 2.0**count  # binomial
        assert chances.sum() == pytest.approx(1)
        expected = (chances * np.exp(log_e_value(wins, count - wins))).sum()
        assert expected == pytest.approx(1, rel=1e-6)


def test_answers_whose_request_id_occurs_twice_do_not_count(tmp_path: Path) -> None:
    again = {"request_id": "r1", "item_ids": ["b"], "user": "u5", "bundle": "three"}
    write_log(tmp_path / "log", [row("r1", "u1"), row("r2", "u2"), again])
    write_events(tmp_path / "events.parquet", [("r1", "b"), ("r2", "a")])
    found = preference_of(ServedFiles(tmp_path / "log", tmp_path / "events.parquet"), "one", "two", ERROR)
    assert found is not None
    assert (found.answers, found.wins, found.losses) == (1, 0, 1)


def test_files_that_are_deleted_while_they_are_read_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = interleaved(tmp_path, [1] * 10)
    read = served_answers._read
    gone = max(files.log.glob("*/*"))

    def slow(*arguments: Any) -> Any:
        gone.unlink(missing_ok=True)
        return read(*arguments)

    monkeypatch.setattr(served_answers, "_read", slow)
    found = preference_of(files, "one", "two", ERROR)
    assert found is not None
    assert (found.answers, found.wins) == (5, 5)


def test_intervals_narrow_around_the_share() -> None:
    ends = [interval(6 * 10**n, 4 * 10**n, ERROR) for n in range(5)]
    for (low, high), (inner, outer) in itertools.pairwise(ends):
        assert low <= inner < 0.6 < outer <= high
    assert ends[-1][1] - ends[-1][0] < 0.02
    assert interval(0, 10, ERROR)[0] == 0
    assert interval(10, 0, ERROR)[1] == 1


def test_looking_at_each_click_errs_no_more_often_than_said() -> None:
    rng, users = np.random.default_rng(0), 400
    accepted = missed = 0
    for _ in range(400):
        won = rng.random(users) < 0.5
        accepted += decided(won.tolist(), ERROR).decision == "better"
        wins = np.cumsum(won)
        ends = [interval(int(wins[n - 1]), int(n - wins[n - 1]), ERROR) for n in (10, 50, 200, users)]
        missed += not all(low <= 0.5 <= high for low, high in ends)
    assert accepted / 400 <= ERROR
    assert missed / 400 <= ERROR


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_five_percent_more_clicks_are_seen_with_a_tenth_of_the_events_of_an_ab_test() -> None:
    seekers = Seekers(gain=0.0605, noise=0.1)
    assert seekers.gained(np.random.default_rng(3), 400_000) == pytest.approx(0.05, abs=0.001)
    most = seekers.clicks_of_ab_test(np.random.default_rng(5)) / 10
    decisions = []
    for seed in range(8):
        first: dict[int, int] = {}
        for n, (user, team) in enumerate(seekers.interleaved(np.random.default_rng(seed), 20_000)):
            if n >= most:
                break
            if team is not None:
                first.setdefault(user, team)
        decisions.append(decided([*first.values()], ERROR).decision)
    assert decisions.count("better") >= 6
    assert "worse" not in decisions


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
    held = coverage(clicks, draws=60)
    assert len(held) == 4 and min(held.values()) >= 54, held


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
