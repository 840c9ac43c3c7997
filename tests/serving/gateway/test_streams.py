"""Streams as lines of JSON: with back pressure, and cancelled when a client goes."""

import json
import time
from collections.abc import Callable

import grpc
import pytest

from tests.helpers.serving.gateways import RunningGateway, decided, read
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.helpers.waiting import wait_until
from twinspire.serving.gateway import http1

CHANGES = {"after": "0"}


def settled(count: Callable[[], int]) -> int:
    """A count, once it no longer grows; 0 as long as it does."""
    before = count()
    time.sleep(0.3)
    return before if count() == before else 0


def test_there_is_no_stream_of_requests(gateway: RunningGateway) -> None:
    assert gateway.ask("/v1/search:stream", b"{}").error[:2] == (404, "NOT_FOUND")


def test_an_error_before_the_first_page_is_the_status(gateway: RunningGateway) -> None:
    assert gateway.ask("/v1/items:changes", b"no JSON").error[0] == 400
    with decided(code=grpc.StatusCode.PERMISSION_DENIED) as (_, address), run_gateway(address) as running:
        assert running.ask("/v1/items:changes", CHANGES).error[0] == 403


def test_a_client_that_does_not_read_is_sent_no_more() -> None:
    with decided() as (service, address), run_gateway(address) as running:
        with running.connect("/v1/items:changes", CHANGES) as connection:
            response = connection.getresponse()
            first = json.loads(response.readline())
            assert first["sequence"] == 1
            sent = wait_until(lambda: settled(lambda: service.sent))
            # Of 64 KiB each: what the buffers of two connections hold, and far less than it could have sent.
            assert sent < 2000
            for _ in range(sent):
                response.readline()
            wait_until(lambda: service.sent > sent)
        assert service.ended.get(timeout=10) == "Changes"


def test_a_client_that_goes_away_cancels_its_stream() -> None:
    with decided() as (service, address), run_gateway(address) as running:
        with running.connect("/v1/items:changes", {**CHANGES, "follow": True}) as connection:
            connection.getresponse().readline()
        assert service.ended.get(timeout=10) == "Changes"
        service.released.clear()
        with running.connect("/v1/items:changes", CHANGES):  # before its first page
            wait_until(lambda: service.seen.qsize() == 2)
        assert service.ended.get(timeout=10) == "Changes"


def test_the_head_comes_although_there_is_no_line_yet() -> None:
    with decided() as (service, address), run_gateway(address) as running:
        service.released.clear()
        with running.connect("/v1/items:changes", CHANGES) as connection:
            response = connection.getresponse()
            assert response.status == 200
            service.released.set()
            assert json.loads(response.readline())["sequence"] == 1


@pytest.mark.exhaustive
def test_a_stream_has_a_deadline() -> None:
    with decided() as (_, address), run_gateway(address, stream_timeout=2.0) as running:
        given = {**CHANGES, "follow": True}
        for headers in ({}, {"Request-Timeout": "0.5"}):
            *pages, error = running.ask("/v1/items:changes", given, headers).lines
            assert len(pages) == 1
            assert error["error"]["code"] == "DEADLINE_EXCEEDED"
        assert running.ask("/v1/items:changes", given, {"Request-Timeout": "3"}).error[0] == 400


def test_a_client_that_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "STALL_SECONDS", 0.5)
    with (
        decided() as (service, address),
        run_gateway(address) as running,
        running.connect("/v1/items:changes", CHANGES) as connection,
    ):
        assert service.ended.get(timeout=20) == "Changes"
        assert connection.getresponse().status == 200


def test_streams_end_when_the_gateway_stops() -> None:
    with (
        decided() as (service, address),
        run_gateway(address, grace=1.0) as running,
        running.connect("/v1/items:changes", {**CHANGES, "follow": True}) as following,
    ):
        response = following.getresponse()
        response.readline()
        service.released.clear()
        with running.connect("/v1/items:changes", CHANGES) as other:
            wait_until(lambda: service.seen.qsize() == 2)
            running.stop()
            for last in (json.loads(response.read()), read(other).lines[-1]):
                assert last == {"error": {"code": "UNAVAILABLE", "message": "the gateway stops"}}
