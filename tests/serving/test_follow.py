"""The follower's states, one by one, on a clock that is wound on."""

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from protos.errors import Unavailable
from serving.following.shadow_log import INTERVAL
from serving.following.target import Workers
from serving.plan import Follow
from tests.serving.following import CHALLENGER, CHAMPION, Scene, Shelf, newer_schema
from tests.tiny import tiny_bundle


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four bundles that differ."""
    parent = tmp_path_factory.mktemp("versions")
    return [tiny_bundle(parent, 20, report=f'{{"n": {n}}}\n') for n in range(4)]


@pytest.fixture
def make(folders: list[Path], tmp_path: Path) -> Any:
    def make(**follow: Any) -> Scene:
        return Scene(tmp_path, Shelf(*folders), Follow(CHAMPION, cache=tmp_path, **follow))

    return make


@pytest.fixture
def scene(make: Any) -> Scene:
    made = make()
    assert isinstance(made, Scene)
    return made


def test_nothing_happens_while_the_alias_stays(scene: Scene) -> None:
    for _ in range(3):
        assert 9 <= scene.step() <= 11
    assert scene.target["serial"] == 1
    assert scene.tried == []
    assert scene.note["last_error"] == scene.note["candidate"] == ""
    assert scene.note["last_check"] < scene.note["next_check"] == pytest.approx(scene.clock.time())
    pointer = scene.cache.pointer(CHAMPION)
    assert pointer and (pointer.bundle_version, pointer.model_version) == (scene.version("1"), "1")


def test_a_move_of_the_alias_is_a_swap(scene: Scene) -> None:
    scene.step()
    scene.shelf.aliases[CHAMPION] = "2"
    scene.step()
    assert scene.target["serial"] == 2
    assert scene.target["champion"] == {
        "folder": str(scene.folder / scene.version("2")[:12]),
        "bundle_version": scene.version("2"),
        "model_version": "2",
    }
    assert scene.tried == [(scene.version("2"), 2)]
    assert scene.crew.serves == [scene.version("2")] * 2
    assert (scene.note["swaps"], scene.note["refused"], scene.note["candidate"]) == (1, 0, "")
    assert scene.note["last_swap"] > 0
    pointer = scene.cache.pointer(CHAMPION)
    assert pointer and (pointer.bundle_version, pointer.previous) == (scene.version("2"), scene.version("1"))
    scene.shelf.aliases[CHAMPION] = "1"
    scene.step()
    assert (scene.champion, scene.target["serial"], scene.note["swaps"]) == ("1", 3, 2)


def test_a_registry_that_does_not_say_which_bundle_is_followed_too(scene: Scene) -> None:
    scene.shelf.tags = False
    scene.step()
    assert scene.target["serial"] == 1
    scene.shelf.aliases[CHAMPION] = "2"
    scene.step()
    assert scene.target["champion"]["bundle_version"] == scene.version("2")


def test_a_version_that_fails_its_trial_is_refused_and_tried_again_ever_later(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    scene.bad[scene.version("2")] = "does not answer its own examples"
    tries: list[float] = []
    with caplog.at_level(logging.INFO):
        while len(tries) < 9:
            before = len(scene.tried)
            now = scene.clock.monotonic()
            scene.step()
            if len(scene.tried) > before:
                tries.append(now)
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    for n, pause in enumerate(pauses):
        assert min(300, 10 * 2**n) <= pause <= min(300, 10 * 2**n) + 12
    assert (scene.champion, scene.target["serial"]) == ("1", 1)
    assert (scene.note["refused"], scene.note["failures"]) == (1, 9)
    assert scene.note["candidate"] == "2"
    assert scene.note["candidate_bundle"] == scene.version("2")
    assert scene.note["candidate_stage"] == "refused"
    assert scene.note["last_error"] == "version 2 is refused: does not answer its own examples"
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert "version 1 stays" in caplog.text
    scene.shelf.aliases[CHAMPION] = "3"  # another one is not made to wait
    scene.step()
    assert (scene.champion, scene.note["last_error"], scene.note["failures"]) == ("3", "", 0)


def test_a_version_that_gets_well_is_taken(scene: Scene) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    scene.bad[scene.version("2")] = "too large for the memory"
    scene.step()
    assert scene.champion == "1"
    scene.bad.clear()
    scene.step()
    scene.step()
    assert (scene.champion, scene.note["last_error"], scene.note["candidate_stage"]) == ("2", "", "")


def test_a_refused_version_is_forgotten_when_the_alias_goes_back(scene: Scene) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    scene.bad[scene.version("2")] = "bad"
    scene.step()
    scene.shelf.aliases[CHAMPION] = "1"
    scene.step()
    assert (scene.note["candidate"], scene.note["last_error"], scene.note["failures"]) == ("", "", 0)
    assert (scene.note["refused"], scene.target["serial"]) == (1, 1)


def test_a_bundle_of_a_newer_schema_is_refused(scene: Scene, tmp_path: Path) -> None:
    scene.shelf.folders["5"] = newer_schema(scene.shelf.folders["2"], tmp_path)
    scene.shelf.tags = False
    scene.shelf.aliases[CHAMPION] = "5"
    scene.step()
    assert "schema version 3, but this program reads up to 2" in scene.note["last_error"]
    assert (scene.champion, scene.note["candidate_stage"]) == ("1", "refused")


def test_a_registry_that_is_down_is_asked_ever_later_and_told_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.step()
    scene.shelf.down = "connection refused"
    with caplog.at_level(logging.INFO):
        delays = [scene.step() for _ in range(6)]
        for delay, expected in zip(delays, [20, 40, 60, 60, 60, 60], strict=True):
            assert 0.9 * expected <= delay <= 1.1 * expected
        assert (scene.note["failures"], scene.note["last_error"]) == (6, "connection refused")
        assert len(caplog.records) == 1
        scene.shelf.down = "timed out"
        scene.step()
        assert [each.levelname for each in caplog.records] == ["WARNING", "WARNING"]
        scene.shelf.down = ""
        scene.shelf.aliases[CHAMPION] = "2"  # meanwhile
        assert 9 <= scene.step() <= 11
    assert "all is well again" in caplog.text
    assert (scene.champion, scene.note["failures"], scene.note["last_error"]) == ("2", 0, "")


def test_an_alias_that_is_gone_changes_nothing_but_is_told(scene: Scene) -> None:
    del scene.shelf.aliases[CHAMPION]
    assert scene.step() > 11
    assert (scene.champion, scene.target["serial"], scene.note["failures"]) == ("1", 1, 1)
    assert scene.note["last_error"] == f"{CHAMPION}: not in the registry"
    scene.shelf.aliases[CHAMPION] = "1"
    scene.step()
    assert (scene.note["failures"], scene.note["last_error"]) == (0, "")


def test_what_a_worker_cannot_take_is_served_by_none(scene: Scene) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    scene.crew.cannot[scene.version("2")] = "no memory"
    scene.step()
    assert (scene.champion, scene.target["serial"]) == ("1", 1)
    assert "worker 1 could not take it: no memory" in scene.note["last_error"]
    assert (scene.note["refused"], scene.note["swaps"]) == (1, 0)
    scene.crew.obey()
    assert scene.crew.serves == [scene.version("1")] * 2
    pointer = scene.cache.pointer(CHAMPION)
    assert pointer and pointer.model_version == "1"


def test_a_worker_that_dies_meanwhile_is_waited_for(scene: Scene) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    begun = scene.clock.monotonic()

    def die_and_return() -> None:
        away = scene.target["serial"] == 2 and scene.clock.monotonic() < begun + 6
        scene.crew.dead = {0} if away else set()

    scene.clock.meanwhile.insert(0, die_and_return)
    scene.step()
    assert (scene.champion, scene.target["serial"], scene.note["swaps"]) == ("2", 2, 1)
    assert scene.clock.monotonic() >= begun + 6


def test_a_worker_that_a_bundle_kills_is_saved_from_it(scene: Scene) -> None:
    scene.shelf.aliases[CHAMPION] = "2"

    def die() -> None:
        scene.crew.dead = {0} if scene.champion == "2" else set()

    scene.clock.meanwhile.insert(0, die)
    scene.step()
    assert (scene.champion, scene.target["serial"]) == ("1", 3)
    assert "worker 0 died and did not come back with it" in scene.note["last_error"]


def test_a_worker_that_was_dead_before_is_not_waited_for(scene: Scene) -> None:
    scene.crew.dead = {1}
    scene.shelf.aliases[CHAMPION] = "2"
    scene.step()
    assert (scene.champion, scene.target["serial"]) == ("2", 2)


def test_a_worker_that_hangs_is_not_waited_for_forever(scene: Scene) -> None:
    scene.clock.meanwhile.clear()  # nobody obeys
    scene.shelf.aliases[CHAMPION] = "2"
    begun = scene.clock.monotonic()
    scene.step()
    assert scene.clock.monotonic() < begun + 120
    assert (scene.champion, scene.target["serial"]) == ("1", 1)
    assert "not every worker had it" in scene.note["last_error"]


def test_a_follower_that_is_started_again_goes_on_from_the_board(scene: Scene) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    scene.step()
    scene.shelf.down = "gone"
    scene.step()
    tried = len(scene.tried)
    scene.start()
    scene.shelf.down = ""
    scene.step()
    assert (scene.champion, scene.target["serial"], len(scene.tried)) == ("2", 2, tried)
    assert scene.note["swaps"] == 1


def killed_while_the_workers_took_it(scene: Scene) -> None:
    """The follower has told them of version 2, and no more."""
    folder = scene.cache.take(registered(scene, "2"), scene.shelf)
    champion = {"folder": str(folder), "bundle_version": scene.version("2"), "model_version": "2"}
    scene.board.write("target", {"serial": 2, "champion": champion, "canary": None})


def registered(scene: Scene, version: str) -> Any:
    scene.shelf.aliases[CHAMPION] = version
    return scene.shelf.resolve(CHAMPION)


def test_a_swap_that_a_killed_follower_left_is_brought_to_its_end(scene: Scene) -> None:
    killed_while_the_workers_took_it(scene)
    scene.start()
    pointer = scene.cache.pointer(CHAMPION)
    assert pointer and pointer.model_version == "2"
    assert (scene.champion, scene.target["serial"]) == ("2", 2)


def test_or_taken_back_where_a_worker_could_not_take_it(scene: Scene) -> None:
    scene.crew.cannot[scene.version("2")] = "no memory"
    killed_while_the_workers_took_it(scene)
    scene.crew.obey()
    scene.start()
    assert (scene.champion, scene.target["serial"]) == ("1", 3)
    assert scene.crew.serves == [scene.version("1")] * 2


def test_workers_load_one_after_the_other_and_change_together(scene: Scene) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    seen: list[tuple[int, int, int]] = []

    def look() -> None:
        ready = [scene.board.read(f"worker {slot}")["ready"] for slot in (0, 1)]
        seen.append((*ready, scene.target["serial"]))

    scene.clock.meanwhile.append(look)
    scene.step()
    assert [each for n, each in enumerate(seen) if each not in seen[:n]] == [(2, 0, 1), (2, 2, 1), (2, 2, 2)]
    assert scene.board.read("next") == {"serial": 2}


def test_what_a_killed_follower_had_made_ready_is_let_go(scene: Scene) -> None:
    coming = {**scene.target, "serial": 2, "who": ["worker 0"]}
    scene.board.write("next", coming)
    scene.start()
    assert scene.board.read("next") == {"serial": 2}
    scene.shelf.aliases[CHAMPION] = "2"
    scene.step()
    assert (scene.champion, scene.target["serial"]) == ("2", 3)


def test_a_clock_that_is_set_back_delays_nothing(scene: Scene) -> None:
    scene.step()
    scene.clock.shown -= 1e6
    scene.shelf.aliases[CHAMPION] = "2"
    scene.bad[scene.version("2")] = "bad"
    scene.step()
    scene.clock.shown -= 1e6
    scene.bad.clear()
    assert scene.step() < 12
    assert scene.step() < 12
    assert scene.champion == "2"
    assert scene.note["last_check"] < scene.note["next_check"] <= scene.clock.shown + 1


def test_a_canary_answers_a_share(make: Any) -> None:
    scene = make(canary=CHALLENGER, canary_share=0.25)
    scene.step()
    assert not scene.target["canary"]
    assert scene.note["canary"]["last_error"] == ""  # there need not be one
    scene.shelf.aliases[CHALLENGER] = "2"
    scene.step()
    assert scene.target["canary"]["bundle_version"] == scene.version("2")
    assert scene.target["canary"]["share"] == 0.25
    assert (scene.champion, scene.target["serial"], scene.note["swaps"]) == ("1", 2, 0)
    assert scene.note["canary"]["swaps"] == 1
    del scene.shelf.aliases[CHALLENGER]
    scene.step()
    assert (scene.target["canary"], scene.target["serial"]) == (None, 3)


def test_a_canary_that_is_promoted_is_the_champion_at_once(make: Any) -> None:
    scene = make(canary=CHALLENGER)
    scene.shelf.aliases[CHALLENGER] = "2"
    scene.step()
    seen: list[tuple[str, bool]] = []
    scene.clock.meanwhile.append(lambda: seen.append((scene.champion, scene.target["canary"] is not None)))
    scene.shelf.aliases[CHAMPION] = "2"
    scene.step()
    assert scene.target["serial"] == 3
    assert set(seen) == {("1", True), ("2", False)}  # and never both
    scene.step()
    assert scene.target["serial"] == 3


def test_a_canary_that_cannot_be_had_does_not_touch_the_champion(make: Any) -> None:
    scene = make(canary=CHALLENGER)
    scene.shelf.aliases[CHALLENGER] = "2"
    scene.crew.cannot[scene.version("2")] = "no memory"
    scene.step()
    assert (scene.champion, scene.target["canary"], scene.target["serial"]) == ("1", None, 1)
    assert scene.note["last_error"] == ""
    assert "no memory" in scene.note["canary"]["last_error"]
    scene.shelf.aliases[CHAMPION] = "3"
    scene.step()
    assert scene.champion == "3"


def test_a_champion_goes_on_beside_its_canary_when_another_is_refused(make: Any) -> None:
    scene = make(canary=CHALLENGER, canary_share=0.5)
    scene.shelf.aliases[CHALLENGER] = "2"
    scene.step()
    scene.shelf.aliases[CHAMPION] = "3"
    scene.crew.cannot[scene.version("3")] = "no memory"
    scene.step()
    assert (scene.champion, scene.target["canary"]["model_version"]) == ("1", "2")
    assert scene.target["canary"]["share"] == 0.5


def test_a_shadow_gets_a_target_of_its_own(make: Any) -> None:
    scene = make(shadow=CHALLENGER)
    scene.shelf.aliases[CHALLENGER] = "1"
    scene.step()
    assert scene.board.read("shadow target") == {}  # it is the champion
    scene.shelf.aliases[CHALLENGER] = "2"
    scene.step()
    first = scene.board.read("shadow target")
    assert (first["bundle_version"], first["model_version"]) == (scene.version("2"), "2")
    assert scene.tried == [(scene.version("2"), 1)]
    scene.shelf.aliases[CHALLENGER] = "3"
    scene.bad[scene.version("3")] = "bad"
    scene.step()
    assert scene.board.read("shadow target") == first
    assert "bad" in scene.note["shadow"]["last_error"]
    del scene.shelf.aliases[CHALLENGER]
    scene.step()
    assert scene.board.read("shadow target") == {}
    scene.shelf.aliases[CHALLENGER] = "2"
    scene.step()
    assert scene.board.read("shadow target")["serial"] > first["serial"]
    assert scene.target["serial"] == 1


def shadow_note(scene: Scene, queries: int, **changed: Any) -> None:
    sums = {"overlaps": queries, "shifts": queries, "log_ratios": 0}
    note = {"bundle_version": scene.version("2"), "champion": scene.version("1"), "round": 1, "empty": 1}
    note |= {"overlap_at_10": 0.75, "score_shift": -0.5, "latency_ratio": 0.0, "sums": sums}
    scene.board.write("shadow", {**note, "queries": queries, **changed})


def test_what_the_shadow_finds_is_logged_now_and_then(make: Any) -> None:
    scene = make(shadow=CHALLENGER, poll_seconds=1.0)
    shadow_note(scene, 0)
    scene.step()
    assert scene.shelf.runs == []
    shadow_note(scene, 8)
    begun = scene.clock.monotonic()
    while not scene.shelf.logged:
        scene.step()
    assert scene.clock.monotonic() <= begun + INTERVAL + 2
    ((pair, resumed),) = scene.shelf.runs
    assert pair[:3] == ("tiny", scene.version("2"), scene.version("1"))
    assert resumed
    figures = {
        "shadow_queries": 8.0,
        "shadow_overlap_at_10": 0.75,
        "shadow_score_shift": -0.5,
        "shadow_empty": 1.0,  # and no ratio of times, for none was measured
    }
    assert scene.shelf.logged == [("run 1", figures, 8, False)]
    for _ in range(60):
        scene.step()
    assert len(scene.shelf.logged) == 1  # nothing is new
    shadow_note(scene, 9)
    scene.follower.end()
    assert [each[::3] for each in scene.shelf.logged[1:]] == [("run 1", False), ("run 1", True)]
    assert scene.shelf.logged[1][1]["shadow_queries"] == 9


def test_another_pair_has_another_run_and_so_has_a_pair_that_comes_back(make: Any) -> None:
    scene = make(shadow=CHALLENGER, poll_seconds=INTERVAL * 2)
    shadow_note(scene, 8)
    scene.step()
    shadow_note(scene, 2, round=2, champion=scene.version("3"))
    scene.step()
    shadow_note(scene, 3, round=3)
    scene.step()
    assert [(pair.champion, resume) for pair, resume in scene.shelf.runs] == [
        (scene.version("1"), True),
        (scene.version("3"), False),
        (scene.version("1"), False),
    ]
    assert [each[0] for each in scene.shelf.logged if each[3]] == ["run 1", "run 2"]


def test_what_was_found_before_a_swap_is_logged_too(make: Any) -> None:
    scene = make(shadow=CHALLENGER, poll_seconds=1.0)
    scene.step()
    shadow_note(scene, 8)

    def begin_anew() -> None:
        if scene.target["serial"] > 1:
            shadow_note(scene, 1, round=2, champion=scene.version("3"))

    scene.clock.meanwhile.append(begin_anew)
    scene.shelf.aliases[CHAMPION] = "3"
    scene.step()
    logged = [(run, step) for run, _, step, ended in scene.shelf.logged if not ended]
    assert logged == [("run 1", 8), ("run 2", 1)]
    assert [pair.champion for pair, _ in scene.shelf.runs] == [scene.version("1"), scene.version("3")]


def test_figures_that_cannot_be_logged_are_logged_later(make: Any) -> None:
    scene = make(shadow=CHALLENGER, poll_seconds=INTERVAL * 2)
    shadow_note(scene, 8)
    scene.shelf.down = "gone"
    scene.step()
    assert (scene.champion, scene.shelf.logged) == ("1", [])
    scene.shelf.down = ""
    scene.step()
    assert len(scene.shelf.logged) == 1


def test_a_stop_is_no_failure_of_the_version(scene: Scene) -> None:
    scene.clock.meanwhile.clear()
    scene.clock.meanwhile.append(scene.clock.stop.set)
    scene.shelf.aliases[CHAMPION] = "2"
    scene.follower.step()
    assert scene.note["refused"] == 0


def test_workers_that_never_come_up_are_told(scene: Scene) -> None:
    scene.crew.dead = {0, 1}
    scene.clock.meanwhile.clear()
    with pytest.raises(Unavailable, match=r"worker 0 died|not every worker"):
        Workers(scene.board, scene.clock, scene.crew.alive).settle()
