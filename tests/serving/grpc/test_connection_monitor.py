"""Connections that make no calls, against a real server over real sockets."""

import contextlib
import functools
import socket
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.helpers.serving import http2 as frames
from tests.helpers.serving.loopback import configured
from tests.helpers.serving.raw import Raw
from tests.helpers.serving.reacting import GOOD, soon
from twinspire.protos import retrieval_pb2_grpc as rpcs
from twinspire.serving.client import RetrievalClient
from twinspire.serving.engine import admission
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.grpc.connection_monitor import (
    FRAME_BYTES,
    ConnectionMonitor,
)
from twinspire.serving.observability import layout
from twinspire.serving.observability.worker_metrics import SharedMetrics
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

WATCH = "/grpc.health.v1.Health/Watch"
SEARCH_STREAM = "/retrieval.v1.Retrieval/SearchStream"
UNKNOWN_FRAME = 200


class Served:
    """A server with bounds of a test's own, and what it counts."""

    def __init__(self, server: RetrievalServer, metrics: SharedMetrics) -> None:
        self.server, self.metrics = server, metrics
        self.address = server.address

    def closed(self, reason: str) -> float:
        """Connections that were closed for this reason."""
        (row,) = self.metrics.read()
        return row[layout.CONNECTIONS_CLOSED[reason]]

    def answers(self, deadline: float = 10.0) -> bool:
        """Whether a new connection gets an answer within this time."""

        def ask() -> bool:
            with RetrievalClient(self.address) as client, contextlib.suppress(Exception):
                return bool(client.search("bavuti", timeout=1.0).hits)
            return False

        return soon(ask, deadline)


Serve = Callable[..., Served]


@pytest.fixture
def serve(retriever: Retriever) -> Iterator[Serve]:
    """Start a server on the plain bundle with these bounds."""
    with contextlib.ExitStack() as stack:

        def start(**bounds: int) -> Served:
            metrics = SharedMetrics(1)
            server = RetrievalServer(retriever, configured(bounds=WorkerLimits(**bounds)), metrics=metrics)
            return Served(stack.enter_context(server), metrics)

        yield start


@contextlib.contextmanager
def connected(
    address: str, count: int, source: str = "127.0.0.1", sends: bytes = b""
) -> Iterator[list[socket.socket]]:
    """Connections from one address that send a few bytes and then nothing."""
    host, port = address.rsplit(":", 1)
    made = []
    for _ in range(count):
        made.append(socket.create_connection((host, int(port)), 10, source_address=(source, 0)))
        made[-1].sendall(sends)
    try:
        yield made
    finally:
        for each in made:
            each.close()


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed it; what it has sent before is read."""
    connection.settimeout(0.01)
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def answered(raw: Raw, streams: list[int]) -> bool:
    """Whether each of these streams has had a message by now."""
    raw.read(0.05)
    return set(streams) <= set(raw.received)


def ended(raw: Raw, count: int) -> bool:
    """Whether this many calls are over by now."""
    raw.read(0.05)
    return len(raw.statuses) == count


HALF_A_FRAME = frames.PREFACE + frames.settings(()) + frames.frame(frames.HEADERS, 0, 1, bytes(100))[:50]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "sends", [b"", frames.PREFACE, HALF_A_FRAME], ids=["silent", "preface", "half a frame"]
)
def test_connections_without_a_call_do_not_keep_others_out(serve: Serve, sends: bytes) -> None:
    served = serve(connections=16, first_call_seconds=2)
    with connected(served.address, 16, "127.0.0.2", sends) as silent:
        assert served.answers()
        assert soon(lambda: all(is_closed(each) for each in silent), 20)  # some by gRPC itself


def test_one_address_has_a_part_of_the_connections(serve: Serve) -> None:
    served = serve(connections_per_address=4)
    with RetrievalClient(served.address) as client, connected(served.address, 8, "127.0.0.2") as first:
        assert client.search("bavuti").hits
        assert soon(lambda: sum(is_closed(each) for each in first) == 4)
        with connected(served.address, 4, "127.0.0.2") as later:
            assert soon(lambda: all(is_closed(each) for each in first))
            assert soon(lambda: served.closed("address") == 8)
            assert not any(is_closed(each) for each in later)  # those that came first are closed
            assert client.search("bavuti").hits  # another address is not affected


def test_a_connection_that_has_made_a_call_may_be_silent(serve: Serve) -> None:
    served = serve(first_call_seconds=1)
    with grpc.insecure_channel(served.address) as channel:
        search = rpcs.RetrievalStub(channel).Search
        states: list[grpc.ChannelConnectivity] = []
        assert search(GOOD).hits
        channel.subscribe(states.append)
        with connected(served.address, 1) as (silent,):
            assert soon(lambda: is_closed(silent), 10)  # so the time is over
        assert search(GOOD).hits
    assert states == [grpc.ChannelConnectivity.READY]


@pytest.mark.parametrize(
    "flood",
    [frames.frame(frames.PING, 0, 0, bytes(8)), frames.frame(UNKNOWN_FRAME, 0, 0, bytes(8))],
    ids=["ping", "unknown"],
)
def test_a_flood_of_frames_without_calls_is_closed(serve: Serve, flood: bytes) -> None:
    served = serve()
    block = flood * (64_000 // len(flood))
    with connected(served.address, 1, sends=frames.PREFACE + frames.settings(())) as (attacker,):
        attacker.settimeout(0.2)
        until = time.monotonic() + 20
        with contextlib.suppress(ConnectionError), RetrievalClient(served.address) as client:
            while time.monotonic() < until:
                with contextlib.suppress(TimeoutError):
                    attacker.send(block)
                assert client.search("bavuti", timeout=10).hits
            pytest.fail("the flood goes on")
    assert soon(lambda: served.closed("flood") == 1, 10)  # it is counted after it is closed
    assert served.answers()


@pytest.mark.exhaustive
def test_large_messages_are_no_flood(serve: Serve) -> None:
    """They may come slowly, together, and for longer than a second after their calls."""
    served = serve()
    with Raw(served.address) as raw:
        streams = [raw.begin("/retrieval.v1.Retrieval/SearchBatch") for _ in range(4)]
        whole = frames.message(bytes(3 << 20))
        for start in range(0, len(whole), 16_000):
            part = whole[start : start + 16_000]
            raw.send(*(frames.frame(frames.DATA, 0, stream, part) for stream in streams))
            raw.read(0.01)
        raw.send(*(frames.frame(frames.DATA, frames.END_STREAM, stream, b"") for stream in streams))
        assert {raw.status(stream, 20).code for stream in streams} == {"INVALID_ARGUMENT"}
    assert served.closed("flood") == 0


@pytest.mark.parametrize(
    ("used", "after"), [(0.0, 1 << 20), (10.0, FRAME_BYTES)], ids=["message", "small frames"]
)
def test_what_is_read_in_one_poll_is_a_flood_if_it_is_large_or_takes_much_processor_time(
    used: float, after: int
) -> None:
    """The event loop's thread gets so little time that one poll reads for as long as the test lasts."""
    spent = iter([0.0] * 2)
    closed: list[str] = []
    most = 1 << 20
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, listener.accept()[0] as server:
            calls = {b"ipv4:127.0.0.1:%d" % client.getsockname()[1]: time.perf_counter_ns()}
            monitor = ConnectionMonitor(
                port, WorkerLimits(), most, lambda: 1.0, calls, closed.append, lambda: next(spent, used)
            )
            monitor.start()

            def feed(size: int) -> None:
                client.sendall(bytes(size))
                while size:
                    part = server.recv(size)
                    if not part:
                        raise ConnectionError
                    size -= len(part)

            try:
                for _ in range(100):
                    feed(after // 200)
                    time.sleep(0.01)
                assert closed == []
                with pytest.raises(OSError):
                    for _ in range(500):
                        feed(after // 20)
                        time.sleep(0.01)
                assert closed == ["flood"]
            finally:
                monitor.stop()


def test_a_first_request_that_has_been_read_and_not_yet_seen_is_no_flood() -> None:
    """It may fill the first window of HTTP/2, 65,535 bytes, beside its header block."""
    closed: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, listener.accept()[0] as server:
            monitor = ConnectionMonitor(port, WorkerLimits(), 4 << 20, lambda: 1.0, {}, closed.append)

            def feed(size: int) -> None:
                client.sendall(bytes(size))
                while size:
                    size -= len(server.recv(size))

            feed(65_535 + (16 << 10))
            monitor.sweep()
            monitor._break_stall(1.0, 1.0)
            assert closed == []
            feed(FRAME_BYTES)
            monitor._break_stall(1.0, 1.0)
            assert closed == ["flood"]


def test_a_client_with_many_connections_makes_room_before_a_quiet_one(serve: Serve) -> None:
    served = serve(connections=16, first_call_seconds=60)
    with Raw(served.address) as quiet:
        stream = quiet.ask(SEARCH_STREAM, GOOD.SerializeToString(), 60_000)
        assert soon(functools.partial(answered, quiet, [stream]))
        time.sleep(1.2)
        with connected(served.address, 13, "127.0.0.2") as many:
            assert soon(lambda: served.closed("full") >= 2)
            assert sum(map(is_closed, many)) == served.closed("full")
        quiet.read(0.05)
        assert not quiet.closed


def test_watches_leave_streams_to_others(serve: Serve) -> None:
    served = serve(watches=4)
    request = health_pb2.HealthCheckRequest().SerializeToString()
    with contextlib.ExitStack() as stack:
        storm = [stack.enter_context(Raw(served.address)) for _ in range(5)]
        for raw in storm:
            watches = {raw.ask(WATCH, request, 600_000) for _ in range(16)}
            # gRPC may report calls of one connection in another order than they were sent.
            assert soon(functools.partial(ended, raw, 12), 10)
            assert {status.code for status in raw.statuses.values()} == {"RESOURCE_EXHAUSTED"}
            assert soon(functools.partial(answered, raw, [*watches - raw.statuses.keys()]))
        with grpc.insecure_channel(served.address) as channel:
            assert next(rpcs.RetrievalStub(channel).SearchStream(iter([GOOD]))).hits
            status = next(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()))
            assert status.status == health_pb2.HealthCheckResponse.SERVING


def test_a_watch_that_has_ended_makes_room_for_another(serve: Serve) -> None:
    served = serve(watches=1)
    request = health_pb2.HealthCheckRequest().SerializeToString()
    with Raw(served.address) as raw:
        for _ in range(3):
            watch = raw.ask(WATCH, request, 600_000)
            assert soon(functools.partial(answered, raw, [watch]))
            raw.reset(watch)
            assert served.answers()  # the reset has been read before


def test_an_idle_stream_makes_room_for_another(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "IDLE_STREAM_SECONDS", 0.5)
    served = serve(streams=2)
    with Raw(served.address) as idle, grpc.insecure_channel(served.address) as channel:
        streams = [idle.begin(SEARCH_STREAM, 600_000) for _ in range(2)]
        assert soon(lambda: served.metrics.snapshot()["streams"] == 2)
        stub = rpcs.RetrievalStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            next(stub.SearchStream(iter([GOOD])))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        time.sleep(0.6)
        assert next(stub.SearchStream(iter([GOOD]))).hits
        assert idle.status(streams[0]).code == "RESOURCE_EXHAUSTED"
        assert streams[1] not in idle.statuses


def test_an_address_with_many_idle_streams_makes_room_soon(serve: Serve) -> None:
    served = serve(streams=8)
    with Raw(served.address, source="127.0.0.2") as storm, grpc.insecure_channel(served.address) as channel:
        streams = [storm.begin(SEARCH_STREAM, 600_000) for _ in range(8)]
        assert soon(lambda: served.metrics.snapshot()["streams"] == 8)
        time.sleep(0.3)
        assert next(rpcs.RetrievalStub(channel).SearchStream(iter([GOOD]))).hits
        assert storm.status(streams[0]).code == "RESOURCE_EXHAUSTED"


def test_calls_of_closed_connections_are_forgotten(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinspire.serving.grpc.connection_monitor.FORGET_SECONDS", 0.1)
    served = serve()
    last_calls = served.server._event_loop.last_calls
    for _ in range(5):
        with RetrievalClient(served.address) as client:
            client.search("bavuti")
            known = len(last_calls)
            assert known >= 1
    assert soon(lambda: not last_calls, 10)
