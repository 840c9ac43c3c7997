"""A line for a request: which requests get one, what it holds, and what it never does."""

import io
import json
import random
import threading
import uuid
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from protos import retrieval_pb2 as wire
from protos import retrieval_pb2_grpc
from serving.engine.call_record import CallRecord
from serving.engine.front import Metadata
from serving.observability.request_log import RequestLog
from serving.observability.sinks import RequestSinks
from serving.retrieval.retriever import Retriever
from serving.server import RetrievalServer
from tests.helpers.serving.guarded import Lines, code_of

SECRET = "where I was last summer"
SERVICE = "/retrieval.v1.Retrieval"


def call(code: str = "OK", metadata: Metadata = (), **others: Any) -> CallRecord:
    """A search that waited for 1 ms before its handler began, and took 4 ms in all."""
    stages = (
        ("queue", 0, 1_000_000),
        ("encode", 1_200_000, 1_500_000),
        ("search", 1_500_000, 3_500_000),
        ("serialise", 3_600_000, 3_650_000),
    )
    return CallRecord(
        f"{SERVICE}/Search", code, metadata, 1_000_000, 4_000_000, stages, texts=(SECRET,), **others
    )


def written(log: RequestLog, stream: io.StringIO, *calls: CallRecord) -> list[dict[str, Any]]:
    for each in calls:
        log.record_call(each)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_tells_of_the_request_and_of_its_stages() -> None:
    stream = io.StringIO()
    log = RequestLog(rate=1.0, worker=3, stream=stream)
    metadata = (("user-agent", "grpc"), ("x-request-id", "job-7:42"))
    (line,) = written(
        log,
        stream,
        call(metadata=metadata, caller="nightly", k=10, queries=1, batch=8, bundle_version="3f2a"),
    )
    assert abs((datetime.now(UTC) - datetime.fromisoformat(line.pop("time"))).total_seconds()) < 60
    assert line == {
        "request_id": "job-7:42",
        "method": "Search",
        "code": "OK",
        "caller": "nightly",
        "k": 10,
        "queries": 1,
        "batch": 8,
        "total_us": 4000,
        "queue_us": 1000,
        "encode_us": 300,
        "search_us": 2000,
        "serialise_us": 50,
        "bundle_version": "3f2a",
        "worker": 3,
    }


def test_a_line_holds_no_text_and_no_token() -> None:
    stream = io.StringIO()
    log = RequestLog(rate=1.0, stream=stream)
    each = call(metadata=(("authorization", "Bearer hunter2"), ("x-note-bin", b"hunter2")))
    written(log, stream, each)
    for told in (stream.getvalue(), repr(each)):
        assert SECRET not in told
        assert "hunter2" not in told


def test_texts_are_written_where_they_were_asked_for_and_bounded() -> None:
    stream = io.StringIO()
    log = RequestLog(rate=1.0, texts=True, stream=stream)
    many = CallRecord(f"{SERVICE}/SearchBatch", "OK", (), 0, 1, texts=["x" * 10_000] * 256)
    first, second = written(log, stream, call(), many)
    assert first["texts"] == [SECRET]
    assert second["texts"] == ["x" * 500] * 16


def test_a_request_without_stages_took_no_time_in_any() -> None:
    stream = io.StringIO()
    (line,) = written(
        RequestLog(rate=1.0, stream=stream), stream, CallRecord(f"{SERVICE}/Info", "OK", (), 0, 2_000)
    )
    assert (line["total_us"], line["queue_us"], line["search_us"]) == (2, 0, 0)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("7f3c-11", "7f3c-11"),
        ('a"b\nc\x1b[31m', "abc31m"),
        ("x" * 5000, "x" * 128),
        ("日本 1", "1"),
    ],
)
def test_a_clients_id_is_cleaned_and_bounded(given: str, kept: str) -> None:
    assert call(metadata=(("x-request-id", given),)).request_id == kept


@pytest.mark.parametrize("metadata", [(), (("x-request-id", ""),), (("x-request-id", "\n"),)], ids=repr)
def test_a_request_without_an_id_gets_one_of_its_own(metadata: Metadata) -> None:
    first, second = call(metadata=metadata), call(metadata=metadata)
    assert uuid.UUID(first.request_id).version == 4
    assert first.request_id == first.request_id != second.request_id


def test_what_a_client_sends_cannot_begin_a_line() -> None:
    stream = io.StringIO()
    log = RequestLog(rate=1.0, texts=True, stream=stream)
    forged = '\n{"method": "forged"}\u2028\r'
    each = CallRecord(
        f"{SERVICE}/Search", "OK", (("x-request-id", forged),), 0, 1, caller=forged * 50, texts=(forged,)
    )
    (line,) = written(log, stream, each)
    assert line["method"] == "Search"
    assert len(line["caller"]) == 128
    assert stream.getvalue().isascii()


def test_the_rate_is_the_part_that_gets_a_line() -> None:
    random.seed(7)
    log = RequestLog(rate=0.25)
    wanted = sum(log.wants_call("OK") for _ in range(10_000))
    assert 2300 < wanted < 2700
    assert all(RequestLog(rate=1.0).wants_call("OK") for _ in range(100))
    assert not any(RequestLog(rate=0.0).wants_call("NOT_FOUND") for _ in range(100))


@pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN", "DATA_LOSS"])
def test_faults_are_told_at_any_rate(code: str) -> None:
    assert RequestLog(rate=0.0).wants_call(code)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_is_a_part(rate: float) -> None:
    with pytest.raises(ValueError, match="rate: expected 0 to 1"):
        RequestLog(rate)


def test_a_stream_that_is_closed_costs_the_line_and_not_the_request() -> None:
    stream = io.StringIO()
    log = RequestLog(rate=1.0, stream=stream)
    stream.close()
    log.record_call(call())


def test_lines_of_many_threads_stay_whole(capfd: pytest.CaptureFixture[str]) -> None:
    log = RequestLog(rate=1.0)

    def write(thread: int) -> None:
        for n in range(50):
            log.record_call(call(k=n, queries=thread))

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert sorted((line["queries"], line["k"]) for line in lines) == [
        (t, n) for t in range(4) for n in range(50)
    ]


def test_a_server_writes_a_line_for_every_call(retriever: Retriever) -> None:
    lines = Lines()
    one = wire.SearchRequest(query={"text": SECRET}, k=3)
    log = RequestLog(rate=1.0, worker=2, stream=lines)
    with (
        RetrievalServer(retriever, sinks=RequestSinks([log])) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub: Any = retrieval_pb2_grpc.RetrievalStub(channel)
        stub.Search(one, metadata=(("x-request-id", "job-7"),), timeout=5)
        searched = lines.next()
        stub.SearchBatch(wire.SearchBatchRequest(queries=[one.query] * 5, k=4), timeout=5)
        batch = lines.next()
        stub.Encode(wire.EncodeRequest(queries=[one.query]), timeout=5)
        encoded = lines.next()
        list(stub.SearchStream(iter([one] * 6), timeout=5))
        streamed = lines.next()
        code_of(stub.Search, wire.SearchRequest(query={"text": SECRET, "item_id": "x"}))
        refused = lines.next()
    told = [searched, batch, encoded, streamed, refused]
    assert SECRET not in str(told)
    assert [(line["method"], line["code"]) for line in told] == [
        *((name, "OK") for name in ("Search", "SearchBatch", "Encode", "SearchStream")),
        ("Search", "INVALID_ARGUMENT"),
    ]
    assert searched["request_id"] == "job-7"
    assert {line["caller"] for line in told} == {"127.0.0.1"}
    assert {line["worker"] for line in told} == {2}
    assert {line["bundle_version"] for line in told} == {retriever.manifest.bundle_version}
    assert [(line["k"], line["queries"], line["batch"]) for line in told] == [
        (3, 1, 1),
        (4, 5, 5),
        (0, 1, 1),
        (3, 6, streamed["batch"]),
        (0, 1, 0),
    ]
    for line in (searched, batch):
        stages = [line[f"{stage}_us"] for stage in ("queue", "encode", "search", "serialise")]
        assert all(each > 0 for each in stages[:3])
        assert sum(stages) <= line["total_us"] < 5_000_000
    assert encoded["search_us"] == 0 < encoded["encode_us"]
    assert [streamed["encode_us"], refused["encode_us"]] == [0, 0]


def test_texts_are_those_of_all_queries_where_they_were_asked_for(retriever: Retriever) -> None:
    lines = Lines()
    log = RequestLog(rate=1.0, texts=True, stream=lines)
    with (
        RetrievalServer(retriever, sinks=RequestSinks([log])) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub: Any = retrieval_pb2_grpc.RetrievalStub(channel)
        stub.SearchBatch(wire.SearchBatchRequest(queries=[{"text": "a"}, {"text": "b"}]), timeout=5)
    assert lines.next()["texts"] == ["a", "b"]


def test_a_line_names_its_trace() -> None:
    stream = io.StringIO()
    RequestLog(rate=1.0, stream=stream).record_call(call(), trace_id="0af7651916cd43dd8448eb211c80319c")
    assert json.loads(stream.getvalue())["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
