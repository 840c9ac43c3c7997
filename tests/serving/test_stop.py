"""SIGTERM: no new request is taken, the one in flight is finished, the process ends with 0."""

import queue
import signal
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.errors import Unavailable
from serving.client import RetrievalClient
from tests.serving.conftest import Start

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


def test_ctrl_c_ends_an_idle_server_at_once(start_server: Start) -> None:
    process, _ = start_server()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == 0
