"""The follower's canary and shadow, and what becomes of the shadow's figures, on a clock that is wound on."""

from typing import Any

from tests.helpers.serving.following import CHALLENGER, CHAMPION


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
    assert scene.shared_state.read("shadow target") == {}  # it is the champion
    scene.shelf.aliases[CHALLENGER] = "2"
    scene.step()
    first = scene.shared_state.read("shadow target")
    assert (first["bundle_version"], first["model_version"]) == (scene.version("2"), "2")
    assert scene.tried == [(scene.version("2"), 1)]
    scene.shelf.aliases[CHALLENGER] = "3"
    scene.bad[scene.version("3")] = "bad"
    scene.step()
    assert scene.shared_state.read("shadow target") == first
    assert "bad" in scene.note["shadow"]["last_error"]
    del scene.shelf.aliases[CHALLENGER]
    scene.step()
    assert scene.shared_state.read("shadow target") == {}
    scene.shelf.aliases[CHALLENGER] = "2"
    scene.step()
    assert scene.shared_state.read("shadow target")["serial"] > first["serial"]
    assert scene.target["serial"] == 1
