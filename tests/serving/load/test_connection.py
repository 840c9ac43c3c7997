"""The load's own HTTP/2: against grpcio's servers, and against a peer that does what those seldom do."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import hpack
import pytest

from tests.helpers.ports import held_port
from tests.helpers.serving import http2
from tests.helpers.serving.http2 import WINDOW, Call, Connection, ConnectionPool, Status
from tests.load.load import Requests, closed_loop
from twinspire.protos.errors import InvalidInput, Unavailable

PATH = "/test.Test/Call"
ONE = Requests(PATH, [http2.message(b"a")])
PATIENCE = 30.0
Behaviour = Callable[[bytes, grpc.ServicerContext], bytes]


@contextmanager
def serving(behaviour: Callable[..., Any], options: list[tuple[str, int]] | None = None) -> Iterator[str]:
    """A server of one method whose messages are bytes; its address."""
    make = grpc.unary_unary_rpc_method_handler
    server = grpc.server(
        ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1), *(options or [])]
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Test", {"Call": make(behaviour)}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def call(address: str, message: bytes) -> tuple[Status, bytes]:
    """One call: how it ended, and what was answered."""
    ended: list[Status] = []
    asked = Call(0, 0.0, is_kept=True)
    with ConnectionPool(address, 1, lambda connection, call, status: ended.append(status)) as pool:
        connection = pool.connection(0)
        head = pool.head(PATH, 60_000)
        connection.request(head, http2.message(message), asked)
        connection.flush()
        until = time.monotonic() + PATIENCE
        while not ended and time.monotonic() < until:
            pool.poll(0.1)
    assert ended, "no answer"
    return ended[0], b"".join(asked.parts or ())[5:]


def test_a_message_comes_back() -> None:
    with serving(lambda request, context: request[::-1]) as address:
        assert call(address, b"abc") == (Status("OK"), b"cba")


@pytest.mark.exhaustive
@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL])
def test_a_refusal_is_no_success(code: grpc.StatusCode) -> None:
    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(code, "too much: 100 %, fünf")  # gRPC sends headers that are trailers too

    with serving(refuse) as address:
        assert call(address, b"a") == (Status(code.name, "too much: 100 %, fünf"), b"")
        measured = closed_loop(address, ONE, 2, 0.2, 0.0)
    assert measured.rps == 0
    assert measured.errors == {code.name: measured.offered}
    assert measured.messages == {code.name: "too much: 100 %, fünf"}
    assert measured.percentile_us(50) != measured.percentile_us(50)  # there is none


def test_a_status_behind_headers_is_read() -> None:
    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.send_initial_metadata((("a", "b"),))
        context.abort(grpc.StatusCode.DATA_LOSS, "lost")

    with serving(refuse) as address:
        assert call(address, b"a") == (Status("DATA_LOSS", "lost"), b"")


def test_large_messages_pass_in_both_directions() -> None:
    size = 2 * WINDOW + 1
    with serving(lambda request, context: request) as address:
        status, answer = call(address, b"x" * size)
    assert (status.code, len(answer)) == ("OK", size)


def test_a_connection_outlives_its_windows() -> None:
    answers: list[int] = []
    asked = 3 * WINDOW // (1 << 20)
    with serving(lambda request, context: b"x" * (1 << 20)) as address:

        def finished(connection: Connection, call: Call, status: Status) -> None:
            answers.append(call.number)
            if len(answers) < asked:
                ask(connection)

        def ask(connection: Connection) -> None:
            connection.request(pool.head(PATH, 60_000), ONE.messages[0], Call(len(answers), 0.0))
            connection.flush()

        with ConnectionPool(address, 1, finished) as pool:
            ask(pool.connection(0))
            until = time.monotonic() + PATIENCE
            while len(answers) < asked and time.monotonic() < until:
                pool.poll(0.1)
    assert answers == list(range(asked))


def test_load_stays_on_this_machine() -> None:
    with pytest.raises(InvalidInput, match="is not this machine"):
        ConnectionPool("192.0.2.1:50051", 1, lambda *each: None)
    with held_port() as port, pytest.raises(Unavailable, match="cannot connect"):
        ConnectionPool(f"127.0.0.1:{port}", 1, lambda *each: None)


class Peer:
    """Speaks HTTP/2 by hand to one client at a time: bytes for each request that comes, then OK to all."""

    def __init__(self, answers: list[bytes], settings: bytes | None = None) -> None:
        self.answers = answers
        self.heard = b""
        self.connections = 0
        self._settings = http2.settings([]) if settings is None else settings
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Peer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                connection.sendall(self._settings)
                heard, stream = b"", 1
                while data := connection.recv(1 << 20):
                    self.heard += data
                    heard += data
                    if b"\0\0\0\0\1a" in heard:  # a request is whole
                        fine = trailers(stream, grpc_status="0")
                        connection.sendall(self.answers.pop(0) if self.answers else fine)
                        heard, stream = b"", stream + 2

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


def trailers(stream: int, **fields: str) -> bytes:
    block = hpack.Encoder().encode([(name.replace("_", "-"), value) for name, value in fields.items()])
    return http2.frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, block)


def test_a_server_that_goes_away_is_asked_on_a_new_connection() -> None:
    goaway = http2.frame(http2.GOAWAY, 0, 0, struct.pack(">II", 1, 0) + b"enough")
    with Peer([goaway + trailers(1, grpc_status="0")]) as peer:
        measured = closed_loop(peer.address, ONE, 1, 0.3, 0.0)
        assert peer.connections == 2
    assert measured.errors == {}
    assert measured.offered > 1


def test_calls_that_a_server_has_not_begun_are_over_when_it_goes_away() -> None:
    goaway = http2.frame(http2.GOAWAY, 0, 0, struct.pack(">II", 0, 0) + b"enough")
    with Peer([goaway]) as peer:
        status, _ = call(peer.address, b"a")
    assert status == Status("UNAVAILABLE", "the server goes away: enough")


@pytest.mark.parametrize(
    ("reason", "code"), [(7, "UNAVAILABLE"), (8, "CANCELLED"), (11, "RESOURCE_EXHAUSTED"), (2, "INTERNAL")]
)
def test_a_reset_is_a_status(reason: int, code: str) -> None:
    with Peer([http2.frame(http2.RST_STREAM, 0, 1, struct.pack(">I", reason))]) as peer:
        status, _ = call(peer.address, b"a")
    assert status.code == code


def test_a_ping_is_answered() -> None:
    ping = http2.frame(http2.PING, 0, 0, b"12345678")
    with Peer([ping + trailers(1, grpc_status="0")]) as peer:
        assert call(peer.address, b"a")[0] == Status("OK")
        until = time.monotonic() + PATIENCE
        while (answer := http2.frame(http2.PING, http2.ACK, 0, b"12345678")) not in peer.heard:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert answer in peer.heard


@pytest.mark.exhaustive
def test_headers_in_parts_and_without_a_status_are_told() -> None:
    block = hpack.Encoder().encode([("grpc-status", "5"), ("grpc-message", "no%20such")])
    parts = http2.frame(http2.HEADERS, http2.END_STREAM, 1, block[:4])
    parts += http2.frame(http2.CONTINUATION, http2.END_HEADERS, 1, block[4:])
    with Peer([parts]) as peer:
        assert call(peer.address, b"a")[0] == Status("NOT_FOUND", "no such")
    with Peer([trailers(1, grpc_message="what")]) as peer:
        assert call(peer.address, b"a")[0].code == "UNKNOWN"
    with Peer([http2.frame(http2.DATA, http2.END_STREAM, 1, b"")]) as peer:
        assert call(peer.address, b"a")[0].code == "INTERNAL"


def test_who_does_not_speak_http2_is_told_apart() -> None:
    with (
        Peer([], settings=b"HTTP/1.1 400 Bad Request\r\n\r\n") as peer,
        pytest.raises(Unavailable, match="does not speak HTTP/2: the data is not HTTP/2"),
    ):
        ConnectionPool(peer.address, 1, lambda *each: None)


def test_no_more_calls_are_begun_than_the_server_allows() -> None:
    settings = http2.settings([(http2.MAX_CONCURRENT_STREAMS, 2)])
    with Peer([], settings) as peer, ConnectionPool(peer.address, 1, lambda *each: None) as pool:
        connection = pool.connection(0)
        for number in range(2):
            assert connection.has_room
            connection.request(b"", b"", Call(number, 0.0))
        assert not connection.has_room
        connection.cancel(1)
        assert connection.has_room


def send_beyond_the_window(peer: Peer) -> None:
    """Send a request of 26 bytes, of which the peer's window takes 10 at first."""
    with ConnectionPool(peer.address, 1, lambda *each: None) as pool:
        connection = pool.connection(0)
        connection.request(b"head", b"\0\0\0\0\1a" + b"x" * 20, Call(0, 0.0))
        connection.flush()
        until = time.monotonic() + PATIENCE
        while b"x" * 16 not in peer.heard and time.monotonic() < until:
            pool.poll(0.1)


def test_windows_of_the_server_are_kept_to() -> None:
    settings = http2.settings([(http2.INITIAL_WINDOW_SIZE, 10)])
    with Peer([http2.window_update(1, 1 << 20)], settings) as peer:
        send_beyond_the_window(peer)
        first = http2.frame(http2.DATA, 0, 1, b"\0\0\0\0\1a" + b"x" * 4)
        assert first + http2.frame(http2.DATA, http2.END_STREAM, 1, b"x" * 16) in peer.heard


def test_a_wider_window_is_acknowledged_before_it_is_used() -> None:
    settings = http2.settings([(http2.INITIAL_WINDOW_SIZE, 10)])
    wider = http2.settings([(http2.INITIAL_WINDOW_SIZE, 1 << 20)])
    with Peer([wider], settings) as peer:
        send_beyond_the_window(peer)
        rest = http2.frame(http2.DATA, http2.END_STREAM, 1, b"x" * 16)
        assert http2.frame(http2.SETTINGS, http2.ACK, 0) + rest in peer.heard
