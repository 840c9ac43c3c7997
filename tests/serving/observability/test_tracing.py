"""Traces, as a collector gets them over OTLP."""

import random
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.helpers.serving.collector import PARENT, TRACE, Collector, attributes, spans_of
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos.errors import MissingStage
from twinspire.serving.engine.call import Call
from twinspire.serving.engine.front import Metadata
from twinspire.serving.observability import tracing
from twinspire.serving.observability.tracing import Tracing, prepare
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

SECRET = "where I was last summer"
SAMPLED: Metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "vendor=1"))


def batch(collector: Collector) -> list[Span]:
    """The spans of the first batch, server span first."""
    request = collector.requests.get(timeout=10)
    assert SECRET.encode() not in request.SerializeToString()
    return sorted(spans_of(request), key=lambda span: span.kind != Span.SPAN_KIND_SERVER)


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.stop()


def call(code: str = "OK", metadata: Metadata = ()) -> tuple[Call, str, int]:
    """A search that has just ended, after 4 ms: what a trace shows of it, its code, and when it ended."""
    now = time.perf_counter_ns()
    start = now - 4_000_000
    job = SimpleNamespace(
        encode_started=start + 1_000_000,
        encode_us=300,
        search_started=start + 1_500_000,
        search_us=2000,
        batch=8,
        options=SimpleNamespace(k=10),
    )
    found = SimpleNamespace(
        method=SimpleNamespace(path="/retrieval.v1.Retrieval/Search"),
        metadata=(*metadata, ("authorization", f"Bearer {SECRET}")),
        arrived=start,
        is_stream=False,
        job=job,
        queries=1,
        serialised=(start + 3_600_000, start + 3_650_000),
        request_id="job-7",
        bundle=SimpleNamespace(version="3f2a"),
    )
    return cast(Call, found), code, now


def sent(collector: Collector, given: tuple[Call, str, int]) -> list[Span]:
    """The spans of a call."""
    made = Tracing(collector.endpoint, ratio=1.0, worker=3)
    made.record(*given)
    made.stop()
    return batch(collector)


def test_a_request_is_a_span_of_its_clients_trace_with_one_for_each_stage(collector: Collector) -> None:
    before = time.time_ns()
    span, *stages = sent(collector, call(metadata=SAMPLED))
    assert span.name == "retrieval.v1.Retrieval/Search"
    assert span.kind == Span.SPAN_KIND_SERVER
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.trace_state == "vendor=1"
    assert attributes(span) == {
        "rpc.system.name": "grpc",
        "rpc.method": "retrieval.v1.Retrieval/Search",
        "rpc.response.status_code": "OK",
        "twinspire.request_id": "job-7",
        "twinspire.k": 10,
        "twinspire.queries": 1,
        "twinspire.batch": 8,
        "twinspire.bundle_version": "3f2a",
    }
    assert span.end_time_unix_nano - span.start_time_unix_nano == 4_000_000
    assert abs(span.end_time_unix_nano - before) < 60 * 10**9
    assert [(stage.name, stage.end_time_unix_nano - stage.start_time_unix_nano) for stage in stages] == [
        ("queue", 1_000_000),
        ("encode", 300_000),
        ("search", 2_000_000),
        ("serialise", 50_000),
    ]
    for stage in stages:
        assert (stage.trace_id, stage.parent_span_id) == (span.trace_id, span.span_id)
        assert stage.kind == Span.SPAN_KIND_INTERNAL
        assert span.start_time_unix_nano <= stage.start_time_unix_nano
        assert stage.end_time_unix_nano <= span.end_time_unix_nano


def test_a_server_sends_the_spans_of_its_calls(retriever: Retriever, collector: Collector) -> None:
    made = Tracing(collector.endpoint, ratio=0.0, worker=1)
    request = wire.SearchRequest(query={"text": SECRET}, k=3)
    with (
        RetrievalServer(retriever, tracing=made) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        search = retrieval_pb2_grpc.RetrievalStub(channel).Search
        before = time.time_ns()
        search(request, timeout=5)
        search(request, metadata=SAMPLED, timeout=5)
        after = time.time_ns()
    made.stop()
    span, *stages = batch(collector)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    second = 10**9  # the call is recorded after its answer was sent
    assert before - second <= span.start_time_unix_nano <= span.end_time_unix_nano <= after + second
    assert [stage.name for stage in stages] == ["queue", "encode", "search", "serialise"]
    for stage in stages:
        assert stage.parent_span_id == span.span_id
        assert span.start_time_unix_nano <= stage.start_time_unix_nano <= stage.end_time_unix_nano
        assert stage.end_time_unix_nano <= span.end_time_unix_nano
    told = attributes(span)
    assert (told["rpc.method"], told["twinspire.k"], told["twinspire.queries"]) == (
        "retrieval.v1.Retrieval/Search",
        3,
        1,
    )


@pytest.mark.parametrize("sent_parent", ["nonsense", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01"])
def test_a_parent_that_cannot_be_read_begins_a_trace(collector: Collector, sent_parent: str) -> None:
    span, *_ = sent(collector, call(metadata=(("traceparent", sent_parent),)))
    assert span.parent_span_id == b""
    assert span.trace_id.hex() not in (TRACE, "0" * 32)


@pytest.mark.parametrize(
    ("code", "error"),
    [("INTERNAL", True), ("NOT_FOUND", False)],
)
def test_only_what_the_server_answers_for_is_an_error(collector: Collector, code: str, error: bool) -> None:
    span, *_ = sent(collector, call(code))
    assert (span.status.code == Status.STATUS_CODE_ERROR) == error
    assert attributes(span)["rpc.response.status_code"] == code
    assert attributes(span).get("error.type") == (code if error else None)


def test_a_client_decides_for_its_own_requests_and_the_ratio_for_others(collector: Collector) -> None:
    random.seed(7)
    unsampled = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)
    never, sometimes, always = (Tracing(collector.endpoint, ratio) for ratio in (0.0, 0.25, 1.0))
    assert never.wants(SAMPLED)
    assert not always.wants(unsampled)
    assert always.wants(()) and always.wants((("traceparent", "nonsense"),))
    assert not never.wants(()) and not never.wants((("traceparent", "nonsense"),))
    assert 2300 < sum(sometimes.wants(()) for _ in range(10_000)) < 2700
    for each in (never, sometimes, always):
        each.stop()


def test_a_collector_that_is_gone_holds_nobody_up(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "EXPORT_SECONDS", 0.3)
    collector.stop()
    made = Tracing(collector.endpoint, ratio=1.0)
    started = time.monotonic()
    for _ in range(100):
        made.record(*call())
    assert time.monotonic() - started < 1
    made.stop()
    assert time.monotonic() - started < 3


def test_a_missing_package_is_said_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)  # importing it fails
    with pytest.raises(MissingStage, match=r"pip install 'twinspire\[tracing\]'"):
        prepare("http://127.0.0.1:4317", ratio=0.1)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4317", "ftp://127.0.0.1", "http://", ""])
def test_an_endpoint_is_a_url(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint: expected http://host:port"):
        prepare(endpoint, ratio=0.1)


@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_a_ratio_is_a_part(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio: expected 0 to 1"):
        prepare("http://127.0.0.1:4317", ratio)
