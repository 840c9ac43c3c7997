"""Fair shares: a client with few requests is answered, whatever others hold, send or get wrong."""

import asyncio
import json
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from tests.helpers.serving.gateways import (
    JSON,
    START,
    RunningGateway,
    decided_gateway,
    is_ended,
    receive_answer,
    whole,
)
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.helpers.waiting import wait_until
from twinspire.serving.gateway import fairness, messages
from twinspire.serving.gateway.failures import HttpFailure
from twinspire.serving.gateway.fairness import FairPlaces, FairShare, Refusals
from twinspire.serving.gateway.options import GatewayBounds
from twinspire.serving.server import RetrievalServer

SEARCH = {"query": {"text": "bavuti"}, "k": 3}
BODY = json.dumps(SEARCH).encode()


# Shares, places, turns and refusals by themselves.


def test_as_much_is_free_as_the_largest_client_holds() -> None:
    share = FairShare(12)
    for client, most in (("a", 6), ("b", 3), ("c", 2)):
        for _ in range(most):
            assert share.has_room(client)
            share.take(client)
        assert not share.has_room(client)
    share.give_back("a", 6)
    assert share.has_room("b")
    assert FairShare(1).has_room("a")


def test_a_place_goes_to_the_waiting_client_with_fewest() -> None:
    async def given() -> list[str]:
        places = FairPlaces(4)
        order: list[str] = []
        taken = [places.take("a") for _ in range(4)]
        assert [each.done() for each in taken] == [True, True, False, False]
        taken[2].cancel()
        await asyncio.sleep(0)
        assert places.take("b").done()  # `a` waits for itself
        waiting = {name: places.take(name) for name in ("c", "b")} | {"a": taken[3]}
        for name, each in waiting.items():
            each.add_done_callback(partial(lambda name, _: order.append(name), name))
        for name in ("a", "a", "b", "c"):
            places.give_back(name)
            await asyncio.sleep(0)
        return order

    assert asyncio.run(given()) == ["c", "a", "b"]


def test_refusals_are_bounded_by_client_and_forgotten() -> None:
    now = [0.0]
    refusals = Refusals(10, lambda: now[0])
    for _ in range(100):
        refusals.check("a")
        refusals.charge("a", 0)
    refusals.charge("a", 0)
    with pytest.raises(HttpFailure) as refused:
        refusals.check("a")
    assert (refused.value.http, refused.value.headers["retry-after"]) == (429, "1")
    refusals.check("b")
    refusals.charge("b", 200 * fairness.REFUSED_BYTES)
    with pytest.raises(HttpFailure):
        refusals.check("b")
    now[0] += 1
    refusals.check("a")


# Bodies that do not come.


def test_bodies_that_do_not_come_take_no_request_of_others() -> None:
    """Before, as many connections as there are requests answered nobody else for a minute."""
    waits = START + b"Content-Length: 100\r\nRequest-Timeout: 60\r\n\r\n"
    with (
        decided_gateway(bounds=GatewayBounds(requests=8, http_connections=40)) as (_, running),
        running.opened(60, waits),
    ):
        time.sleep(0.3)
        for _ in range(10):
            assert running.ask("/v1/search", SEARCH).status == 200


def test_a_large_body_is_parsed_only_for_a_client_that_may_ask(
    guarded: tuple[RunningGateway, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(*given: object) -> None:
        raise AssertionError("it was parsed")

    running, _ = guarded
    large = b'{"query": {"text": "%s"}}' % (b"a" * messages.LIGHT_BYTES)
    monkeypatch.setattr("twinspire.serving.gateway.gateway.parse", parse)
    with running.send(whole(large, "Authorization: Bearer wrong")) as connection:
        answer = receive_answer(connection)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in answer


# Calls that are parked.


def test_parked_calls_of_one_client_leave_places_for_others() -> None:
    parked = whole(BODY, "Request-Timeout: 60")
    bounds = GatewayBounds(connections=1)
    with decided_gateway(bounds=bounds) as (service, running):
        service.released.clear()
        with running.opened(40, parked):
            for _ in range(8):  # half of 16
                service.seen.get(timeout=30)
            with running.connect("/v1/search", SEARCH) as connection:
                assert service.seen.get(timeout=30)["seconds"] < 10  # it is not one of those that are parked
                service.released.set()
                assert connection.getresponse().status == 200


@pytest.mark.parametrize("path", ["/v1/search", "/readyz"])
def test_a_client_that_leaves_while_it_waits_waits_no_more(path: str) -> None:
    parked = whole(BODY, "Request-Timeout: 60")
    later = {
        "/v1/search": parked,
        "/readyz": b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nRequest-Timeout: 60\r\n\r\n",
    }[path]
    bounds = GatewayBounds(connections=1)
    with decided_gateway(bounds=bounds, timeout=60.0) as (service, running):
        service.released.clear()
        with running.opened(8, parked):
            for _ in range(8):
                service.seen.get(timeout=30)
            with running.opened(4, later):
                wait_until(lambda: running.server.gateway.requests.held == 12)
            wait_until(lambda: running.server.gateway.requests.held == 8)
        wait_until(lambda: running.server.gateway.requests.held == 0)
        service.released.set()
        assert running.ask("/v1/search", SEARCH).status == 200


# What the gateway has to read.


def query(count: int) -> dict[str, Any]:
    """A query with empty features."""
    return {"features": {f"f{n}": {} for n in range(count)}}


def test_others_are_answered_while_a_large_body_is_parsed(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_reading, may_go_on = threading.Event(), threading.Event()

    def parse_once_told(content: bytes, *rest: Any) -> Any:
        if len(content) > len(BODY):
            is_reading.set()
            assert may_go_on.wait(60)
        return messages.parse(content, *rest)

    monkeypatch.setattr("twinspire.serving.gateway.gateway.parse", parse_once_told)
    large = json.dumps({"queries": [query(60)] * 200}).encode()
    request = whole(large, "Request-Timeout: 60", path="/v1/search:batch")
    with gateway.opened(1, request) as (connection,):
        assert is_reading.wait(60)
        assert gateway.ask("/v1/search", SEARCH).status == 200
        may_go_on.set()
        assert receive_answer(connection).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("request_", "count"),
    [
        (whole(b"[" * 60_000), 25),
        (whole(b"", path="/nowhere"), 25),
        (b"no request at all\r\n\r\n", 25),
        (whole(b'"' + b"a" * (2 << 20)), 2),
    ],
    ids=["no JSON", "no path", "no HTTP", "2 MB"],
)
def test_invalid_requests_cost_their_client(request_: bytes, count: int) -> None:
    with decided_gateway(bounds=GatewayBounds(refused_per_second=2)) as (_, running):
        for _ in range(count):
            # The gateway may refuse a large request, and close, before all of it is sent.
            with suppress(ConnectionError), running.opened(1, request_) as (connection,):
                connection.recv(1 << 16)
        with running.opened(1, whole(BODY)) as (connection,):
            answer = receive_answer(connection)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"--refused-per-second" in answer
        assert running.ask("/v1/search", SEARCH).status == 200


def test_monitoring_does_not_share_the_penalty_of_other_clients(server: RetrievalServer) -> None:
    with run_gateway(server.address, bounds=GatewayBounds(refused_per_second=1)) as running:
        for _ in range(20):
            running.ask("/nowhere")
        assert running.ask("/v1/gateway").status == 429
        for path in ("/healthz", "/readyz", "/metrics"):
            assert running.ask(path).status == 200, path


def test_valid_requests_that_find_nothing_cost_nothing(gateway: RunningGateway) -> None:
    missing: dict[str, Any] = {"query": {"item_id": "nobody"}}
    before = gateway.server.gateway.refusals._rate._paid.tobytes()
    with gateway.connect() as connection:
        for _ in range(20):
            connection.request("POST", "/v1/search", json.dumps(missing), JSON)
            response = connection.getresponse()
            response.read()
            assert response.status == 404
    assert gateway.server.gateway.refusals._rate._paid.tobytes() == before


def test_a_client_that_connects_too_often_delays_nobody() -> None:
    bounds = GatewayBounds(connections_per_second=2)
    with decided_gateway(bounds=bounds) as (_, running):
        with running.opened(100) as connections:
            assert running.ask("/v1/search", SEARCH).status == 200
            assert len(running.server.server_state.connections) <= 30
            assert is_ended(connections[-1])
        assert running.scrape()["twinspire_gateway_connections_closed_total", "rate"] >= 70
