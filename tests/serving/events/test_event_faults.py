"""A service that records events while its processes are killed, and while its disk is full."""

import resource
import signal
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.helpers.answers import differences
from tests.helpers.serving.cataloguing import CatalogueService
from tests.helpers.waiting import wait_until
from twinspire.protos.errors import TwinspireError, Unavailable
from twinspire.serving.client import Event, Query
from twinspire.serving.events.store import EventStore

pytestmark = pytest.mark.exhaustive
WRITERS = 4


def test_what_was_acknowledged_is_stored_once_whatever_is_killed(service: CatalogueService) -> None:
    acknowledged: list[str] = []
    refused: list[Exception] = []
    stop = threading.Event()

    def record(writer: int) -> None:
        with service.client() as client:
            n = 0
            while not stop.is_set():
                ids = [f"{writer}-{n}-{m}" for m in range(3)]
                try:
                    client.record([Event(f"user-{writer}", each) for each in ids])
                    acknowledged.extend(ids)
                except TwinspireError as error:
                    refused.append(error)
                n += 1

    def more() -> None:
        before = len(acknowledged)
        wait_until(lambda: len(acknowledged) > before + 60)

    threads = [threading.Thread(target=record, args=[n]) for n in range(WRITERS)]
    for thread in threads:
        thread.start()
    for pid in (service.store_pid, lambda: min(service.worker_pids()), service.store_pid):
        more()
        victim = psutil.Process(pid())
        victim.send_signal(signal.SIGKILL)
        victim.wait(20)
    more()
    stop.set()
    for thread in threads:
        thread.join()
    assert not refused  # the client sends them again, and they have ids
    with closing(EventStore.open(service.url, create=False)) as store:
        with store.all() as parts:
            stored = Counter(row.item_id for part in parts for row in part)
        assert set(stored.values()) == {1}
        assert {*acknowledged} <= stored.keys()


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
