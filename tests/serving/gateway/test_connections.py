"""Connections: a share of them for each client, and their end where a client sends or reads nothing."""

import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.serving.certificates import Authority
from tests.helpers.serving.gateways import RunningGateway, decided, is_ended, receive_answer
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.helpers.waiting import wait_until
from twinspire.serving.gateway import http1, process
from twinspire.serving.gateway.options import GatewayBounds

SEARCH = {"query": {"text": "bavuti"}}
OTHER = "127.0.1.1"  # another client's address
CLOSED = "twinspire_gateway_connections_closed_total"


@contextmanager
def opened(running: RunningGateway, count: int, source: str = OTHER) -> Iterator[list[socket.socket]]:
    """Connections of a client that send nothing."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), 30, (source, 0)))
            for _ in range(count)
        ]


def test_a_client_has_half_of_all_connections_and_others_find_room() -> None:
    bounds = GatewayBounds(http_connections=8)
    with decided() as (_, address), run_gateway(address, bounds=bounds) as running:
        with opened(running, 6) as (*held, fifth, sixth):
            assert is_ended(fifth)
            assert is_ended(sixth)
            assert running.scrape()[CLOSED, "full"] == 2
            assert running.scrape()["twinspire_gateway_connections",] == 4
            assert running.ask("/v1/search", SEARCH).status == 200
            held[0].close()
            wait_until(lambda: running.scrape()["twinspire_gateway_connections",] == 3)
            with opened(running, 1) as (seventh,):
                seventh.sendall(REQUEST)
                assert receive_answer(seventh).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: running.scrape()["twinspire_gateway_connections",] == 0)


def test_a_handshake_of_tls_counts_as_a_connection(tmp_path: Path) -> None:
    certificate, key = Authority().server().write(tmp_path)
    with (
        decided() as (_, address),
        run_gateway(
            address,
            https_certificate=certificate,
            https_key=key,
            bounds=GatewayBounds(http_connections=4),
        ) as running,
    ):
        with opened(running, 3) as (first, _, third):
            first.sendall(b"\x16\x03\x01")
            assert is_ended(third)
            assert running.scrape()["twinspire_gateway_connections",] == 2
        wait_until(lambda: running.scrape()["twinspire_gateway_connections",] == 0)


LARGE = "a" * 1_000_000  # more than the buffers below hold


@contextmanager
def asked_for_much(
    running: RunningGateway, tls: ssl.SSLContext | None = None, headers: str = ""
) -> Iterator[socket.socket]:
    """A connection whose answer is `LARGE`, with small buffers on both sides."""
    running.server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)
    body = json.dumps({"query": {"text": LARGE}})
    head = f"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
    with socket.socket() as plain, ExitStack() as stack:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
        plain.settimeout(30)
        plain.connect(("127.0.0.1", running.port))
        connection = plain
        if tls is not None:
            connection = stack.enter_context(tls.wrap_socket(plain, server_hostname="localhost"))
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        wait_until(lambda: running.server.server_state.total_requests == 1)
        yield connection


@pytest.mark.exhaustive
def test_a_client_that_reads_slowly_is_sent_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than a connection is kept between two requests."""
    monkeypatch.setattr(process, "KEEP_ALIVE_SECONDS", 1)
    authority = Authority()
    certificate, key = authority.server().write(tmp_path)
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    with (
        decided() as (_, address),
        run_gateway(address, https_certificate=certificate, https_key=key) as running,
        asked_for_much(running, context) as connection,
    ):
        got = bytearray()
        until = time.monotonic() + 5.0
        while time.monotonic() < until:
            got += connection.recv(5_000)  # a quarter of the answer at most
            time.sleep(0.1)
        assert len(got) < len(LARGE) / 2
        while part := connection.recv(1 << 16):
            got += part
        assert LARGE.encode() in got


def test_a_client_that_does_not_read_the_end_of_an_answer_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http1, "STALL_SECONDS", 0.5)
    with decided() as (_, address), run_gateway(address) as running, asked_for_much(running):
        wait_until(lambda: not running.server.server_state.connections)


@pytest.mark.parametrize(
    ("headers", "mark"), [("", 600_000), ("Connection: close\r\n", 2_000_000)], ids=["resumed", "closed"]
)
def test_a_client_that_leaves_a_small_rest_of_an_answer_is_cut_off(
    headers: str, mark: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is below the mark at which asyncio pauses writing."""
    made = http1.HttpConnection.connection_made

    def made_with_mark(self: http1.HttpConnection, transport: Any) -> None:
        transport.set_write_buffer_limits(mark, mark)
        made(self, transport)

    monkeypatch.setattr(http1.HttpConnection, "connection_made", made_with_mark)
    monkeypatch.setattr(http1, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(process, "KEEP_ALIVE_SECONDS", 0.2)  # whose end waits for the rest
    with (
        decided() as (_, address),
        run_gateway(address) as running,
        asked_for_much(running, headers=headers) as connection,
    ):
        got = 0
        while got < 500_000:
            got += len(connection.recv(1 << 16))
        wait_until(lambda: not running.server.server_state.connections)
        assert running.scrape()[CLOSED, "stall"] == 1


def test_a_client_that_reads_one_answer_late_may_take_its_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http1, "STALL_SECONDS", 1.5)
    with (
        decided() as (service, address),
        run_gateway(address) as running,
        asked_for_much(running) as connection,
    ):
        assert LARGE.encode() in receive_answer(connection)
        service.released.clear()
        connection.sendall(REQUEST)
        time.sleep(2.0)
        service.released.set()
        assert receive_answer(connection).startswith(b"HTTP/1.1 200 ")
        assert running.scrape()[CLOSED, "stall"] == 0


HEAD = "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = json.dumps(SEARCH)
REQUEST = f"{HEAD}Content-Length: {len(BODY)}\r\n\r\n{BODY}".encode()


@contextmanager
def answered_early(running: RunningGateway) -> Iterator[socket.socket]:
    """A connection with a request that was answered before the 10 bytes of its body have arrived."""
    with socket.create_connection(("127.0.0.1", running.port), 30) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
        assert receive_answer(connection).startswith(b"HTTP/1.1 404 ")
        yield connection


def test_a_body_that_was_answered_early_may_still_arrive() -> None:
    with decided() as (_, address), run_gateway(address) as running, answered_early(running) as connection:
        connection.sendall(b"12345")
        time.sleep(0.2)
        connection.sendall(b"67890" + REQUEST)
        assert receive_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_a_connection_waits_for_its_next_request_after_a_body_that_was_answered_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http1, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(process, "KEEP_ALIVE_SECONDS", 2)
    with decided() as (_, address), run_gateway(address) as running, answered_early(running) as connection:
        connection.sendall(b"12345")
        time.sleep(0.1)
        connection.sendall(b"67890")
        time.sleep(1.0)
        connection.sendall(REQUEST)
        assert receive_answer(connection).startswith(b"HTTP/1.1 200 ")
        with answered_early(running) as idle:
            idle.sendall(b"1234567890")
            assert idle.recv(1) == b""  # closed like any idle connection, and not reset
        assert running.scrape()[CLOSED, "head"] == 0


def test_a_head_that_began_while_a_request_was_answered_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "HEAD_SECONDS", 0.5)
    with decided() as (service, address), run_gateway(address) as running:
        service.released.clear()
        with socket.create_connection(("127.0.0.1", running.port), 30) as connection:
            connection.sendall(REQUEST + b"POST /v1/sea")
            service.seen.get(timeout=30)
            service.released.set()
            assert receive_answer(connection).startswith(b"HTTP/1.1 200 ")
            assert is_ended(connection)
        assert running.scrape()[CLOSED, "head"] == 1


@pytest.mark.parametrize("sent", [b"12345", b"1234567890POST /v1/sea"], ids=["body", "head"])
def test_what_follows_an_answer_and_stops_is_given_up(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "HEAD_SECONDS", 0.5)
    with decided() as (_, address), run_gateway(address) as running, answered_early(running) as connection:
        connection.sendall(sent)
        assert is_ended(connection)
