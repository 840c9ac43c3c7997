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
from tests.helpers.serving.gateways import RunningGateway, decided_gateway, is_ended, receive_answer, whole
from tests.helpers.waiting import wait_until
from twinspire.serving.gateway import http1, process
from twinspire.serving.gateway.options import GatewayBounds

SEARCH = {"query": {"text": "bavuti"}}
REQUEST = whole(json.dumps(SEARCH).encode())
CLOSED = "twinspire_gateway_connections_closed_total"


def test_a_client_has_half_of_all_connections_and_others_find_room() -> None:
    bounds = GatewayBounds(http_connections=8)
    with decided_gateway(bounds=bounds) as (_, running):
        with running.opened(6) as (*held, fifth, sixth):
            assert is_ended(fifth)
            assert is_ended(sixth)
            assert running.scrape()[CLOSED, "full"] == 2
            assert running.scrape()["twinspire_gateway_connections",] == 4
            assert running.ask("/v1/search", SEARCH).status == 200
            held[0].close()
            wait_until(lambda: running.scrape()["twinspire_gateway_connections",] == 3)
            with running.opened(1) as (seventh,):
                seventh.sendall(REQUEST)
                assert receive_answer(seventh).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: running.scrape()["twinspire_gateway_connections",] == 0)


def test_a_handshake_of_tls_counts_as_a_connection(tmp_path: Path) -> None:
    certificate, key = Authority().server().write(tmp_path)
    with decided_gateway(
        https_certificate=certificate, https_key=key, bounds=GatewayBounds(http_connections=4)
    ) as (_, running):
        with running.opened(3) as (first, _, third):
            first.sendall(b"\x16\x03\x01")
            assert is_ended(third)
            assert running.scrape()["twinspire_gateway_connections",] == 2
        wait_until(lambda: running.scrape()["twinspire_gateway_connections",] == 0)


LARGE = "a" * 1_000_000  # more than the buffers below hold


@contextmanager
def asked_for_much(
    running: RunningGateway, *headers: str, tls: ssl.SSLContext | None = None
) -> Iterator[socket.socket]:
    """A connection whose answer is `LARGE`, with small buffers on both sides."""
    running.server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)
    with socket.socket() as plain, ExitStack() as stack:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
        plain.settimeout(30)
        plain.connect(("127.0.0.1", running.port))
        connection = plain
        if tls is not None:
            connection = stack.enter_context(tls.wrap_socket(plain, server_hostname="localhost"))
        connection.sendall(whole(json.dumps({"query": {"text": LARGE}}).encode(), *headers))
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
        decided_gateway(https_certificate=certificate, https_key=key) as (_, running),
        asked_for_much(running, tls=context) as connection,
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
    with decided_gateway() as (_, running), asked_for_much(running):
        wait_until(lambda: not running.server.server_state.connections)


@pytest.mark.parametrize(
    ("headers", "mark"), [([], 600_000), (["Connection: close"], 2_000_000)], ids=["resumed", "closed"]
)
def test_a_client_that_leaves_a_small_rest_of_an_answer_is_cut_off(
    headers: list[str], mark: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is below the mark at which asyncio pauses writing."""
    made = http1.HttpConnection.connection_made

    def made_with_mark(self: http1.HttpConnection, transport: Any) -> None:
        transport.set_write_buffer_limits(mark, mark)
        made(self, transport)

    monkeypatch.setattr(http1.HttpConnection, "connection_made", made_with_mark)
    monkeypatch.setattr(http1, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(process, "KEEP_ALIVE_SECONDS", 0.2)  # whose end waits for the rest
    with decided_gateway() as (_, running), asked_for_much(running, *headers) as connection:
        got = 0
        while got < 500_000:
            got += len(connection.recv(1 << 16))
        wait_until(lambda: not running.server.server_state.connections)
        assert running.scrape()[CLOSED, "stall"] == 1


def test_a_client_that_reads_one_answer_late_may_take_its_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http1, "STALL_SECONDS", 1.5)
    with decided_gateway() as (service, running), asked_for_much(running) as connection:
        assert LARGE.encode() in receive_answer(connection)
        service.released.clear()
        connection.sendall(REQUEST)
        time.sleep(2.0)
        service.released.set()
        assert receive_answer(connection).startswith(b"HTTP/1.1 200 ")
        assert running.scrape()[CLOSED, "stall"] == 0


@contextmanager
def answered_early(running: RunningGateway) -> Iterator[socket.socket]:
    """A connection with a request that was answered before the 10 bytes of its body have arrived."""
    with running.send(
        b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
    ) as connection:
        assert receive_answer(connection).startswith(b"HTTP/1.1 404 ")
        yield connection


def test_a_body_that_was_answered_early_may_still_arrive() -> None:
    with decided_gateway() as (_, running), answered_early(running) as connection:
        connection.sendall(b"12345")
        time.sleep(0.2)
        connection.sendall(b"67890" + REQUEST)
        assert receive_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_a_connection_waits_for_its_next_request_after_a_body_that_was_answered_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http1, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(process, "KEEP_ALIVE_SECONDS", 2)
    with decided_gateway() as (_, running), answered_early(running) as connection:
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
    with decided_gateway() as (service, running):
        service.released.clear()
        with running.send(REQUEST + b"POST /v1/sea") as connection:
            service.seen.get(timeout=30)
            service.released.set()
            assert receive_answer(connection).startswith(b"HTTP/1.1 200 ")
            assert is_ended(connection)
        assert running.scrape()[CLOSED, "head"] == 1


@pytest.mark.parametrize("sent", [b"12345", b"1234567890POST /v1/sea"], ids=["body", "head"])
def test_what_follows_an_answer_and_stops_is_given_up(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "HEAD_SECONDS", 0.5)
    with decided_gateway() as (_, running), answered_early(running) as connection:
        connection.sendall(sent)
        assert is_ended(connection)
