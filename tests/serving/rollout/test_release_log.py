"""When the follower reads releases, and what stays known when it cannot, on a clock that is wound on."""

import logging
from typing import Any

import pytest

from protos import retrieval_pb2 as wire
from protos.errors import Unavailable
from protos.release_records import ReleaseRecord
from serving.observability.worker_metrics import SharedMetrics
from serving.rollout.release_log import LONGEST_SECONDS, READ_SECONDS
from serving.rollout.release_records import document
from serving.service_status import ServiceStatus
from tests.helpers.serving.following import CHAMPION, Scene


def record(number: int, after: str, outcome: str = "done", reason: str = "") -> dict[str, Any]:
    return document(
        ReleaseRecord(number, "now", "ann@one", "promote", "", after, reason=reason), "run", outcome, True
    )


def told(scene: Scene) -> wire.ReleasesResponse:
    """The answer of the RPC."""
    return ServiceStatus(scene.shared_state, SharedMetrics.create(1)).releases()


def numbers(scene: Scene) -> list[int]:
    return [each.number for each in told(scene).records]


def asked_within(scene: Scene, seconds: float) -> int:
    """How often the registry is asked for releases in so much time."""
    before, until = len(scene.shelf.releases_asked), scene.clock.monotonic() + seconds
    while scene.clock.monotonic() < until:
        scene.step()
    return len(scene.shelf.releases_asked) - before


def test_releases_are_read_at_the_start_and_now_and_then(scene: Scene) -> None:
    assert (told(scene).model, told(scene).read_at) == (CHAMPION, 0.0)
    scene.shelf.records = [record(1, "1")]
    scene.step()
    found = told(scene)
    assert (found.model, found.model_version, found.bundle_version) == (CHAMPION, "1", scene.version("1"))
    assert (found.promotion.number, numbers(scene), found.last_error) == (1, [1], "")
    assert found.read_at > 1e9
    scene.shelf.records = [record(2, "2"), record(1, "1")]  # such as a refusal: the alias stays
    assert 4 <= asked_within(scene, 5 * READ_SECONDS) <= 6
    assert numbers(scene) == [2, 1]


def test_a_swap_brings_the_promotion_of_what_is_served_at_once(scene: Scene) -> None:
    scene.shelf.records = [record(1, "1")]
    scene.step()
    scene.shelf.aliases[CHAMPION] = "2"
    scene.shelf.records = [record(2, "2"), record(1, "1")]
    scene.step()
    assert (told(scene).model_version, told(scene).promotion.number) == ("2", 2)
    assert scene.shelf.releases_asked == ["1", "2"]


def test_the_promotion_of_another_version_is_never_shown(scene: Scene) -> None:
    scene.shelf.records = [record(1, "1")]
    scene.step()
    scene.shelf.aliases[CHAMPION] = "2"
    scene.shelf.records_lost = Unavailable("the table is locked")
    scene.step()
    found = told(scene)
    assert (found.model_version, found.HasField("promotion"), numbers(scene)) == ("2", False, [1])
    assert found.last_error == "the table is locked"
    assert found.read_at == 0  # not read for version 2, so nothing is said of its promotion


def test_a_release_under_way_is_read_again_at_the_next_poll(scene: Scene) -> None:
    scene.shelf.records = [record(1, "1", "under way")]
    for _ in range(3):
        scene.step()
    assert len(scene.shelf.releases_asked) == 3
    scene.shelf.records = [record(1, "1")]
    scene.step()
    assert told(scene).records[0].outcome == "done"


def test_a_release_that_seems_interrupted_is_read_twice(scene: Scene) -> None:
    """Its run was read before its lock, and it may have ended in between."""
    scene.shelf.records = [record(1, "1", "interrupted")]
    for _ in range(4):
        scene.step()
    assert len(scene.shelf.releases_asked) == 2


def test_the_error_of_an_outage_is_a_line_and_ends_with_it(scene: Scene) -> None:
    scene.shelf.records = [record(1, "1")]
    scene.step()
    scene.shelf.down = "refused \x1b[31m by\nthe \u202eproxy"
    scene.step()
    error = told(scene).last_error
    assert error.isprintable() and "refused" in error
    scene.shelf.down = ""
    scene.step()
    assert told(scene).last_error == ""


@pytest.mark.parametrize("error", [Unavailable("the table is locked"), KeyError("result"), RecursionError()])
def test_a_read_that_fails_costs_nothing_that_is_served(
    scene: Scene, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    scene.shelf.records = [record(1, "1")]
    scene.step()
    scene.shelf.records_lost = error
    with caplog.at_level(logging.WARNING):
        assert 1 <= asked_within(scene, READ_SECONDS + 20) <= 2
        assert asked_within(scene, 10 * LONGEST_SECONDS) <= 16  # it is asked ever less often
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert numbers(scene) == [1]
    assert told(scene).last_error
    assert scene.note["last_error"] == ""  # of the alias nothing is wrong
    scene.shelf.aliases[CHAMPION] = "2"
    scene.step()
    assert scene.champion == "2"
    scene.shelf.records_lost = None
    asked_within(scene, LONGEST_SECONDS + READ_SECONDS)  # polls are some seconds apart
    assert told(scene).last_error == ""


def test_a_registry_that_is_down_is_not_asked_and_what_is_known_stays(scene: Scene) -> None:
    scene.shelf.records = [record(1, "1")]
    scene.step()
    scene.shelf.down = "connection refused"
    asked = asked_within(scene, 20 * READ_SECONDS)
    assert asked == 0
    assert (numbers(scene), told(scene).promotion.number) == ([1], 1)
    assert "connection refused" in told(scene).last_error
    scene.start()  # another process of the follower, which has not read anything
    scene.step()
    assert (numbers(scene), told(scene).promotion.number) == ([1], 1)
    scene.shelf.down = ""
    asked_within(scene, READ_SECONDS)
    assert told(scene).last_error == ""


def test_what_has_no_room_is_left_out_oldest_first(scene: Scene) -> None:
    long = "\U0001f4a3" * 1000  # 12 bytes each in the entry
    scene.shelf.records = [record(number, "1", reason=long) for number in range(40, 0, -1)]
    scene.step()
    found = numbers(scene)
    assert 10 < len(found) < 40
    assert found == list(range(40, 40 - len(found), -1))
    assert told(scene).records[0].reason == long
