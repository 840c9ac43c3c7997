"""HTTP/1.1: what is refused and closed, and what a client cannot make the gateway do."""

import json
import re
import socket
import ssl
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.serving.certificates import Authority
from tests.helpers.serving.gateways import START, RunningGateway, decided_gateway, receive_answer, whole
from tests.helpers.waiting import wait_until
from twinspire.serving.gateway import http1

BODY = json.dumps({"query": {"text": "bavuti"}}).encode()
REQUEST = whole(BODY)
CHUNKED = START + b"Transfer-Encoding: chunked\r\n"
MOST_BYTES = http1.HEAD_BYTES + http1.READ_BYTES
GET = b"GET /v1/gateway HTTP/1.1\r\nHost: localhost\r\n"


def received(connection: socket.socket) -> bytes:
    """All that the gateway sends until it closes the connection."""
    found = bytearray()
    try:
        while part := connection.recv(1 << 16):
            found += part
    except ConnectionResetError:  # it has not read all
        pass
    return bytes(found)


def chunks(body: bytes, size: int) -> bytes:
    """A body in chunks of a size."""
    parts = [body[n : n + size] for n in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""])


@pytest.mark.parametrize(
    "request_",
    [
        CHUNKED + b"Content-Length: 4\r\n\r\n" + chunks(BODY, 100),
        CHUNKED.replace(b"1.1", b"1.0") + b"\r\n" + chunks(BODY, 100),
        START + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n" + BODY,
        GET + b"Host: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["length and encoding", "encoding in 1.0", "two lengths", "two hosts", "TLS"],
)
def test_what_is_ambiguous_is_refused_and_the_connection_closed(
    gateway: RunningGateway, request_: bytes
) -> None:
    with gateway.send(request_ + REQUEST) as connection:
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1  # the request after it is not answered
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (GET.replace(b"Host", b"Hosts") + b"\r\n", "Missing mandatory Host: header"),
        (GET + b"Name: " + b"a" * http1.HEAD_BYTES, "a head or line has more than 16384 bytes"),
        (CHUNKED + b"Content-Length: 4\r\n\r\n", "expected either Content-Length"),
        (CHUNKED + b"\r\n" + chunks(b"a" * 300, 1), "too many chunks: expected at most 256"),
        (GET + b"Name " + b"a" * 10_000 + b"\r\n\r\n", "illegal header line"),
    ],
    ids=["no host", "long head", "two lengths", "small chunks", "long name"],
)
def test_a_request_that_cannot_be_read_is_told_why_and_counted(request_: bytes, reason: str) -> None:
    with decided_gateway() as (_, running):
        with running.send(request_) as connection:
            answer = received(connection)
        message = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
        assert message.startswith(f"the request cannot be read: {reason}")
        assert len(message) < 300
        assert running.scrape()["twinspire_gateway_requests_total", "other", "400"] == 1


@pytest.mark.parametrize(
    "head",
    [CHUNKED + b"\r\n4e20\r\n", START + b"Content-Length: 20000\r\n\r\n"],
    ids=["one chunk", "with a length"],
)
def test_a_body_may_arrive_in_small_parts(
    gateway: RunningGateway, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = BODY.ljust(20_000)
    monkeypatch.setattr(http1, "FREE_CHUNKS", 1)
    with gateway.send(head) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in (body[:1], body[1:2], body[2:3], body[3:]):
            time.sleep(0.05)
            connection.sendall(part)
        connection.sendall(b"\r\n0\r\n\r\n" if head.startswith(CHUNKED) else b"")
        assert receive_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_what_follows_a_refused_request_over_tls_is_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority()
    certificate, key = authority.server().write(tmp_path)
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    body = CHUNKED + b"Content-Length: 4\r\n\r\n" + chunks(b"a" * 60_000, 1000)
    with (
        decided_gateway(https_certificate=certificate, https_key=key) as (_, running),
        running.send(b"") as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(body)
        assert received(connection).startswith(b"HTTP/1.1 400 ")
        connection.close()
        wait_until(lambda: not running.server.server_state.connections)
        assert running.scrape()["twinspire_gateway_requests_total", "other", "400"] == 1
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    "head",
    [
        GET + b"Name: " + b"a" * MOST_BYTES + b"\r\n\r\n",
        GET + b"Name: a\r\n" * (MOST_BYTES // 8) + b"\r\n",
        b"GET /" + b"a" * MOST_BYTES + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        GET + b"Name: " + b"a" * (1 << 20),
    ],
    ids=["one", "many", "target", "without an end"],
)
def test_a_head_is_bounded(gateway: RunningGateway, head: bytes) -> None:
    with gateway.send(head) as connection:
        assert received(connection)[:13] in (b"HTTP/1.1 400 ", b"")


@pytest.mark.parametrize(
    "request_",
    [
        GET + b"Name: " + b"a" * (http1.HEAD_BYTES - 200) + b"\r\n\r\n",
        CHUNKED + b"\r\n" + chunks(BODY, 1),
    ],
    ids=["a head just below the bound", "a small body in one-byte chunks"],
)
def test_what_is_within_the_bounds_is_answered(gateway: RunningGateway, request_: bytes) -> None:
    with gateway.send(request_) as connection:
        assert receive_answer(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "body",
    [b"1;" + b"a" * (1 << 20), chunks(b"a" * 100_000, 1), chunks(b"", 1)[:-2] + b"Name: " + b"a" * (1 << 20)],
    ids=["extension", "one-byte chunks", "trailer"],
)
def test_what_costs_more_than_a_body_is_refused(
    gateway: RunningGateway, body: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    charged: list[Any] = []
    monkeypatch.setattr(gateway.server.gateway.refusals, "charge", lambda *given: charged.append(given))
    answer = b""
    with gateway.send(CHUNKED + b"\r\n") as connection:
        try:
            connection.sendall(body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            answer = received(connection)
    assert answer[:13] in (b"HTTP/1.1 400 ", b"")
    wait_until(lambda: charged)
    assert len(charged) == 1
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []


def test_a_request_whose_body_is_refused_ends() -> None:
    with decided_gateway() as (_, running), running.send(CHUNKED + b"\r\n5\r\n") as connection:
        tasks = running.server.server_state.tasks
        wait_until(lambda: tasks)
        connection.sendall(b"no chunk\r\n")
        answer = received(connection)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        wait_until(lambda: not tasks, 3)  # sooner than the body is given up


def test_a_pipeline_holds_few_requests_at_once() -> None:
    with decided_gateway() as (service, running):
        service.released.clear()
        with running.send(REQUEST + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5000):
            service.seen.get(timeout=30)
            time.sleep(0.3)
            assert len(running.server.server_state.tasks) == 1
            service.released.set()


def test_a_connection_that_was_reset_has_no_timer() -> None:
    with decided_gateway() as (_, running):
        with running.send(GET + b"\r\n") as connection:
            assert receive_answer(connection).startswith(b"HTTP/1.1 200 ")
            kept: Any
            (kept,) = running.server.server_state.connections
            wait_until(lambda: kept.timeout_keep_alive_task is not None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: not running.server.server_state.connections)
        wait_until(lambda: kept.timeout_keep_alive_task is None, 2)


def test_what_a_client_left_behind_is_not_parsed(gateway: RunningGateway) -> None:
    """The kernel still holds what it sent before it closed the connection."""
    opened = gateway.server.server_state.connections
    with gateway.send(START + b"Content-Length: 4000000\r\n\r\n") as connection:
        for _ in range(30):
            connection.sendall(b"a" * 100_000)
    wait_until(lambda: not opened)


def test_garbage_after_a_request_does_not_become_a_part_of_its_answer(gateway: RunningGateway) -> None:
    with gateway.send(REQUEST + b"no request\r\n\r\n") as connection:
        statuses = re.findall(rb"HTTP/1\.1 (\d+) ", received(connection))
    assert statuses == [b"200", b"400"]
    early = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with gateway.send(early) as connection:
        assert receive_answer(connection).startswith(b"HTTP/1.1 404 ")
        connection.sendall(b"no chunk\r\n")
        assert received(connection) == b""
