"""Aliases that move while a bundle is downloaded or validated, on a clock that is wound on."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.serving.following import CHALLENGER, CHAMPION, Scene

STEPS = ["during_download", "during_validation"]


def on(scene: Scene, step: str, act: Callable[[], object]) -> None:
    """Let a test act once during a long step."""
    pending = [act]

    def once() -> None:
        if pending:
            pending.pop()()

    setattr(scene.shelf if step == "during_download" else scene, step, once)


@pytest.mark.parametrize("step", STEPS)
def test_a_promotion_that_is_taken_back_is_not_deployed(scene: Scene, step: str) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    on(scene, step, lambda: scene.shelf.aliases.update({CHAMPION: "1"}))
    assert scene.follower.step() == 0  # the next poll comes at once
    assert (scene.champion, scene.target["serial"]) == ("1", 1)
    assert (scene.note["refused"], scene.note["candidate"], scene.note["last_error"]) == (0, "", "")
    assert scene.step() > 0
    assert (scene.champion, scene.note["swaps"]) == ("1", 0)
    scene.shelf.aliases[CHAMPION] = "2"  # it is not a version that was refused
    scene.step()
    assert scene.champion == "2"


@pytest.mark.parametrize("step", STEPS)
def test_a_newer_promotion_takes_the_place_of_one_in_preparation(scene: Scene, step: str) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    on(scene, step, lambda: scene.shelf.aliases.update({CHAMPION: "3"}))
    scene.step()
    scene.step()
    assert (scene.champion, scene.target["serial"], scene.note["swaps"]) == ("3", 2, 1)


@pytest.mark.parametrize("role", ["canary", "shadow"])
def test_a_rollback_during_the_download_of_another_alias_comes_with_the_next_poll(
    make: Any, role: str
) -> None:
    scene = make(**{role: CHALLENGER})
    scene.shelf.aliases[CHAMPION] = "3"
    scene.step()
    scene.shelf.aliases[CHALLENGER] = "2"
    on(scene, "during_download", lambda: scene.shelf.aliases.update({CHAMPION: "1"}))
    scene.step()
    assert (scene.champion, scene.note[role]["swaps"]) == ("3", 1)
    scene.step()
    assert (scene.champion, scene.note[role]["refused"]) == ("1", 0)


def test_a_canary_whose_alias_is_deleted_is_not_deployed(make: Any) -> None:
    scene = make(canary=CHALLENGER)
    scene.shelf.aliases[CHALLENGER] = "2"
    on(scene, "during_download", lambda: scene.shelf.aliases.pop(CHALLENGER))
    assert scene.follower.step() == 0
    scene.step()
    assert (scene.target["canary"], scene.note["canary"]["last_error"]) == (None, "")


def test_a_version_whose_alias_is_deleted_meanwhile_is_not_deployed(scene: Scene) -> None:
    scene.shelf.aliases[CHAMPION] = "2"
    on(scene, "during_validation", lambda: scene.shelf.aliases.pop(CHAMPION))
    assert scene.follower.step() == 0
    scene.step()
    assert scene.champion == "1"
    assert "not in the registry" in scene.note["last_error"]
