"""The shadow at work: on real answers, beside a champion that changes, through targets that are none."""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.serving.live import LiveWorld
from tests.helpers.serving.operated import supervised
from tests.helpers.serving.shadowing import Champion, Scene, asked
from tests.helpers.tiny import item_names, tiny_bundle, watched_bundle
from tests.helpers.tiny_towers import TinyTower
from tests.helpers.waiting import wait_until
from twinspire.protos import bundle
from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.live.encoded_items import folder_of
from twinspire.serving.live.live_items import LivePlace
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.shadow.process import NO_CHALLENGER
from twinspire.serving.shadow.report import shadow_state
from twinspire.serving.supervisor import ProcessSpec
from twinspire.serving.wire import converters

TEXTS = item_names(40)


@pytest.fixture(scope="session")
def champion(plain: Path) -> Champion:
    return Champion(plain)


@pytest.fixture(scope="session")
def equal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The champion's bundle under another version."""
    return tiny_bundle(tmp_path_factory.mktemp("equal"), report='{"as": "good"}\n')


@pytest.fixture(scope="session")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A challenger without some of the items, whose tower does not bear what is not ASCII."""
    return tiny_bundle(tmp_path_factory.mktemp("smaller"), items=200, query_tower=TinyTower(wraps=False))


@pytest.fixture
def scene(champion: Champion) -> Iterator[Scene]:
    scene = Scene()
    scene.serve(champion.version)
    yield scene
    scene.queues.close()


def version_of(folder: Path) -> str:
    return bundle.read(folder).bundle_version


def begin(scene: Scene, folder: Path) -> None:
    """Let the shadow load a bundle as its challenger."""
    scene.challenge(folder, version_of(folder))
    scene.shadow.step(0)


def test_an_equal_bundle_finds_the_same(scene: Scene, champion: Champion, equal: Path) -> None:
    assert not scene.mirror.samples()
    begin(scene, equal)
    scene.offer(champion, *asked(*TEXTS), *asked(*TEXTS[:5], k=0), *asked(*TEXTS[:5], k=3))
    note = scene.note()
    assert (note["queries"], note["errors"], note["empty"]) == (50, 0, 0)
    assert note["champion"] == champion.version
    told = wire.Shadow(**shadow_state(note, scene.queues.dropped))
    assert (told.overlap_at_10, told.score_shift) == (1.0, 0.0)
    assert (told.model, told.model_version) == ("models:/tiny@challenger", "2")
    assert (told.bundle_version, told.queries, told.last_error) == (version_of(equal), 50, "")


def test_histories_are_left_out_as_the_champion_leaves_them_out(tmp_path: Path) -> None:
    dataset = {"kind": "tiny", "items": 300, "repeats": "first"}
    one, other = (watched_bundle(tmp_path, dataset=dataset, report=f'{{"as": "{each}"}}\n') for each in "ab")
    history = Query(history=("item-001", "item-002", "item-003"))
    near = [hit.id for hit in Retriever.load(one).search([history], k=3)[0].hits]
    query = converters.query_to_wire(Query(history=tuple(near)))
    scene, champion = Scene(), Champion(one)
    try:
        scene.serve(champion.version)
        scene.challenge(other, version_of(other))
        scene.shadow.step(0)
        requests = [
            wire.SearchRequest(query=query, k=10, exclude_history=each) for each in (None, False, True)
        ]
        scene.offer(champion, *requests)
        note = scene.note()
    finally:
        scene.queues.close()
    assert (note["queries"], note["errors"], note["overlap"]) == (3, 0, 3.0)
    usual, kept, left = (wire.SearchResponse.FromString(champion.answer(each)).hits for each in requests)
    assert [each.id for each in usual] == [each.id for each in left] != [each.id for each in kept]


def test_a_query_that_the_challenger_cannot_take_harms_no_other(
    scene: Scene, champion: Champion, smaller: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene.challenge(smaller, version_of(smaller))
    scene.shadow.step(0)
    unknown = wire.SearchRequest(query=wire.Query(item_id="item-250"))
    known = wire.SearchRequest(query=wire.Query(item_id="item-150"))
    scene.offer(champion, unknown, *asked("bavuti", "größe", "bavuti", "日本"), known)
    note = scene.note()
    assert (note["queries"], note["errors"], note["empty"]) == (6, 3, 0)
    assert note["last_error"] == ""
    told = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(told) == 1  # of the two that its tower does not bear; the client's own error is none


def test_answers_of_two_champions_are_not_mixed(
    scene: Scene, champion: Champion, equal: Path, smaller: Path
) -> None:
    after = Champion(smaller)
    begin(scene, equal)
    scene.offer(champion, *asked(*TEXTS[:3]))
    scene.offer(after, *asked(*TEXTS[:2]))  # a canary's
    before = scene.note()
    assert (before["queries"], before["champion"]) == (3, champion.version)

    scene.serve(after.version)
    scene.offer(champion, *asked(*TEXTS[:5]))  # of a worker that has not swapped yet
    assert scene.note() == before
    scene.serve(champion.version)  # one could not, so it is taken back
    scene.offer(champion, *asked(*TEXTS[:1]))
    assert scene.note()["queries"] == 4

    scene.serve(after.version)
    scene.offer(after, *asked(*TEXTS[:2]))
    note = scene.note()
    assert (note["queries"], note["champion"]) == (2, after.version)
    assert note["overlap"] < note["overlaps"] == 2
    assert before["overlap"] == before["overlaps"]


def test_a_challenger_that_becomes_champion_is_not_compared_with_itself(
    scene: Scene, champion: Champion, smaller: Path
) -> None:
    after = Champion(smaller)
    scene.challenge(smaller, after.version)
    scene.shadow.step(0)
    scene.offer(champion, *asked(*TEXTS[:3]))
    before = scene.note()
    scene.serve(after.version)
    scene.offer(after, *asked(*TEXTS))
    assert scene.note() == before
    assert scene.note()["champion"] == champion.version


def test_another_challenger_begins_anew(scene: Scene, champion: Champion, equal: Path, smaller: Path) -> None:
    scene.challenge(smaller, version_of(smaller))
    scene.shadow.step(0)
    scene.mirror.send(wire.SearchRequest(), bytes(8 << 20))
    scene.offer(champion, *asked(*TEXTS[:3]))
    first = scene.note()
    assert shadow_state(first, scene.queues.dropped)["dropped"] == 1
    scene.challenge(equal, version_of(equal))
    note = scene.note()
    assert (note["queries"], note["champion"]) == (0, "")
    assert shadow_state(note, scene.queues.dropped)["dropped"] == 0
    scene.challenge(equal, version_of(equal))  # the same under another serial goes on
    scene.offer(champion, *asked(*TEXTS[:1]))
    assert scene.note()["queries"] == 1


def test_a_target_that_cannot_be_loaded_is_told_and_tried_again_with_the_next(
    scene: Scene, champion: Champion, equal: Path, tmp_path: Path
) -> None:
    version = version_of(equal)
    damaged = tmp_path / equal.name
    shutil.copytree(equal, damaged)
    (damaged / bundle.VECTORS).write_bytes(b"")
    scene.challenge(damaged, version)
    note = scene.note()
    assert note["bundle_version"] == version
    assert bundle.VECTORS in note["last_error"]
    assert str(tmp_path) not in note["last_error"]
    scene.offer(champion, *asked("bavuti"))  # with nothing to compare it with
    assert scene.note()["queries"] == 0
    shutil.copy(equal / bundle.VECTORS, damaged / bundle.VECTORS)
    assert scene.note()["last_error"] != ""
    scene.challenge(damaged, version)
    assert scene.note()["last_error"] == ""
    scene.offer(champion, *asked("bavuti"))
    assert scene.note()["queries"] == 1


def test_live_items_that_cannot_be_opened_again_leave_the_shadow_with_what_it_has(
    champion: Champion, equal: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = LiveWorld(equal, tmp_path / "live")
    world.put("first", "bavuti")
    world.sync()
    path = folder_of(world.place, world.origin) / f"{time.time_ns() + 10**12}.db"
    scene = Scene(
        LivePlace(world.place, lambda: {"store_id": world.feed.store_id, "sequence": world.feed.sequence()})
    )
    try:
        scene.serve(champion.version)
        begin(scene, equal)
        path.write_bytes(b"junk" * 1000)
        scene.offer(champion, *asked(*TEXTS))
        assert scene.note()["queries"] == 40  # and the shadow has not ended
        errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
        assert len(errors) == 1
        assert errors[0].startswith("the shadow's live items cannot be opened again: ")
        assert str(path) in errors[0]
        path.unlink()
        world.put("second", "kelimo")
        world.sync()
        scene.offer(champion, *asked(*TEXTS[:1]))
        assert scene.note()["queries"] == 41
        assert scene.shadow._live is not None
        assert scene.shadow._live.segment.sequence == 2
    finally:
        scene.queues.close()


def test_without_a_target_nothing_is_asked(scene: Scene, champion: Champion, equal: Path) -> None:
    assert (scene.note()["bundle_version"], scene.note()["last_error"]) == ("", NO_CHALLENGER)
    assert not scene.mirror.samples()
    begin(scene, equal)
    scene.offer(champion, *asked("bavuti"))
    scene.shared_state.write("shadow target", {})
    note = scene.note()
    assert (note["queries"], note["bundle_version"], note["last_error"]) == (0, "", NO_CHALLENGER)
    assert not scene.queues.wait(0)


@pytest.mark.exhaustive
def test_a_shadow_that_is_killed_is_started_again_at_the_lowest_priority(
    scene: Scene, champion: Champion, equal: Path
) -> None:
    scene.challenge(equal, version_of(equal))

    def note() -> dict[str, Any]:
        return scene.shared_state.read("shadow")

    with supervised(ProcessSpec("shadow", scene.shadow.run)):
        wait_until(lambda: "pid" in note())
        scene.offer(champion, *asked(*TEXTS))
        wait_until(lambda: note()["queries"] == 40)
        shadow = psutil.Process(note()["pid"])
        idle = os.sched_getscheduler(shadow.pid) == os.SCHED_IDLE
        assert idle or shadow.nice() > psutil.Process().nice()  # where the system knows no such thing
        shadow.kill()
        wait_until(lambda: note()["pid"] != shadow.pid)
        scene.offer(champion, *asked(*TEXTS[:10]))
        wait_until(lambda: note()["queries"] == 10)
    assert (note()["overlap"], note()["errors"]) == (10.0, 0)
    assert scene.queues.dropped == 0
    assert not psutil.pid_exists(note()["pid"])
