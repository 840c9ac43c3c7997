"""Aliases that move while a bundle is downloaded or validated, on a clock that is wound on."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.serving.following import CHALLENGER, CHAMPION, Scene
from twinspire.protos.errors import Unavailable

STEPS = ["during_download", "during_validation"]


def on(scene: Scene, step: str, act: Callable[[], object]) -> list[str]:
    """Let a test act during a long step; returns a list that gets an entry when the step comes to its end.

    A step takes long only while the list is empty.
    """
    ended: list[str] = []

    def long(meanwhile: Callable[[], None]) -> None:
        if not ended:
            scene.clock.pause(scene.follow.poll / 2)
            asked = scene.shelf.asked
            meanwhile()
            assert scene.shelf.asked == asked  # not before the interval is over
            act()
            scene.clock.pause(scene.follow.poll)
            meanwhile()
        ended.append(step)

    if step == "during_download":
        scene.shelf.during_download = long
    else:
        scene.during_validation = long
    return ended


@pytest.mark.parametrize("step", STEPS)
def test_a_promotion_that_is_taken_back_is_not_deployed(scene: Scene, step: str) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    ended = on(scene, step, lambda: scene.shelf.aliases.update({CHAMPION: "1"}))
    assert scene.follower.step() == 0  # the next poll comes at once
    assert (scene.champion, scene.target["serial"], ended) == ("1", 1, [])
    assert (scene.note["refused"], scene.note["candidate"], scene.note["last_error"]) == (0, "", "")
    assert scene.step() > 0
    assert (scene.champion, scene.note["swaps"]) == ("1", 0)
    scene.shelf.aliases[CHAMPION] = "2"  # it is not a version that was refused
    ended.append("let it pass")
    scene.step()
    assert scene.champion == "2"


@pytest.mark.parametrize("step", STEPS)
def test_a_newer_promotion_takes_the_place_of_one_in_preparation(scene: Scene, step: str) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    ended = on(scene, step, lambda: scene.shelf.aliases.update({CHAMPION: "3"}))
    scene.step()
    ended.append("let it pass")
    scene.step()
    assert (scene.champion, scene.target["serial"], scene.note["swaps"]) == ("3", 2, 1)


@pytest.mark.parametrize("role", ["canary", "shadow"])
@pytest.mark.parametrize("step", STEPS)
def test_a_rollback_does_not_wait_for_another_alias(make: Any, role: str, step: str) -> None:
    scene = make(**{role: CHALLENGER})
    scene.shelf.aliases[CHAMPION] = "3"
    scene.step()
    scene.shelf.aliases[CHALLENGER] = "2"
    ended = on(scene, step, lambda: scene.shelf.aliases.update({CHAMPION: "1"}))
    assert scene.follower.step() == 0
    assert (scene.champion, scene.note[role]["refused"], ended) == ("3", 0, [])
    ended.append("let it pass")
    scene.step()
    assert (scene.champion, scene.note[role]["swaps"]) == ("1", 1)


def test_a_canary_whose_alias_is_deleted_is_not_downloaded_to_the_end(make: Any) -> None:
    scene = make(canary=CHALLENGER)
    scene.shelf.aliases[CHALLENGER] = "2"
    ended = on(scene, "during_download", lambda: scene.shelf.aliases.pop(CHALLENGER))
    assert scene.follower.step() == 0
    scene.step()
    assert (scene.target["canary"], ended, scene.note["canary"]["last_error"]) == (None, [], "")


def test_a_canary_is_deployed_although_the_champions_alias_is_deleted_meanwhile(make: Any) -> None:
    scene = make(canary=CHALLENGER)
    scene.shelf.aliases[CHALLENGER] = "2"
    ended = on(scene, "during_download", lambda: scene.shelf.aliases.pop(CHAMPION))
    assert scene.follower.step() > 0
    assert (scene.target["canary"]["model_version"], ended) == ("2", ["during_download"])


@pytest.mark.parametrize("error", [Unavailable("no answer"), RuntimeError("it broke")])
def test_a_registry_that_fails_meanwhile_ends_no_deployment(scene: Scene, error: Exception) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    ended = on(scene, "during_validation", lambda: setattr(scene.shelf, "broken", error))
    scene.step()
    assert (scene.champion, ended) == ("2", ["during_validation"])


def test_a_version_whose_alias_is_deleted_meanwhile_is_not_deployed(scene: Scene) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    ended = on(scene, "during_validation", lambda: scene.shelf.aliases.pop(CHAMPION))
    assert scene.follower.step() == 0
    scene.step()
    assert (scene.champion, ended) == ("1", [])
    assert "not in the registry" in scene.note["last_error"]


def test_a_tag_that_changes_meanwhile_is_no_move(scene: Scene) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    ended = on(scene, "during_download", lambda: setattr(scene.shelf, "tags", False))
    scene.step()
    assert (scene.champion, ended) == ("2", ["during_download"])


def test_a_move_at_the_end_of_a_validation_is_seen_before_the_bundle_is_loaded(scene: Scene) -> None:
    def late(meanwhile: Callable[[], None]) -> None:
        scene.shelf.aliases[CHAMPION] = "1"
        scene.clock.pause(1.5)  # less than a poll interval

    scene.shelf.aliases[CHAMPION] = "2"
    scene.during_validation = late
    assert scene.follower.step() == 0
    assert (scene.champion, scene.target["serial"]) == ("1", 1)


def test_the_time_of_the_last_poll_goes_on_during_a_long_step(scene: Scene) -> None:
    seen: list[float] = []

    def long(meanwhile: Callable[[], None]) -> None:
        for _ in range(3):
            scene.clock.pause(scene.follow.poll)
            meanwhile()
            seen.append(scene.note["last_check"] - scene.clock.time())
            assert scene.note["next_check"] > scene.note["last_check"]

    scene.shelf.aliases[CHAMPION] = "2"
    scene.shelf.during_download = long
    scene.step()
    assert seen == [0, 0, 0]
    assert scene.champion == "2"
