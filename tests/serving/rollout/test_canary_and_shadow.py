"""The whole service with a canary and a shadow: both follow their alias, and both are told of."""

import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.serving.faulty import NAME, QUERY, TwoBundles
from tests.helpers.tiny import item_names
from tests.helpers.waiting import wait_until
from twinspire.serving.client import RetrievalClient

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.exhaustive]

CHALLENGER = "challenger"
MODEL = f"models:/{NAME}@{CHALLENGER}"


class Scene(TwoBundles):
    """A registry and a service, and what its bundles answer."""

    def roles(self) -> dict[str, dict[str, Any]]:
        """What is served, by its role."""
        return {each["role"]: each for each in self.service.state()["bundles"]}

    def ask(self, count: int) -> set[str]:
        """Ask so many different queries; gives which bundles answered."""
        answers = [self.service.client.search(name) for name in item_names(count)]
        return {answer.bundle_version[:12] for answer in answers}


@pytest.fixture
def scene(tmp_path: Path, empty_store: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, empty_store)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.quiet  # the service has little time to end the run of its shadow when it stops
def test_a_challenger_answers_a_part_and_is_asked_the_rest(scene: Scene) -> None:
    first, second = (folder.name for folder in scene.bundles)
    service = scene.service
    assert set(scene.roles()) == {"champion"}
    wait_until(lambda: service.state()["shadow"]["last_error"], 60, service.log)  # there is no challenger yet
    assert scene.ask(20) == {first}
    scene.versions.point("2", CHALLENGER)
    wait_until(lambda: "canary" in scene.roles(), 60, service.log)
    assert scene.roles()["canary"]["model_version"] == "2"
    wait_until(lambda: scene.ask(40) == {first, second})  # the workers change within a tenth of a second
    with RetrievalClient(service.told["address"]) as client:
        assert client.search(QUERY).bundle_version == service.client.search(QUERY).bundle_version
    wait_until(lambda: not service.state()["shadow"]["last_error"], 60, service.log)

    def asked() -> bool:
        scene.ask(40)
        return bool(service.state()["shadow"]["queries"] >= 20)

    wait_until(asked, 60, lambda: service.state()["shadow"])
    shadow = service.state()["shadow"]
    assert (shadow["model"], shadow["bundle_version"][:12], shadow["errors"]) == (MODEL, second, 0)
    assert 0 < shadow["overlap_at_10"] < 1
    assert service.metric("twinspire_shadow_queries_total") >= 20
    for process in ("supervisor", "worker-1", "metrics", "follower", "shadow"):
        assert service.metric("twinspire_process_resident_bytes", process=process) > 0
    # A promotion ends both, without a request that failed.
    scene.versions.point("2")
    wait_until(lambda: service.served() == "2" and set(scene.roles()) == {"champion"}, 60, service.log)
    wait_until(lambda: scene.ask(40) == {second})
    assert set(service.state()["requests"]) == {"OK"}
    service.stop()
    assert "Traceback" not in service.log()


def test_a_canary_that_cannot_be_had_costs_nobody_an_answer(scene: Scene, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{}")
    scene.versions.point(scene.versions.add(broken), CHALLENGER)
    service = scene.service
    wait_until(lambda: "is refused" in service.log(), 60, service.log)
    assert set(scene.roles()) == {"champion"}
    assert scene.ask(40) == {scene.bundles[0].name}
    assert not service.following()["last_error"]  # of the champion's alias nothing is wrong
    scene.versions.point("2", CHALLENGER)
    wait_until(lambda: "canary" in scene.roles(), 60, service.log)
    # As systemd and a terminal do it: all processes get the signal at once.
    for each in (psutil.Process(service.process.pid), *service.processes()):
        with suppress(psutil.NoSuchProcess):  # it may have stopped already
            each.send_signal(signal.SIGINT)
    assert service.process.wait(30) == 0
    assert "Traceback" not in service.log()
    service.stop()


def test_a_service_interleaves_the_answers_of_both(tmp_path: Path, empty_store: Path) -> None:
    scene = Scene(tmp_path, empty_store, "--canary-share", "0", "--interleave-share", "1")
    try:
        service = scene.service
        scene.versions.point("2", CHALLENGER)
        wait_until(lambda: "canary" in scene.roles(), 60, service.log)

        def are_interleaved() -> bool:
            assert scene.ask(20) == {scene.bundles[0].name}  # an answer names the champion
            return service.metric("twinspire_interleaved_total", by="both") >= 20

        wait_until(are_interleaved, 60, service.log)
        assert service.metric("twinspire_interleaved_total", by="champion") == 0
        assert set(service.state()["requests"]) == {"OK"}
    finally:
        scene.close()
