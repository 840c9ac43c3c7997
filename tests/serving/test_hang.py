"""A worker that hangs is killed and replaced, and a pause of the whole machine kills none."""

import json
import os
import signal
import time
from collections import deque
from pathlib import Path

import psutil
import pytest

from tests.helpers.serving.cataloguing import catalogue_service, item
from tests.helpers.serving.operated import log_until, scrape, workers
from tests.helpers.serving.supervised import supervised
from tests.helpers.waiting import wait_until
from tests.serving.conftest import Start
from twinspire.protos.errors import TwinspireError
from twinspire.serving.client import RetrievalClient

pytestmark = pytest.mark.exhaustive


def answers(address: str) -> bool:
    """Whether a request on a new connection is answered within two seconds."""
    try:
        with RetrievalClient(address, timeout=2.0, retries=False) as client:
            return len(client.search("bavuti xelike", k=3).hits) == 3
    except TwinspireError:
        return False


@pytest.mark.quiet
def test_a_stopped_worker_is_replaced_and_new_connections_are_answered_again(start_server: Start) -> None:
    process, address = start_server(
        "--workers", "2", "--worker-timeout", "4", "--metrics-port", "0", "--json"
    )
    assert process.stdout is not None
    metrics_port = json.loads(process.stdout.readline())["metrics_port"]
    victim, other = sorted(workers(process, address))
    os.kill(victim, signal.SIGSTOP)
    last: deque[bool] = deque(maxlen=20)

    def well_again() -> bool:
        last.append(answers(address))
        return len(last) == 20 and all(last) and not psutil.pid_exists(victim)

    wait_until(well_again, 90)
    assert "no heartbeat for 4 s; killed" in log_until(process, " hangs: ")[-1]
    now = workers(process, address)
    assert other in now
    assert victim not in now
    figures = scrape(metrics_port)
    assert {figures[f"twinspire_worker_hangs_total['{slot}']"] for slot in (0, 1)} == {0, 1}
    assert sum(figures[f"twinspire_worker_restarts_total['{slot}']"] for slot in (0, 1)) == 1


def test_a_stopped_process_of_the_catalogue_is_replaced_and_the_write_that_waits_is_carried_out(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/items.db"
    with (
        catalogue_service(plain, url, tmp_path / "service", "--worker-timeout", "10") as service,
        RetrievalClient(service.address, timeout=90.0) as client,
    ):
        client.upsert([item("a")])
        victim, workers_before = service.store_pid(), service.worker_pids()
        os.kill(victim, signal.SIGSTOP)
        started = time.monotonic()
        assert client.search("bavuti", k=1).sequence == 1
        assert client.upsert([item("b")]).sequence == 2
        assert time.monotonic() - started < 30
        assert not psutil.pid_exists(victim)
        assert service.store_pid() != victim
        assert service.worker_pids() == workers_before
        assert "catalogue hangs: no heartbeat for 15 s; killed" in service.log
        assert client.info().state["catalogue"]["last_error"] == ""


@pytest.mark.quiet
def test_a_pause_of_all_processes_kills_none(start_server: Start) -> None:
    process, address = start_server("--workers", "2", "--worker-timeout", "4")
    before = workers(process, address)
    supervisor = psutil.Process(process.pid)
    children = supervisor.children()
    for child in children:
        child.suspend()
    time.sleep(1.2)  # the supervisor sees that the heartbeats have stopped
    supervisor.suspend()
    time.sleep(4)
    supervisor.resume()
    time.sleep(0.1)  # it runs again before the workers do
    for child in children:
        child.resume()
    time.sleep(1)
    assert workers(process, address) == before
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=20)
    assert "hangs" not in log
    assert process.returncode == 0


@pytest.mark.quiet
def test_a_process_that_has_not_started_yet_may_take_longer_than_the_timeout(tmp_path: Path) -> None:
    """Loading a large bundle shows no heartbeat."""

    def starts() -> int:
        return len(list(tmp_path.iterdir()))

    with supervised(tmp_path, timeout=0.2, heartbeat=0.0):
        wait_until(lambda: starts() == 1, 60)
        time.sleep(0.6)
        assert starts() == 1
    with supervised(tmp_path, timeout=0.2, heartbeat=1.0):
        wait_until(lambda: starts() >= 4, 60)
