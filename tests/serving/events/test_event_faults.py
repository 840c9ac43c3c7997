"""A service that records events while its processes are killed, and while its disk is full."""

import resource
from pathlib import Path

import pytest

from tests.helpers.answers import differences
from tests.helpers.serving.cataloguing import CatalogueService
from tests.load.loop.kills import kills
from twinspire.protos.errors import Unavailable
from twinspire.serving.client import Event, Query

pytestmark = pytest.mark.exhaustive


def test_what_was_acknowledged_is_stored_once_whatever_is_killed(service: CatalogueService) -> None:
    found = kills(service, 3, victims=("store", "worker"))
    assert found["killed"] == {"store": 2, "worker": 1}
    assert found["acknowledged"] > 0
    # Nothing is refused: the client sends requests again, and they have ids.
    assert (found["refused"], found["lost"], found["twice"]) == (0, 0, 0)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="there is no prlimit")
def test_on_a_full_disk_events_are_refused_and_searches_go_on(small: CatalogueService) -> None:
    with small.client() as client:
        client.record([Event("u", "item-001")])
        expected = client.search(Query(history=("item-001",)), k=5)
        log = Path(small.url.removeprefix("sqlite:///") + "-wal")
        pid = small.store_pid()
        most = log.stat().st_size + 4096
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        with pytest.raises(Unavailable, match="the store of events cannot be written now"):
            client.record([Event("u", f"item-{n:03}") for n in range(1000)], timeout=3.0)
        assert differences([expected], [client.search(Query(user="u"), k=5)]) == []
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert client.record([Event("u", "item-002")]).stored == 1
        assert small.store_pid() == pid
