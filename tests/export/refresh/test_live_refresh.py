"""A running service follows a refresh: no call fails, its overlay empties, and a rollback loses nothing."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.refreshing import World
from tests.helpers.serving.faulty import NAME, Asker, Service
from tests.helpers.tiny import item_names
from tests.helpers.waiting import wait_until
from twinspire.export.release.commands import roll_back
from twinspire.serving.client import Item

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.exhaustive,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("warm_fetches"),
]

LIVE = 200
TEXTS = [f"{name} lamp{n:03}" for n, name in enumerate(item_names(LIVE))]
DELETED = [f"item-{n:03}" for n in range(5)] + ["new-199"]


@pytest.fixture
def world(store: str, tmp_path: Path) -> World:
    world = World(tmp_path, NAME)
    world.release()
    return world


@pytest.fixture
def service(world: World, store: str, tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "service").mkdir()
    service = Service(store, tmp_path / "service", "--catalogue", world.url)
    yield service
    if service.process.poll() is None:
        service.stop()


def test_a_service_follows_a_refresh_and_a_rollback_without_a_failed_call(
    world: World, service: Service
) -> None:
    asker = Asker(service.told["address"])
    asker.start()
    client = service.client
    client.upsert([Item(f"new-{n}", {"text": text}, {"name": text}) for n, text in enumerate(TEXTS)])
    client.delete(DELETED)
    _check(service)
    wait_until(partial(_has_live_items, service, LIVE - 1), 30, service.log)
    done = world.refresh()
    assert (done["catalogue"]["sequence"], done["encoded"]) == (LIVE + len(DELETED), LIVE - 1)
    wait_until(partial(_serves, service, "2"), 90, service.log)
    wait_until(partial(_has_live_items, service, 0), 30, service.log)
    assert service.metric("twinspire_catalogue_tombstones") == 0
    _check(service)
    written = client.upsert([Item("late", {"text": "late lamp"}, {"name": "late"})])
    client.delete(["new-7"], expected={"new-7": 8})
    for version, live in (("1", LIVE - 1), ("2", 1)):  # without new-7, and with the late one
        roll_back(world.name, version, "for the test")
        wait_until(partial(_serves, service, version), 90, service.log)
        _check(service, gone=("new-7",))
        found = client.search("late lamp", k=60, min_sequence=written.sequence)
        assert "late" in {hit.id for hit in found.hits}
        wait_until(partial(_has_live_items, service, live), 30, service.log)
    asker.stop()
    assert asker.errors == []
    assert len({version for version, _ in asker.answers}) == 2
    assert not any(set(DELETED) & set(ids) for _, ids in asker.answers[-20:])


def _serves(service: Service, version: str) -> bool:
    return service.served() == version


def _has_live_items(service: Service, count: int) -> bool:
    return service.metric("twinspire_catalogue_items") == count


def _check(service: Service, gone: tuple[str, ...] = ()) -> None:
    """Each live item is found by its own text, and no deleted one is."""
    deleted = {*DELETED, *gone}
    for start in range(0, LIVE, 100):
        texts = TEXTS[start : start + 100]
        for n, answer in enumerate(service.client.search_batch(texts, k=10), start):
            ids = [hit.id for hit in answer.hits]
            assert not deleted & set(ids)
            assert len(set(ids)) == 10
            if f"new-{n}" not in deleted:
                assert f"new-{n}" in ids, n
