"""The follower's canary and shadow, and aliases that move during its work, on a clock that is wound on."""

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
    scene.promote("2")  # it is not a version that was refused
    assert scene.champion == "2"


@pytest.mark.parametrize("step", STEPS)
def test_a_newer_promotion_takes_the_place_of_one_in_preparation(scene: Scene, step: str) -> None:
    on(scene, step, lambda: scene.shelf.aliases.update({CHAMPION: "3"}))
    scene.promote("2")
    scene.step()
    assert (scene.champion, scene.target["serial"], scene.note["swaps"]) == ("3", 2, 1)


@pytest.mark.parametrize("role", ["canary", "shadow"])
def test_a_rollback_during_the_download_of_another_alias_comes_with_the_next_poll(
    make: Any, role: str
) -> None:
    scene = make(**{role: CHALLENGER})
    scene.promote("3")
    on(scene, "during_download", lambda: scene.shelf.aliases.update({CHAMPION: "1"}))
    scene.promote("2", CHALLENGER)
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


def test_a_canary_answers_a_share(make: Any) -> None:
    scene = make(canary=CHALLENGER, canary_share=0.25)
    scene.step()
    assert not scene.target["canary"]
    assert scene.note["canary"]["last_error"] == ""  # there need not be one
    scene.promote("2", CHALLENGER)
    assert scene.target["canary"]["bundle_version"] == scene.version("2")
    assert scene.target["canary"]["share"] == 0.25
    assert (scene.champion, scene.target["serial"], scene.note["swaps"]) == ("1", 2, 0)
    assert scene.note["canary"]["swaps"] == 1
    del scene.shelf.aliases[CHALLENGER]
    scene.step()
    assert (scene.target["canary"], scene.target["serial"]) == (None, 3)


def test_a_canary_that_is_promoted_is_the_champion_at_once(make: Any) -> None:
    scene = make(canary=CHALLENGER)
    scene.promote("2", CHALLENGER)
    seen: list[tuple[str, bool]] = []
    scene.clock.meanwhile.append(lambda: seen.append((scene.champion, scene.target["canary"] is not None)))
    scene.promote("2")
    assert scene.target["serial"] == 3
    assert set(seen) == {("1", True), ("2", False)}  # and never both
    scene.step()
    assert scene.target["serial"] == 3


def test_a_canary_that_cannot_be_had_does_not_touch_the_champion(make: Any) -> None:
    scene = make(canary=CHALLENGER)
    scene.crew.cannot[scene.version("2")] = "no memory"
    scene.promote("2", CHALLENGER)
    assert (scene.champion, scene.target["canary"], scene.target["serial"]) == ("1", None, 1)
    assert scene.note["last_error"] == ""
    assert "no memory" in scene.note["canary"]["last_error"]
    scene.promote("3")
    assert scene.champion == "3"


def test_a_champion_goes_on_beside_its_canary_when_another_is_refused(make: Any) -> None:
    scene = make(canary=CHALLENGER, canary_share=0.5)
    scene.promote("2", CHALLENGER)
    scene.crew.cannot[scene.version("3")] = "no memory"
    scene.promote("3")
    assert (scene.champion, scene.target["canary"]["model_version"]) == ("1", "2")
    assert scene.target["canary"]["share"] == 0.5


def test_a_shadow_gets_a_target_of_its_own(make: Any) -> None:
    scene = make(shadow=CHALLENGER)
    scene.promote("1", CHALLENGER)
    assert scene.shared_state.read("shadow target") == {}  # it is the champion
    scene.promote("2", CHALLENGER)
    first = scene.shared_state.read("shadow target")
    assert (first["bundle_version"], first["model_version"]) == (scene.version("2"), "2")
    assert scene.tried == [(scene.version("2"), 1)]
    scene.bad[scene.version("3")] = "bad"
    scene.promote("3", CHALLENGER)
    assert scene.shared_state.read("shadow target") == first
    assert "bad" in scene.note["shadow"]["last_error"]
    del scene.shelf.aliases[CHALLENGER]
    scene.step()
    assert scene.shared_state.read("shadow target") == {}
    scene.promote("2", CHALLENGER)
    assert scene.shared_state.read("shadow target")["serial"] > first["serial"]
    assert scene.target["serial"] == 1
