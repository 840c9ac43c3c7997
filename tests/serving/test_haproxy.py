"""A real HAProxy with `serving/deploy/haproxy.cfg` in front of a real server."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.answers import differences
from tests.helpers.ports import held_port
from tests.helpers.serving import haproxy
from tests.helpers.serving import http2 as frames
from tests.helpers.serving.certificates import Authority
from tests.helpers.serving.fuzzed_messages import HEALTH, SEARCH
from tests.helpers.serving.gateways import gateway
from tests.helpers.serving.raw import Raw, head
from tests.helpers.waiting import wait_until
from twinspire.serving.client import RetrievalClient
from twinspire.serving.client.security import Security
from twinspire.serving.server import RetrievalServer

QUERY = "bavuti xelike mopy"
FLOODER = "127.0.0.2"

MISSING = haproxy.missing()
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
    pytest.mark.exhaustive,
    pytest.mark.quiet,
]

Start = Callable[..., str]


@pytest.fixture
def start_haproxy(server: RetrievalServer) -> Iterator[Start]:
    """Start HAProxy in front of the server, or of another address; gives its address."""
    with ExitStack() as stack:

        def start(service: str = "", **settings: str) -> str:
            return stack.enter_context(haproxy.running(service or server.address, **settings))

        yield start


def test_haproxy_accepts_the_configuration_without_a_warning(tmp_path: Path) -> None:
    pair = Authority().server()
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(pair.certificate + pair.key)
    http = {"TWINSPIRE_HTTP_SERVICE": "127.0.0.1:3"}
    for settings in (
        {},
        http,
        {"TWINSPIRE_CERTIFICATE": str(bundle)},
        http | {"TWINSPIRE_CERTIFICATE": str(bundle)},
    ):
        checked = subprocess.run(
            [haproxy.PROGRAM, "-c", "-dW", "-f", str(haproxy.CONFIG)],
            capture_output=True,
            text=True,
            env=haproxy.environment("127.0.0.1:1", "127.0.0.1:2", **settings),
        )
        assert checked.returncode == 0, checked.stderr


def test_calls_and_streams_are_answered_through_haproxy(
    server: RetrievalServer, start_haproxy: Start, client: RetrievalClient
) -> None:
    expected = client.search(QUERY, k=5)
    with RetrievalClient(start_haproxy(), timeout=20) as through:
        answers = [through.search(QUERY, k=5), *through.search_stream([QUERY] * 3, k=5)]
        assert differences([expected] * 4, answers) == []
        assert len(through.search_batch([QUERY] * 100, k=100)) == 100
        assert through.info().name == client.info().name


def test_haproxy_takes_tls_off(start_haproxy: Start, tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.server()
    bundle, ca = tmp_path / "bundle.pem", tmp_path / "ca.pem"
    bundle.write_bytes(pair.certificate + pair.key)
    ca.write_bytes(authority.certificate)
    address = start_haproxy(TWINSPIRE_CERTIFICATE=str(bundle))
    with RetrievalClient(address, timeout=20, security=Security(ca=ca)) as through:
        assert len(through.search(QUERY, k=5).hits) == 5


def test_an_address_with_too_many_connections_is_refused_and_another_is_served(start_haproxy: Start) -> None:
    address = start_haproxy(TWINSPIRE_CONNECTIONS="20")
    flood: list[Raw] = []
    with ExitStack() as stack:
        for _ in range(30):
            with suppress(OSError):  # HAProxy may close a connection while it is being made
                flood.append(stack.enter_context(Raw(address, source=FLOODER)))
        for raw in flood:
            raw.read(1.0)
        assert sum(not raw.closed for raw in flood) == 20
        with RetrievalClient(address, timeout=20) as other:
            assert len(other.search(QUERY, k=5).hits) == 5


def test_an_address_with_too_many_calls_is_refused_and_another_is_served(start_haproxy: Start) -> None:
    address = start_haproxy(TWINSPIRE_CALLS="20")
    with Raw(address, source=FLOODER) as raw:
        codes = [raw.status(raw.ask(f"{HEALTH}/Check", b"")).code for _ in range(30)]
        assert codes == ["OK"] * 20 + ["RESOURCE_EXHAUSTED"] * 10
    with RetrievalClient(address, timeout=20) as other:
        assert len(other.search(QUERY, k=5).hits) == 5


def test_the_gateway_is_answered_through_haproxy_within_its_limits(server: RetrievalServer) -> None:
    with gateway(server.address) as running, held_port() as port, ExitStack() as stack:
        listens = f"127.0.0.1:{port}"
        to = {"TWINSPIRE_HTTP_SERVICE": f"127.0.0.1:{running.port}", "TWINSPIRE_HTTP_LISTEN": listens}
        stack.enter_context(haproxy.running(server.address, **to, TWINSPIRE_CALLS="20"))
        through = replace(running, port=port)
        wait_until(lambda: through.ask("/readyz").status == 200)
        assert len(through.ask("/v1/search", {"query": {"text": QUERY}, "k": 3}).document["hits"]) == 3
        for path in ("/metrics", "/%6detrics", "/metri%63s?a=b"):
            assert running.ask(path).status == 200
            assert through.ask(path).status == 404, path
        start = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for more, expected in (
            (b"Content-Length: 9000000\r\n\r\n", b"413"),
            (b"Name: " + b"a" * (20 << 10) + b"\r\n\r\n", b"400"),
            (b"Content-Length: 100\r\n\r\n", b"408"),
        ):
            with socket.create_connection(("127.0.0.1", port), 30, (FLOODER, 0)) as connection:
                connection.sendall(start + more)
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 %s " % expected)
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", port), 30, (FLOODER, 0)) as connection:
                connection.sendall(b"GET /v1/gateway HTTP/1.1\r\nHost: localhost\r\n\r\n")
                last = connection.recv(1 << 16)
        assert last.startswith(b"HTTP/1.1 429 ")
        assert through.ask("/v1/gateway").status == 200


def test_health_is_answered_but_not_watched_through_haproxy(start_haproxy: Start) -> None:
    with Raw(start_haproxy()) as raw:
        assert raw.status(raw.ask(f"{HEALTH}/Check", b"")).code == "OK"
        assert raw.status(raw.ask(f"{HEALTH}/Watch", b"")).code == "UNIMPLEMENTED"


def test_a_header_block_without_end_is_cut_off(start_haproxy: Start) -> None:
    address = start_haproxy()
    with Raw(address) as raw:
        raw.send(frames.frame(frames.HEADERS, 0, 1, head(SEARCH, 1000)))
        until = time.monotonic() + 20
        while not raw.closed and time.monotonic() < until:
            raw.send(frames.frame(frames.CONTINUATION, 0, 1, b"\0\1a\1b" * 100))
            raw.read(0.001)
        assert raw.closed
    with RetrievalClient(address, timeout=20) as other:
        assert len(other.search(QUERY, k=5).hits) == 5
