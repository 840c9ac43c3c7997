"""Answers that clients do not read: how many bytes of them the server holds, and for how long."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from tests.helpers.serving import http2 as frames
from tests.helpers.serving.guarded import code_of
from tests.helpers.serving.loopback import configured, stub_of
from tests.helpers.serving.raw import Raw
from tests.helpers.serving.reacting import soon
from tests.helpers.tiny import tiny_bundle
from tests.helpers.waiting import Clock
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos.errors import Overloaded
from twinspire.serving.engine import stream_call, unsent
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.engine.unsent import PATIENCE_SECONDS, UnsentBytes
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

CLOSED = ((frames.HEADER_TABLE_SIZE, 0), (frames.INITIAL_WINDOW_SIZE, 0))  # reads nothing of any answer
BATCH, STREAM = "/retrieval.v1.Retrieval/SearchBatch", "/retrieval.v1.Retrieval/SearchStream"
LARGE = wire.SearchBatchRequest(queries=[{"text": "bavuti"}] * 16, k=300)  # an answer of about 310 KB
LARGE_BYTES = 316_000  # roughly; 16 x 300 items of 65 bytes
ONE = wire.SearchRequest(query={"text": "bavuti"}, k=3)


class Call:
    """A call of a connection, and whether it was broken off."""

    def __init__(self, connection: str) -> None:
        self._connection = connection
        self.reasons: list[str] = []

    def peer(self) -> str:
        return self._connection

    def break_off(self, reason: str) -> None:
        self.reasons.append(reason)


def test_bytes_are_counted_from_the_request_to_the_last_byte() -> None:
    counted = UnsentBytes(1000, 5000)
    first, second, other = Call("a"), Call("a"), Call("b")
    counted.hold(first, 600)
    with pytest.raises(Overloaded, match="answers of 600 bytes are unread or being made on this connection"):
        counted.hold(second, 401)
    counted.hold(second, 400)
    counted.hold(other, 3000)  # one answer is always accepted
    assert counted.bytes == 4000
    counted.sent(first, 100)
    assert counted.bytes == 3500
    for call in (first, second, other, other):
        counted.release(call)
    assert counted.bytes == 0
    assert not counted._connections and not counted._held and not counted._sent


def test_what_no_client_reads_for_long_is_broken_off_when_its_bytes_are_needed() -> None:
    counted = UnsentBytes(1000, 2000, clock := Clock())
    calls = [Call(str(n)) for n in range(4)]
    for call in calls[:2]:
        counted.hold(call, 1000)
        counted.sent(call, 1000)
        clock.now += PATIENCE_SECONDS / 2
    for _ in range(2):
        with pytest.raises(Overloaded, match="answers of 2000 bytes are unread or being made, at most 2000"):
            counted.hold(calls[2], 500)
    assert [len(call.reasons) for call in calls] == [1, 0, 0, 0]
    counted.release(calls[0])
    counted.hold(calls[2], 500)
    assert counted.bytes == 1500


@contextmanager
def bounded(retriever: Retriever, connection: int, total: int) -> Iterator[RetrievalServer]:
    """A server with bounds in answers of `LARGE`: for a connection, and in all."""
    bounds = WorkerLimits(
        connection_unsent_bytes=connection * LARGE_BYTES + LARGE_BYTES // 2,
        unsent_bytes=total * LARGE_BYTES + LARGE_BYTES // 2,
    )
    with RetrievalServer(retriever, configured(bounds=bounds)) as server:
        yield server


def held(server: RetrievalServer) -> int:
    """Bytes that the server counts."""
    return server._event_loop.admission.unsent.bytes


def ask(raw: Raw, calls: int, timeout_ms: int = 20_000) -> list[int]:
    """Ask for large answers; gives the streams."""
    return [raw.ask(BATCH, LARGE.SerializeToString(), timeout_ms) for _ in range(calls)]


def codes(raw: Raw, streams: list[int], expected: int) -> list[str]:
    """The codes of the calls that are over, once there are as many as expected."""
    until = time.monotonic() + 10
    while len(raw.statuses) < expected and time.monotonic() < until:
        raw.read(0.05)
    return [raw.statuses[stream].code for stream in streams if stream in raw.statuses]


def test_a_connection_that_reads_nothing_is_refused_further_large_answers(retriever: Retriever) -> None:
    with bounded(retriever, 2, 10) as server, Raw(server.address, CLOSED) as raw:
        streams = ask(raw, 8)
        assert codes(raw, streams, 6) == ["RESOURCE_EXHAUSTED"] * 6
        assert "unread or being made on this connection" in next(iter(raw.statuses.values())).message
        assert soon(lambda: 1.5 * LARGE_BYTES < held(server) < 2.5 * LARGE_BYTES)
        with grpc.insecure_channel(server.address) as channel:  # others are not
            stub: Any = retrieval_pb2_grpc.RetrievalStub(channel)
            assert code_of(stub.SearchBatch, LARGE)[0] is StatusCode.OK
        answered = [stream for stream in streams if stream not in raw.statuses]
        raw.send(*(frames.window_update(stream, 1 << 30) for stream in answered))
        assert [raw.status(stream).code for stream in answered] == ["OK", "OK"]
        assert soon(lambda: held(server) == 0)
        raw.send(frames.window_update(last := ask(raw, 1)[0], 1 << 30))
        assert raw.status(last).code == "OK"


def test_a_small_answer_takes_the_place_of_its_large_reservation(tmp_path: Path) -> None:
    """A text without a known letter has no hits, which is known only after it has been encoded."""
    nothing_popular = Retriever.load(tiny_bundle(tmp_path, shares=[1.0] * 300))
    unknown = wire.SearchBatchRequest(queries=[{"text": "\U0001f600"}] * 128, k=100)
    with RetrievalServer(nothing_popular) as server, Raw(server.address, CLOSED) as raw:
        raw.ask(BATCH, unknown.SerializeToString())
        assert soon(lambda: 0 < held(server) < unsent.UNCOUNTED)


@pytest.mark.parametrize("end", ["deadline", "reset", "close"])
def test_what_is_not_read_is_let_go_when_the_call_ends(retriever: Retriever, end: str) -> None:
    with bounded(retriever, 2, 10) as server, Raw(server.address, CLOSED) as raw:
        streams = ask(raw, 2, timeout_ms=1500 if end == "deadline" else 20_000)
        assert soon(lambda: held(server) > 1.5 * LARGE_BYTES)
        if end == "reset":
            for stream in streams:
                raw.reset(stream)
        if end == "close":
            raw.close()
        assert soon(lambda: held(server) == 0)
        assert not server._event_loop.admission.unsent._connections


def test_connections_that_read_nothing_keep_nobody_from_small_answers_and_lose_theirs_to_large_ones(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bounded(retriever, 2, 4) as server, ExitStack() as stack:
        silent = [stack.enter_context(Raw(server.address, CLOSED)) for _ in range(3)]
        for raw in silent:
            ask(raw, 2)
        assert soon(lambda: held(server) > 3.5 * LARGE_BYTES)
        channel = stack.enter_context(grpc.insecure_channel(server.address, [("grpc.enable_retries", 0)]))
        stub: Any = retrieval_pb2_grpc.RetrievalStub(channel)
        code, text = code_of(stub.SearchBatch, LARGE)
        assert code is StatusCode.RESOURCE_EXHAUSTED
        assert "bytes are unread or being made, at most" in text
        assert len(stub.Search(ONE, timeout=10).hits) == 3
        monkeypatch.setattr(unsent, "PATIENCE_SECONDS", 0.0)
        assert soon(lambda: code_of(stub.SearchBatch, LARGE)[0] is StatusCode.OK)


def test_a_stream_that_reads_nothing_is_read_no_further_than_the_bytes_of_its_window(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_call, "WINDOW_BYTES", 100_000)  # 5 answers of 300 items
    large = wire.SearchRequest(query={"text": "bavuti"}, k=300).SerializeToString()
    with RetrievalServer(retriever) as server, Raw(server.address, CLOSED) as raw:
        stream = raw.begin(STREAM)
        for n in range(40):
            raw.message(stream, large, last=n == 39)
        assert soon(lambda: answered_by(server) >= 4)
        time.sleep(0.1)
        assert answered_by(server) <= 8
        raw.send(frames.window_update(stream, 1 << 30))
        assert raw.status(stream).code == "OK"
        assert soon(lambda: answered_by(server) == 40)


def answered_by(server: RetrievalServer) -> float:
    """Queries that the server has answered."""
    with stub_of(server.address) as stub:
        return float(stub.Info(wire.InfoRequest(), timeout=10).state.queries)
