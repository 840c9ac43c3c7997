"""Streams as lines of JSON: in order, with back pressure both ways, cancelled when a client goes."""

import json
import socket
import time
from collections.abc import Callable

import grpc
import pytest

from serving.gateway import connections
from serving.gateway.options import GatewayBounds
from tests.helpers.serving.gateways import NDJSON, RunningGateway, decided, read
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.helpers.waiting import wait_until

CHANGES = {"after": "0"}


def settled(count: Callable[[], int]) -> int:
    """A count, once it no longer grows; 0 as long as it does."""
    before = count()
    time.sleep(0.3)
    return before if count() == before else 0


def line(text: str, k: int = 1) -> bytes:
    return json.dumps({"query": {"text": text}, "k": k}).encode() + b"\n"


def test_each_line_gets_its_answer_in_order(gateway: RunningGateway) -> None:
    texts = ["bavuti", "xelike", "xebara"] * 20
    answer = gateway.ask("/v1/search:stream", b"\n".join(map(line, texts)), NDJSON)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
    expected = [
        gateway.ask("/v1/search", {"query": {"text": text}, "k": 1}).document["hits"] for text in texts[:3]
    ]
    assert [each["hits"] for each in answer.lines] == expected * 20


def test_an_answer_comes_before_the_next_line_is_sent(gateway: RunningGateway) -> None:
    with gateway.connect() as connection:
        connection.putrequest("POST", "/v1/search:stream")
        connection.putheader("Content-Type", "application/x-ndjson")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()

        def send(data: bytes) -> None:
            connection.send(b"%x\r\n%s\r\n" % (len(data), data))

        send(line("bavuti"))
        response = connection.getresponse()
        assert len(json.loads(response.readline())["hits"]) == 1
        send(line("xelike", k=2)[:-5])  # a line in two parts
        send(line("xelike", k=2)[-5:])
        assert len(json.loads(response.readline())["hits"]) == 2
        connection.send(b"0\r\n\r\n")
        assert response.read() == b""


def test_a_line_that_cannot_be_read_ends_the_stream_after_the_answers_before_it(
    gateway: RunningGateway,
) -> None:
    sent = line("bavuti") + b"\n" + line("xelike") + b'{"query": {"txt": "a"}}\n' + line("xebara")
    *answers, error = gateway.ask("/v1/search:stream", sent, NDJSON).lines
    assert len(answers) == 2
    assert error["error"] == {
        "code": "INVALID_ARGUMENT",
        "message": "line 3: query.txt: unknown field; did you mean text?",
    }


def test_an_error_of_the_service_comes_as_the_last_line(gateway: RunningGateway) -> None:
    *answers, error = gateway.ask("/v1/search:stream", line("bavuti") + line("a", 10**6), NDJSON).lines
    assert len(answers) == 1
    assert error["error"]["code"] == "INVALID_ARGUMENT"
    assert error["error"]["message"].startswith("k: ")


def test_an_error_before_the_first_answer_is_the_status(gateway: RunningGateway) -> None:
    assert gateway.ask("/v1/search:stream", b"no JSON", NDJSON).error[0] == 400
    assert gateway.ask("/v1/search:stream", line("a", 10**6), NDJSON).error[0] == 400
    with decided(code=grpc.StatusCode.PERMISSION_DENIED) as (_, address), run_gateway(address) as running:
        assert running.ask("/v1/search:stream", line("a"), NDJSON).error[0] == 403
        assert running.ask("/v1/items:changes", CHANGES).error[0] == 403


def test_a_stream_without_lines_is_empty(gateway: RunningGateway) -> None:
    answer = gateway.ask("/v1/search:stream", b"", NDJSON)
    assert (answer.status, answer.body) == (200, b"")


def test_lines_are_bounded() -> None:
    with decided() as (_, address), run_gateway(address, bounds=GatewayBounds(max_body_bytes=500)) as running:
        many = running.ask("/v1/search:stream", b"".join(line("a") for _ in range(100)), NDJSON)
        assert len(many.lines) == 100  # the bound is one of a line
        *answers, error = running.ask("/v1/search:stream", line("a") + line("a" * 500), NDJSON).lines
        assert len(answers) == 1
        assert error["error"]["message"] == "line 2: line: expected at most 500 bytes (--max-body-bytes)"


def test_a_client_that_does_not_read_is_sent_no_more() -> None:
    with decided() as (service, address), run_gateway(address) as running:
        with running.connect("/v1/items:changes", CHANGES) as connection:
            response = connection.getresponse()
            first = json.loads(response.readline())
            assert first["sequence"] == "1"
            sent = wait_until(lambda: settled(lambda: service.sent))
            # Of 64 KiB each: what the buffers of two connections hold, and far less than it could have sent.
            assert sent < 2000
            for _ in range(sent):
                response.readline()
            wait_until(lambda: service.sent > sent)
        assert service.ended.get(timeout=10) == "Changes"


def test_a_client_that_is_not_answered_can_send_no_more() -> None:
    with decided() as (service, address), run_gateway(address) as running:
        service.released.clear()
        with socket.create_connection(("127.0.0.1", running.port), 30) as connection:
            head = (
                "POST /v1/search:stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
            )
            connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            connection.settimeout(0.5)
            one = line("a" * 60_000)
            part = b"%x\r\n%s\r\n" % (len(one), one)
            sent = 0
            with pytest.raises(TimeoutError):
                while sent < 2000:
                    connection.sendall(part)
                    sent += 1
            assert service.received == 1
        # The gateway does not read the stream, so it learns only by an answer that the client has gone.
        service.released.set()
        assert service.ended.get(timeout=10) == "SearchStream"


def test_a_client_that_goes_away_cancels_its_stream() -> None:
    with decided() as (service, address), run_gateway(address) as running:
        with running.connect("/v1/items:changes", {**CHANGES, "follow": True}) as connection:
            connection.getresponse().readline()
        assert service.ended.get(timeout=10) == "Changes"
        service.released.clear()
        with running.connect() as connection:
            connection.request("POST", "/v1/search:stream", line("a"), NDJSON)
            wait_until(lambda: service.received)
        assert service.ended.get(timeout=10) == "SearchStream"


def test_the_head_comes_although_there_is_no_line_yet() -> None:
    with decided() as (service, address), run_gateway(address) as running:
        service.released.clear()
        with running.connect() as connection:
            connection.request("POST", "/v1/search:stream", line("a"), NDJSON)
            response = connection.getresponse()
            assert response.status == 200
            service.released.set()
            assert json.loads(response.readline())["hits"][0]["id"] == "a"


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
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.5)
    with (
        decided() as (service, address),
        run_gateway(address) as running,
        running.connect("/v1/items:changes", CHANGES) as connection,
    ):
        assert service.ended.get(timeout=20) == "Changes"
        assert connection.getresponse().status == 200


def test_streams_end_when_the_gateway_stops() -> None:
    with decided() as (service, address), run_gateway(address, grace=1.0) as running:
        service.released.clear()
        with (
            running.connect("/v1/items:changes", {**CHANGES, "follow": True}) as following,
            running.connect() as other,
        ):
            response = following.getresponse()
            response.readline()
            other.request("POST", "/v1/search:stream", line("a"), NDJSON)
            wait_until(lambda: service.received)
            running.stop()
            for last in (json.loads(response.read()), read(other).lines[-1]):
                assert last == {"error": {"code": "UNAVAILABLE", "message": "the gateway stops"}}
