"""Connections: a bound that shuts nobody out, and no time limit for those who read."""

import errno
import fcntl
import http.client
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
from tests.helpers.serving.gateways import JSON, RunningGateway, decided, is_ended, read
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.helpers.waiting import wait_until
from twinspire.serving.gateway import connections, http1, process
from twinspire.serving.gateway.metrics import GatewayMetrics
from twinspire.serving.gateway.options import GatewayBounds

SEARCH = {"query": {"text": "bavuti"}}


def ask(connection: http.client.HTTPConnection) -> int:
    """The status of a search over a connection that stays open."""
    connection.request("POST", "/v1/search", json.dumps(SEARCH), JSON)
    return read(connection).status


@contextmanager
def kept_alive(running: RunningGateway, count: int) -> Iterator[list[http.client.HTTPConnection]]:
    """Connections that have been answered, in this order, and have no request."""
    with ExitStack() as stack:
        found = [stack.enter_context(running.connect()) for _ in range(count)]
        assert [ask(each) for each in found] == [200] * count
        yield found


def test_idle_connections_make_room_the_longest_idle_first() -> None:
    bounds = GatewayBounds(http_connections=3)
    with (
        decided() as (_, address),
        run_gateway(address, bounds=bounds) as running,
        kept_alive(running, 3) as (first, second, third),
    ):
        assert ask(first) == 200  # now `second` has been idle longest
        with running.connect() as new:
            assert ask(new) == 200
            assert second.sock.recv(1) == b""
            assert [ask(each) for each in (third, first, new)] == [200] * 3


def test_connections_with_requests_are_answered_and_a_new_one_is_refused() -> None:
    bounds = GatewayBounds(http_connections=2)
    with (
        decided() as (service, address),
        run_gateway(address, bounds=bounds) as running,
        kept_alive(running, 2) as both,
    ):
        for _ in both:
            service.seen.get(timeout=30)
        service.released.clear()
        for each in both:
            each.request("POST", "/v1/search", json.dumps(SEARCH), JSON)
            service.seen.get(timeout=30)
        with running.connect() as new, pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            ask(new)
        service.released.set()
        assert [read(each).status for each in both] == [200, 200]
        assert ask(both[0]) == 200
        with running.connect() as new:
            assert ask(new) == 200


class Stub:
    """A connection whose state a test decides."""

    def __init__(self, host: str, is_sending: bool = False) -> None:
        self.client_host, self.is_sending, self.is_aborted = host, is_sending, False
        self.transport = self

    def abort(self) -> None:
        self.is_aborted = True


def test_the_client_with_most_connections_makes_room() -> None:
    bound = connections.OpenConnections(4, GatewayMetrics().closed)
    given = [Stub("a"), Stub("b", is_sending=True), Stub("b"), Stub("b")]
    for each in [*given, Stub("c")]:
        assert bound.add(each)
    assert [each.is_aborted for each in given] == [False, False, True, False]
    for each in (given[0], given[3]):
        bound.mark(each, is_idle=False)
    assert bound.add(Stub("d"))
    assert given[1].is_aborted  # `b` has more than a quarter of them


def test_a_client_with_more_than_its_share_loses_a_connection_with_a_request() -> None:
    bound = connections.OpenConnections(4, GatewayMetrics().closed)
    given = [Stub("a") for _ in range(4)]
    for each in given:
        assert bound.add(each)
        bound.mark(each, is_idle=False)
    assert not bound.add(Stub("a"))
    for expected in (1, 2):
        new = Stub("b")
        assert bound.add(new)
        bound.mark(new, is_idle=False)
        assert sum(each.is_aborted for each in given) == expected
    assert not bound.add(Stub("b"))
    assert len(bound) == 4


def test_a_client_above_its_share_takes_no_room_of_others() -> None:
    bound = connections.OpenConnections(20, GatewayMetrics().closed)
    good = [Stub(f"good {number}") for number in range(8)]
    for each in good:
        assert bound.add(each)
    for _ in range(40):
        flood = Stub("flood")
        if bound.add(flood):
            bound.mark(flood, is_idle=False)
    assert not any(each.is_aborted for each in good)
    assert len(bound) == 20


LARGE = "a" * 1_000_000  # more than the buffers below hold


@contextmanager
def asked_for_much(running: RunningGateway, tls: ssl.SSLContext | None = None) -> Iterator[socket.socket]:
    """A connection whose answer is `LARGE`, with small buffers on both sides."""
    running.server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)
    body = json.dumps({"query": {"text": LARGE}})
    head = "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
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
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_client_that_reads_slowly_is_sent_all(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than a connection is kept between two requests, and than one may stall."""
    monkeypatch.setattr(process, "KEEP_ALIVE_SECONDS", 1)
    monkeypatch.setattr(connections, "STALL_SECONDS", 2.5)
    options: dict[str, Any] = {}
    context = None
    if scheme == "https":
        authority = Authority()
        certificate, key = authority.server().write(tmp_path)
        options = {"https_certificate": certificate, "https_key": key}
        context = ssl.create_default_context(cadata=authority.certificate.decode())
    with (
        decided() as (_, address),
        run_gateway(address, **options) as running,
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
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.5)
    with decided() as (_, address), run_gateway(address) as running, asked_for_much(running):
        wait_until(lambda: not running.server.server_state.connections)


def test_progress_is_watched_where_the_kernel_does_not_tell_what_it_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> bytes:
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.5)
    with decided() as (_, address), run_gateway(address) as running, asked_for_much(running):
        wait_until(lambda: not running.server.server_state.connections)


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


def receive_answer(connection: socket.socket) -> bytes:
    """The next answer; none is larger than a part that is read."""
    return connection.recv(1 << 16)


def test_a_body_that_was_answered_early_is_no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    with decided() as (_, address), run_gateway(address) as running, answered_early(running) as connection:
        monkeypatch.setattr(http1, "HEAD_SECONDS", 0.2)
        connection.sendall(b"12345")
        time.sleep(0.5)  # longer than a head may take
        connection.sendall(b"67890")
        time.sleep(0.5)
        connection.sendall(REQUEST)
        assert receive_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_was_answered_early_and_stops_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "KEEP_ALIVE_SECONDS", 0.5)
    with decided() as (_, address), run_gateway(address) as running, answered_early(running) as connection:
        monkeypatch.setattr(http1, "HEAD_SECONDS", 3600.0)
        connection.sendall(b"12345")
        assert is_ended(connection)


def test_a_head_that_came_in_part_with_another_request_has_the_time_of_a_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        decided() as (service, address),
        run_gateway(address) as running,
        socket.create_connection(("127.0.0.1", running.port), 30) as connection,
    ):
        service.released.clear()
        connection.sendall(REQUEST + b"POST /v1/sea")
        service.seen.get(timeout=30)
        monkeypatch.setattr(http1, "HEAD_SECONDS", 0.2)
        service.released.set()
        assert receive_answer(connection).startswith(b"HTTP/1.1 200 ")
        assert is_ended(connection)


def test_a_handshake_that_does_not_come_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(process.TLS_SECONDS, "ssl_handshake_timeout", 0.3)
    certificate, key = Authority().server().write(tmp_path)
    with (
        decided() as (_, address),
        run_gateway(address, https_certificate=certificate, https_key=key) as running,
        socket.create_connection(("127.0.0.1", running.port), 30) as connection,
    ):
        connection.sendall(b"\x16\x03\x01")
        assert connection.recv(1) == b""
