"""SIGTERM: no new request is taken, the one in flight is finished, the process ends with 0."""

import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.helpers.serving.operated import log_until
from tests.helpers.serving.stopping import Made, made_service
from tests.helpers.serving.supervised import supervised
from tests.helpers.waiting import wait_until
from tests.serving.conftest import Start
from twinspire.protos.errors import Unavailable
from twinspire.serving.client import RetrievalClient

pytestmark = [pytest.mark.exhaustive, pytest.mark.quiet]

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def refuses_new_requests(address: str) -> bool:
    """Whether new requests are refused, at the latest a moment after NOT_SERVING was said."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            with RetrievalClient(address, timeout=1) as late:
                late.search("too late?")
        except Unavailable:
            return True
    return False


def test_sigterm_finishes_what_is_in_flight(start_server: Start) -> None:
    process, address = start_server()
    queries: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    with RetrievalClient(address) as client, grpc.insecure_channel(address) as channel:
        client.wait_ready()
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == SERVING
        stream = client.search_stream(iter(queries.get, None), k=1)
        queries.put("before")
        assert len(next(stream).hits) == 1

        process.send_signal(signal.SIGTERM)
        assert next(health).status == NOT_SERVING
        health.cancel()
        assert refuses_new_requests(address)
        assert process.poll() is None
        queries.put("in flight")
        assert len(next(stream).hits) == 1
        queries.put(None)
        assert list(stream) == []
    _, log = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "Traceback" not in log


def test_what_takes_longer_than_the_grace_period_is_broken_off(start_server: Start) -> None:
    process, address = start_server("--grace", "0.3")
    ended = threading.Event()

    def queries() -> Iterator[str]:
        yield "one"
        ended.wait(10)

    with RetrievalClient(address) as client:
        stream = client.search_stream(queries(), k=1)
        next(stream)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        with pytest.raises(Unavailable):
            next(stream)
        ended.set()
    process.communicate(timeout=10)
    assert process.returncode == 0
    assert time.monotonic() - began < 5


@pytest.fixture
def make_serve(plain: Path, tmp_path: Path) -> Iterator[Made]:
    """`make serve` with two workers; gives the process and the address."""
    with made_service(plain, tmp_path) as made:
        yield made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_process_group_of_make_finishes_what_is_in_flight(
    make_serve: Made, number: signal.Signals
) -> None:
    process, address = make_serve
    queries: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    with RetrievalClient(address) as client:
        stream = client.search_stream(iter(queries.get, None), k=1)
        queries.put("before")
        assert len(next(stream).hits) == 1
        for each in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # an idle worker may have stopped already
                each.send_signal(number)
        # The group gets it in any order. If make is last, the SIGTERM that it sends on is a second one.
        log_until(process, "stopping; requests in flight have")
        process.send_signal(number)
        time.sleep(0.5)
        queries.put("in flight")
        assert len(next(stream).hits) == 1
        queries.put(None)
        assert list(stream) == []
    _, log = process.communicate(timeout=20)
    repeated = "SIGTERM again, within 1 s of the first: taken for a copy of it" in log
    assert repeated == (number is signal.SIGTERM)  # make sends no SIGINT on
    assert "killed" not in log
    assert "Traceback" not in log


def test_a_signal_more_than_a_second_after_the_first_ends_the_wait(start_server: Start) -> None:
    process, address = start_server("--grace", "60")
    ended = threading.Event()

    def queries() -> Iterator[str]:
        yield "one"
        ended.wait(30)

    with RetrievalClient(address) as client:
        stream = client.search_stream(queries(), k=1)
        next(stream)
        process.send_signal(signal.SIGTERM)
        log_until(process, "stopping; requests in flight have")
        process.send_signal(signal.SIGTERM)
        time.sleep(1.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        ended.set()
    assert "SIGTERM again: requests in flight are broken off" in log
    assert "does not stop; killed" in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_stops_what_is_ready_and_kills_the_rest(
    tmp_path: Path, number: signal.Signals
) -> None:
    with supervised(tmp_path, slow_seconds=120.0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        supervisor = psutil.Process(process.pid)
        wait_until(lambda: len(supervisor.children()) == 2)
        children = supervisor.children()
        process.send_signal(number)
        said, log = process.communicate(timeout=10)
    assert process.returncode == 0
    assert said == "stopped\n"
    assert "does not stop" not in log
    assert "Traceback" not in log
    assert not any(child.is_running() for child in children)
