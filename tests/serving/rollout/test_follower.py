"""The follower's states, one by one, on a clock that is wound on."""

import logging
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from tests.helpers.serving.following import CHAMPION, Scene, newer_schema


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
    scene.promote("2")
    assert scene.target["serial"] == 2
    assert scene.target["champion"] == {
        "folder": str(scene.folder / scene.version("2")[:12]),
        "bundle_version": scene.version("2"),
        "model_version": "2",
        "share": 0.0,
    }
    assert scene.tried == [(scene.version("2"), 2)]
    assert scene.crew.serves == [scene.version("2")] * 2
    assert (scene.note["swaps"], scene.note["refused"], scene.note["candidate"]) == (1, 0, "")
    assert scene.note["last_swap"] > 0
    pointer = scene.cache.pointer(CHAMPION)
    assert pointer and pointer.bundle_version == scene.version("2")
    scene.promote("1")
    assert (scene.champion, scene.target["serial"], scene.note["swaps"]) == ("1", 3, 2)


def test_a_version_without_a_tag_is_refused(scene: Scene) -> None:
    scene.shelf.tags = False
    scene.promote("2")
    assert scene.target["serial"] == 1
    assert "models:/tiny/2: tag bundle_version: expected" in scene.note["last_error"]


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
    scene.promote("3")  # another one is not made to wait
    assert (scene.champion, scene.note["last_error"], scene.note["failures"]) == ("3", "", 0)


def test_a_refused_version_is_forgotten_when_the_alias_goes_back(scene: Scene) -> None:
    scene.bad[scene.version("2")] = "bad"
    scene.promote("2")
    scene.promote("1")
    assert (scene.note["candidate"], scene.note["last_error"], scene.note["failures"]) == ("", "", 0)
    assert (scene.note["refused"], scene.target["serial"]) == (1, 1)


def test_a_bundle_of_a_newer_schema_is_refused(scene: Scene, tmp_path: Path) -> None:
    scene.shelf.folders["5"] = folder = newer_schema(scene.shelf.folders["2"], tmp_path)
    scene.shelf._versions[folder] = "5" * 64
    scene.promote("5")
    assert "schema version 5, expected 3 to 4" in scene.note["last_error"]
    assert (scene.champion, scene.note["candidate_stage"]) == ("1", "refused")


def test_a_registry_that_is_down_is_told_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.step()
    scene.shelf.down = "connection refused"
    with caplog.at_level(logging.INFO):
        for _ in range(6):
            assert 9 <= scene.step() <= 11
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
    scene.step()
    assert (scene.champion, scene.target["serial"], scene.note["failures"]) == ("1", 1, 1)
    assert scene.note["last_error"] == f"{CHAMPION}: not in the registry"
    scene.promote("1")
    assert (scene.note["failures"], scene.note["last_error"]) == (0, "")


def test_what_a_worker_cannot_take_is_served_by_none(scene: Scene) -> None:
    scene.crew.cannot[scene.version("2")] = "no memory"
    scene.promote("2")
    assert (scene.champion, scene.target["serial"]) == ("1", 1)
    assert "worker 1 could not take it: no memory" in scene.note["last_error"]
    assert (scene.note["refused"], scene.note["swaps"]) == (1, 0)
    scene.crew.obey()
    assert scene.crew.serves == [scene.version("1")] * 2
    assert scene.pointed == "1"


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


def test_a_worker_that_hangs_is_not_waited_for_forever(scene: Scene) -> None:
    scene.clock.meanwhile.clear()  # nobody obeys
    scene.shelf.aliases[CHAMPION] = "2"
    begun = scene.clock.monotonic()
    scene.step()
    assert scene.clock.monotonic() < begun + 120
    assert (scene.champion, scene.target["serial"]) == ("1", 1)
    assert "not every worker had it" in scene.note["last_error"]


def test_an_error_does_not_show_where_the_cache_is(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    absolute = scene.cache.folder
    monkeypatch.chdir(absolute.parent)
    scene.cache.folder = Path(absolute.name)  # as `.cache/bundles`; workers get absolute paths
    for folder in (absolute, scene.cache.folder):
        scene.crew.cannot = {scene.version("2"): f"{folder}/3f2a/index.bin: damaged"}
        scene.promote("2")
        error = "version 2 is refused: worker 1 could not take it: the cache/3f2a/index.bin: damaged"
        assert scene.note["last_error"] == error
        scene.promote("1")


def test_a_follower_that_is_started_again_keeps_what_is_served(scene: Scene) -> None:
    scene.promote("2")
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
    scene.shelf.aliases[CHAMPION] = "2"
    folder = scene.cache.take(scene.shelf.resolve(CHAMPION), scene.shelf)
    champion = {"folder": str(folder), "bundle_version": scene.version("2"), "model_version": "2"}
    scene.shared_state.write("target", {"serial": 2, "champion": champion, "canary": None})


def test_a_swap_that_a_killed_follower_left_is_brought_to_its_end(scene: Scene) -> None:
    killed_while_the_workers_took_it(scene)
    scene.start()
    assert scene.pointed == "2"
    assert (scene.champion, scene.target["serial"]) == ("2", 2)
    assert scene.crew.serves == [scene.version("2")] * 2


def test_or_taken_back_where_a_worker_could_not_take_it(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.crew.cannot[scene.version("2")] = "no memory"
    killed_while_the_workers_took_it(scene)
    scene.crew.obey()
    scene.start()
    assert (scene.champion, scene.target["serial"]) == ("1", 3)
    assert scene.crew.serves == [scene.version("1")] * 2
    assert "version 2: worker 1 could not take it: no memory" in caplog.text
    assert scene.pointed == "1"


def test_a_way_back_that_is_gone_is_told(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.crew.cannot[scene.version("2")] = "no memory"
    killed_while_the_workers_took_it(scene)
    shutil.rmtree(scene.folder / scene.version("1")[:12])
    scene.crew.obey()
    scene.start()
    assert scene.target["serial"] == 2
    assert "no way back to what was served before: it is not in" in caplog.text


def test_workers_load_one_after_the_other_and_change_together(scene: Scene) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    seen: list[tuple[int, int, int]] = []

    def look() -> None:
        ready = [scene.shared_state.read(f"worker {slot}")["ready"] for slot in (0, 1)]
        seen.append((*ready, scene.target["serial"]))

    scene.clock.meanwhile.append(look)
    scene.step()
    assert [each for n, each in enumerate(seen) if each not in seen[:n]] == [(2, 0, 1), (2, 2, 1), (2, 2, 2)]
    assert scene.shared_state.read("next") == {"serial": 2}


def test_what_a_killed_follower_had_made_ready_is_let_go(scene: Scene) -> None:
    coming = {**scene.target, "serial": 2, "who": ["worker 0"]}
    scene.shared_state.write("next", coming)
    scene.start()
    assert scene.shared_state.read("next") == {"serial": 2}
    scene.promote("2")
    assert (scene.champion, scene.target["serial"]) == ("2", 3)


def test_a_stop_is_no_failure_of_the_version(scene: Scene) -> None:
    scene.clock.meanwhile.clear()
    scene.clock.meanwhile.append(scene.clock.stop.set)
    scene.shelf.aliases[CHAMPION] = "2"
    scene.follower.step()
    assert scene.note["refused"] == 0


@pytest.mark.parametrize("error", [RecursionError("too deep"), KeyError("x"), OverflowError(), MemoryError()])
def test_an_unforeseen_error_of_a_bundle_is_a_refusal_that_is_tried_again_ever_later(
    scene: Scene, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    scene.unforeseen[scene.version("2")] = error
    scene.shelf.aliases[CHAMPION] = "2"
    for _ in range(20):
        scene.step()
    assert scene.champion == "1"
    assert scene.note["last_error"].startswith(f"version 2 is refused: {type(error).__name__}: ")
    assert (scene.note["candidate"], scene.note["candidate_stage"]) == ("2", "refused")
    assert 2 <= len(scene.tried) <= 6  # in 200 s, and not every 10 s
    (record,) = [each for each in caplog.records if "is refused" in each.getMessage()]
    assert record.exc_info and record.exc_info[1] is error
    scene.unforeseen.clear()
    for _ in range(40):
        scene.step()
    assert (scene.champion, scene.note["last_error"]) == ("2", "")


def test_an_unforeseen_error_of_the_registry_changes_nothing(scene: Scene) -> None:
    scene.shelf.broken = RecursionError("too deep")
    scene.step()
    assert scene.champion == "1"
    assert scene.note["last_error"] == "RecursionError: too deep"
    scene.shelf.broken = None
    scene.step()
    assert scene.note["last_error"] == ""
