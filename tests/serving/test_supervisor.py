"""Workers on one port: one dies and the others do not notice, one signal stops them all, none is left."""

import errno
import json
import os
import signal
import socket
import subprocess
import threading
import time
from itertools import groupby
from pathlib import Path

import psutil
import pytest

from tests.helpers.serving.operated import scrape, workers
from tests.helpers.serving.supervised import supervised
from tests.helpers.waiting import wait_until
from tests.serving.conftest import Start
from twinspire.protos.errors import Unavailable
from twinspire.serving.client import RetrievalClient
from twinspire.serving.supervisor import ProcessSpec, Supervisor, WorkerHandle, reserved

pytestmark = [pytest.mark.exhaustive, pytest.mark.quiet]

CLIENTS = 12


class Asker(threading.Thread):
    """A client with a connection of its own, which asks until it is told to stop."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._stopped = threading.Event()
        self.results: list[tuple[int, str]] = []  # which worker answers it, and what became of each request

    def run(self) -> None:
        with RetrievalClient(self._address, timeout=5.0, retries=False) as client:
            pid = client.info().state["worker_pid"]
            while not self._stopped.is_set():
                try:
                    found = len(client.search("bavuti xelike", k=3).hits)
                    self.results.append((pid, "OK" if found == 3 else f"{found} hits"))
                except Unavailable as error:
                    self.results.append((pid, type(error).__name__))

    def finish(self) -> list[tuple[int, str]]:
        self._stopped.set()
        self.join(30)
        return self.results


def test_a_worker_that_is_killed_comes_back_and_the_others_do_not_notice(start_server: Start) -> None:
    process, address = start_server("--workers", "2", "--metrics-port", "0", "--json")
    assert process.stdout is not None
    metrics_port = json.loads(process.stdout.readline())["metrics_port"]
    victim, other = sorted(workers(process, address))
    before = scrape(metrics_port)["twinspire_requests_total['OK', 'Search']"]
    askers = [Asker(address) for _ in range(CLIENTS)]
    for asker in askers:
        asker.start()
    wait_until(lambda: all(len(asker.results) > 20 for asker in askers), 30)
    os.kill(victim, signal.SIGKILL)

    def is_back() -> bool:
        with RetrievalClient(address) as client:
            state = client.info().state
        return bool(state["workers_up"] == 2 and state["restarts"] == 1)

    killed = time.monotonic()
    wait_until(is_back, 10)
    assert time.monotonic() - killed < 3
    assert victim not in workers(process, address)
    wait_until(lambda: all(asker.results[-1][1] == "OK" for asker in askers), 10)
    answered, told = 0, set()
    for asker in askers:
        results = asker.finish()
        # A client that cannot connect says so by a kind of `Unavailable`.
        codes = [code.replace("ConnectionFailed", "Unavailable") for _, code in results]
        turns = [code for code, _ in groupby(codes)]
        # Its own clients fail until they have connected again, and then no more; the others never.
        assert turns in ([["OK"]] if results[0][0] == other else [["OK"], ["OK", "Unavailable", "OK"]])
        answered += codes.count("OK")
        told.add(results[0][0])
    assert told == {victim, other}
    after = scrape(metrics_port)
    counted = after["twinspire_requests_total['OK', 'Search']"] - before
    # The killed worker may have answered what nobody got, and not have counted what it had just sent.
    assert abs(counted - answered) <= CLIENTS
    assert sum(value for name, value in after.items() if name.startswith("twinspire_worker_up")) == 2


def test_metrics_on_any_free_port_keep_it_when_their_process_is_restarted(start_server: Start) -> None:
    process, _ = start_server("--workers", "1", "--metrics-port", "0", "--json")
    assert process.stdout is not None
    port = json.loads(process.stdout.readline())["metrics_port"]

    (victim,) = (
        child
        for child in psutil.Process(process.pid).children()
        if port in {each.laddr.port for each in child.net_connections("tcp")}
    )
    victim.kill()

    def scraped() -> dict[str, float]:
        try:
            return scrape(port)
        except OSError:
            return {}

    assert wait_until(scraped)["twinspire_worker_up['0']"] == 1


def test_nobody_outlives_a_killed_supervisor(start_server: Start) -> None:
    process, _ = start_server("--workers", "2")
    everybody = psutil.Process(process.pid).children()
    assert len(everybody) == 2
    process.kill()
    wait_until(lambda: not any(child.is_running() for child in everybody), 20)


def test_workers_share_the_memory_of_the_bundle(start_server: Start) -> None:
    process, address = start_server("--workers", "2")
    for pid in workers(process, address):
        found = psutil.Process(pid).memory_full_info()
        assert found.pss < 0.8 * found.rss


def test_what_does_not_come_up_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def fail(handle: WorkerHandle) -> None:
        raise Unavailable("no room")

    with pytest.raises(Unavailable, match="ended before it was ready"):
        Supervisor([ProcessSpec("worker 0", fail)], 1.0).run(lambda: pytest.fail("it is not ready"))


def test_one_that_keeps_dying_is_given_pauses(tmp_path: Path) -> None:
    with supervised(tmp_path, crashes=True):
        wait_until(lambda: len([*tmp_path.iterdir()]) >= 5, 60)
    starts = sorted(int(each.name) for each in tmp_path.iterdir())
    assert starts[4] - starts[0] >= (0.1 + 0.2 + 0.4 + 0.8) * 1e9  # between the first five


@pytest.mark.parametrize("function", ["fork", "pipe"])
def test_a_first_start_that_the_system_refuses_is_an_error_of_its_own(
    function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, function, refuse)
    supervisor = Supervisor([ProcessSpec("worker 0", lambda handle: None)], 1.0)
    with pytest.raises(Unavailable, match=r"^worker 0: cannot be started: Resource temporarily unavailable"):
        supervisor.run(lambda: pytest.fail("it is not ready"))


@pytest.mark.parametrize("function", ["fork", "pipe"])
def test_a_restart_that_the_system_refuses_is_tried_again(tmp_path: Path, function: str) -> None:
    with supervised(tmp_path, failing=function, failures=3) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (victim,) = _children(process)
        supervisor = psutil.Process(process.pid)
        descriptors = supervisor.num_fds()
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic_ns()
        wait_until(lambda: len([*tmp_path.iterdir()]) == 2)
        wait_until(lambda: supervisor.num_fds() == descriptors)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=10)
    assert process.returncode == 0
    assert log.count(f"process cannot be started: [Errno {errno.EAGAIN}]") == 3
    restarted = max(int(each.name) for each in tmp_path.iterdir())
    assert restarted - killed >= (0.1 + 0.2 + 0.4) * 1e9  # between the attempts
    assert "Traceback" not in log


def test_a_platform_without_sigtimedwait_restarts_and_stops(tmp_path: Path) -> None:
    with supervised(tmp_path, without_timed_wait=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (victim,) = _children(process)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len([*tmp_path.iterdir()]) == 2)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "process died (SIGKILL)" in log
    assert "Traceback" not in log


def test_a_port_that_somebody_has_is_refused_even_if_they_would_share_it() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Unavailable, match="cannot listen there"), reserved("127.0.0.1", port):
            pass
    with pytest.raises(Unavailable, match="not the name of a host"), reserved("..", 0):
        pass
    with reserved("127.0.0.1", 0) as free:
        assert 0 < free < 65_536


def _children(process: "subprocess.Popen[str]") -> set[int]:
    """The ids of the processes that the supervisor has forked and that live."""
    living = psutil.Process(process.pid).children()
    return {child.pid for child in living if child.status() != psutil.STATUS_ZOMBIE}
