"""`X-Request-Id`: the same in the answer, in the gateway's log, in the call and in the service's log."""

import logging
import re
import uuid
from pathlib import Path

import pytest

from tests.helpers.ports import held_port
from tests.helpers.serving.gateways import RunningGateway, decided_gateway
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.helpers.tiny import tiny_bundle
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos.system import logs
from twinspire.serving.gateway import failures
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

SEARCH = {"query": {"text": "bavuti"}, "k": 3}


@pytest.fixture
def seen(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Logger and id of each line that is logged from now on."""
    found: list[tuple[str, str]] = []

    def note(record: logging.LogRecord) -> bool:
        found.append((record.name, logs.request_id()))
        return True

    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(note)
    return found


def is_made(given: str) -> bool:
    return uuid.UUID(given).version == 4


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/search", SEARCH, 200),
        ("/v1/search", {"k": -1}, 400),
        ("/v1/items:get", {"ids": ["a"]}, 501),
        ("/v1/nothing", None, 404),
        ("/healthz", None, 200),
        ("/", None, 200),
    ],
)
def test_each_answer_has_the_id_of_its_request_or_a_new_one(
    gateway: RunningGateway, path: str, body: object, status: int
) -> None:
    answer = gateway.ask(path, body, {"X-Request-Id": "mine/1"})
    assert (answer.status, answer.headers["x-request-id"]) == (status, "mine/1")
    for headers in ({}, {"X-Request-Id": "a b"}, {"X-Request-Id": "x" * 129}, {"X-Request-Id": "\xe9"}):
        assert is_made(gateway.ask(path, body, headers).headers["x-request-id"])


def test_the_call_carries_the_id() -> None:
    with decided_gateway() as (servicer, running):
        for headers in ({"X-Request-Id": "mine-1"}, {}):
            answer = running.ask("/v1/search", SEARCH, headers)
            assert answer.status == 200
            assert servicer.seen.get(timeout=10)["x-request-id"] == answer.headers["x-request-id"]


def test_both_logs_have_the_id(
    tmp_path: Path, seen: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_connection_log", failures._ConnectionLog())  # which waits for a second
    with held_port() as port, run_gateway(f"127.0.0.1:{port}") as running:
        assert running.ask("/v1/search", SEARCH, {"X-Request-Id": "mine-1"}).status == 503
    assert ("twinspire.serving.gateway.failures", "mine-1") in seen
    broken = Retriever.load(tiny_bundle(tmp_path, items=20, query_tower=TinyTower(wraps=False)))
    with RetrievalServer(broken) as server, run_gateway(server.address) as running:
        answer = running.ask("/v1/search", {"query": {"text": "日本"}}, {"X-Request-Id": "mine-2"})
    assert answer.status == 500
    assert ("twinspire.serving.wire.status", "mine-2") in seen


def test_each_request_is_logged_where_that_is_asked_for(
    server: RetrievalServer, seen: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    with run_gateway(server.address) as running:
        running.ask("/v1/search", SEARCH)
        assert "POST /v1/search" not in caplog.text
    with run_gateway(server.address, access_log=True) as running:
        running.ask("/v1/search", SEARCH, {"X-Request-Id": "mine-3"})
        running.ask("/v1/secret-word?token=x")
        running.ask("/a%0ab/%c3%a9")
        running.ask("/" + "x" * 200)
    assert "POST /v1/search 200 in" in caplog.text
    assert "GET /v1/secret-word 404 in" in caplog.text
    assert "token" not in caplog.text
    assert "GET /a%0Ab/%C3%A9" in caplog.text
    assert "x" * 100 not in caplog.text
    assert ("twinspire.serving.gateway.app", "mine-3") in seen


def test_an_incident_is_logged_once_with_its_cause_and_the_id_of_its_request(
    gateway: RunningGateway,
    seen: list[tuple[str, str]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(given: object) -> bytes:
        raise ZeroDivisionError("of the test")

    monkeypatch.setattr("twinspire.serving.gateway.gateway.encode", fail)
    answer = gateway.ask("/v1/gateway", headers={"X-Request-Id": "mine-4"})
    assert answer.error[:2] == (500, "INTERNAL")
    (incident,) = re.findall(r"incident ([0-9a-f]{12})$", answer.error[2])
    (record,) = [each for each in caplog.records if each.exc_info]
    assert (record.name, record.getMessage()) == ("twinspire.serving.gateway.app", f"incident {incident}")
    assert record.exc_info is not None and record.exc_info[0] is ZeroDivisionError
    assert ("twinspire.serving.gateway.app", "mine-4") in seen
    assert gateway.ask("/").status == 200
