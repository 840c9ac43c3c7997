"""One request's share of a worker: items, answer bytes, time, tokens and deadlines, over real sockets."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from tests.helpers.serving.following import reseal
from tests.helpers.serving.guarded import code_of
from tests.helpers.serving.loopback import configured, stub_of
from tests.helpers.serving.raw import Raw
from tests.helpers.serving.reacting import soon
from tests.helpers.tiny import tiny_bundle
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos import bundle, retrieval_pb2_grpc
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.features import TextFeature
from twinspire.serving.engine import batching
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.observability import layout
from twinspire.serving.observability.layout import width
from twinspire.serving.observability.metrics import SIZES
from twinspire.serving.observability.worker_metrics import SharedMetrics
from twinspire.serving.rate_limit import RateLimit, tokens
from twinspire.serving.retrieval.response_bytes import ResponseWriter
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.rollout.loaded_bundle import LoadedBundle, TrafficSplit
from twinspire.serving.security.auth import Access
from twinspire.serving.segments.packed_items import PackedItems
from twinspire.serving.server import RetrievalServer
from twinspire.serving.wire.converters import RequestLimits

BATCH = "/retrieval.v1.Retrieval/SearchBatch"
LENGTH = 10_000  # code points; so long a text takes the tower some time
ONE = wire.SearchRequest(query={"text": "a"}, k=3)
LARGEST = wire.SearchBatchRequest(queries=[{"text": "a" * LENGTH}] * 256, k=64)  # 16,384 items


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    """A bundle of 300 items whose tower takes long texts."""
    features = {"text": TextFeature("text", column="text", max_length=LENGTH)}
    return Retriever.load(tiny_bundle(tmp_path_factory.mktemp("slow"), query_tower=TinyTower(features)))


@pytest.fixture(scope="module")
def verbose(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    """The plain bundle, whose items have names of 150 to 310 bytes."""

    def lengthen(folder: Path) -> None:
        path = folder / bundle.ITEMS
        table = json.loads(path.read_text())
        table["fields"]["name"] = ["x" * (150 + 160 * (n % 2)) for n in range(300)]
        path.write_text(json.dumps(table))

    return Retriever.load(reseal(plain, tmp_path_factory.mktemp("verbose"), lengthen))


@pytest.fixture
def metrics() -> SharedMetrics:
    return SharedMetrics(workers=1)


def searched(metrics: SharedMetrics) -> float:
    """Queries that were in batches or slices."""
    (row,) = metrics.read()
    return row[layout.BATCH_SIZE + width(SIZES) - 1]  # the sum, behind the buckets


def batch_of(queries: int, k: int) -> wire.SearchBatchRequest:
    return wire.SearchBatchRequest(queries=[{"text": "bavuti"}] * queries, k=k)


def test_a_small_request_for_too_many_items_is_refused_before_any_search(
    retriever: Retriever, metrics: SharedMetrics
) -> None:
    with RetrievalServer(retriever, metrics=metrics) as server, Raw(server.address) as raw:
        status = raw.status(raw.ask(BATCH, batch_of(256, 1000).SerializeToString()))
        assert status.code == "INVALID_ARGUMENT"
        assert status.message == (
            "k: expected at most 16384 items in one answer, got 256 queries x 1000 items = 256000; "
            "use a smaller k, or fewer queries in a request"
        )
        assert searched(metrics) == 0
        for queries, k in ((256, 64), (16, 1000), (1, 1000), (256, 0)):
            assert raw.status(raw.ask(BATCH, batch_of(queries, k).SerializeToString())).code == "OK"
        for queries, k in ((256, 65), (17, 1000)):
            status = raw.status(raw.ask(BATCH, batch_of(queries, k).SerializeToString()))
            assert status.code == "INVALID_ARGUMENT"


def test_a_client_with_the_default_bound_receives_the_largest_answer(verbose: Retriever) -> None:
    packed = ResponseWriter(PackedItems(verbose.built.catalogue))
    assert packed.largest > packed.average > 230
    with RetrievalServer(verbose) as server, stub_of(server.address) as stub:
        sizes, refused = [], []
        for k in range(40, 65, 4):
            code, text = code_of(stub.SearchBatch, batch_of(256, k))
            if code is StatusCode.OK:
                sizes.append(stub.SearchBatch(batch_of(256, k), timeout=10).ByteSize())
            else:
                refused.append((code, text))
        assert 3_500_000 < max(sizes) <= RequestLimits().max_answer_bytes < 4 << 20
        assert refused
        for code, text in refused:
            assert code is StatusCode.INVALID_ARGUMENT
            assert "expected an answer of at most 4000000 bytes, got" in text
            assert text.endswith("use a smaller k, or fewer queries in a request")
        assert len(stub.Search(wire.SearchRequest(query={"text": "a"}, k=1000), timeout=10).hits) == 300


def test_an_answer_is_checked_exactly_where_no_estimate_can_tell(verbose: Retriever) -> None:
    requests = [wire.SearchRequest(query={"text": "a"}, k=k) for k in range(40, 140, 5)]
    with RetrievalServer(verbose) as server, lone_stub(server) as stub:
        sizes = [stub.Search(each, timeout=10).ByteSize() for each in requests]
    limits = RequestLimits(max_answer_bytes=20_000)
    with RetrievalServer(verbose, configured(limits=limits)) as server, lone_stub(server) as stub:
        ends = [code_of(stub.Search, each) for each in requests]
    refused = f"k: expected an answer of at most {limits.max_answer_bytes} bytes, got "
    for size, (code, text) in zip(sizes, ends, strict=True):
        if abs(size - 20_000) > 20:  # the times in it have more digits or fewer
            assert (code is StatusCode.OK) == (size < 20_000), size
        assert code is StatusCode.OK or text.startswith(refused)
    assert {code for code, _ in ends} == {StatusCode.OK, StatusCode.INVALID_ARGUMENT}


def test_exploring_adds_a_propensity_to_each_hit(verbose: Retriever) -> None:
    responses, k = LoadedBundle.of(verbose).responses, 200
    for size in (responses.expected, responses.most):
        assert size(3, k, explores=True) - size(3, k) == 3 * k * 8


def test_vectors_are_bounded_too(retriever: Retriever) -> None:
    limits = RequestLimits(max_answer_bytes=5000)
    with RetrievalServer(retriever, configured(limits=limits)) as server, stub_of(server.address) as stub:
        many = wire.EncodeRequest(queries=[{"text": "a"}] * 200)
        code, text = code_of(stub.Encode, many)
        assert (code, text[:50]) == (
            StatusCode.INVALID_ARGUMENT,
            "queries: expected an answer of at most 5000 bytes,",
        )
        assert len(stub.Encode(wire.EncodeRequest(queries=[{"text": "a"}] * 30), timeout=10).vectors) == 30


def test_the_largest_k_is_within_the_budget_or_the_server_does_not_start() -> None:
    with pytest.raises(ValueError, match="max_hits: expected at least max_k = 1000, got 999"):
        RequestLimits(max_hits=999)


def test_a_server_answers_single_queries_while_it_works_on_the_largest_batch(
    slow: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "SLICE_SECONDS", 0.002)  # so that a fast machine has many slices, too
    with (
        RetrievalServer(slow) as server,
        lone_stub(server) as stub,
        lone_stub(server) as other,
    ):
        between = []
        for _ in range(3):
            running = stub.SearchBatch.future(LARGEST, timeout=60)
            answered = 0
            while not running.done():
                assert len(other.Search(ONE, timeout=60).hits) == 3
                answered += 1
            assert len(running.result().results) == 256
            between.append(answered)
    assert sorted(between)[1] >= 8, between


def test_a_batch_whose_client_has_gone_stops_before_its_next_slice(
    slow: Retriever, metrics: SharedMetrics
) -> None:
    with RetrievalServer(slow, metrics=metrics) as server, lone_stub(server) as stub:
        for _ in range(10):
            before = searched(metrics)
            running = stub.SearchBatch.future(LARGEST, timeout=60)
            assert soon(lambda before=before: searched(metrics) > before)  # type: ignore[misc]
            running.cancel()
            if searched_of_batch(stub, metrics, before) < 250:
                break
        else:
            pytest.fail("every batch was searched to its end")
        assert "CANCELLED" in metrics.snapshot()["requests"]


def test_one_bundle_answers_all_queries_of_a_batch_whatever_is_swapped_in_meanwhile(
    slow: Retriever, metrics: SharedMetrics, tmp_path: Path
) -> None:
    other = Retriever.load(tiny_bundle(tmp_path, items=20))
    lineups = [
        TrafficSplit(LoadedBundle(each, ResponseWriter(PackedItems(each.built.catalogue))))
        for each in (slow, other)
    ]
    with RetrievalServer(slow, metrics=metrics) as server, lone_stub(server) as stub:
        for _ in range(50):
            swap(server, lineups[0])
            before = searched(metrics)
            running = stub.SearchBatch.future(LARGEST, timeout=60)
            assert soon(lambda before=before: searched(metrics) > before)  # type: ignore[misc]
            swap(server, lineups[1])
            in_between = not running.done()
            found = running.result()
            assert found.bundle_version == slow.manifest.bundle_version
            assert [len(each.hits) for each in found.results] == [64] * 256
            if in_between:
                break
        else:
            pytest.fail("no batch lasted until the swap")
        with lone_stub(server) as late:
            answer = late.Search(ONE, timeout=10)
            assert answer.bundle_version == other.manifest.bundle_version


@pytest.mark.parametrize(
    ("queries", "items", "cost"),
    [(1, 10, 1), (1, 20, 2), (1, 1000, 51), (256, 2560, 256), (16, 16_000, 816), (1, 0, 1)],
)
def test_a_request_costs_tokens_for_queries_and_items(queries: int, items: int, cost: int) -> None:
    assert tokens(queries, items) == cost


def test_a_client_pays_for_the_items_that_it_asks_for_or_excludes(retriever: Retriever) -> None:
    def allowed(request: wire.SearchRequest) -> int:
        """Requests that one burst of 100 tokens pays for."""
        access = Access(rate=RateLimit(per_second=0.001, burst=100))
        with RetrievalServer(retriever, access=access) as server, lone_stub(server) as stub:
            codes = [code_of(stub.Search, request)[0] for _ in range(120)]
        assert codes == sorted(codes, key=lambda code: code is not StatusCode.OK)
        assert {*codes} == {StatusCode.OK, StatusCode.RESOURCE_EXHAUSTED}
        return codes.count(StatusCode.OK)

    query = {"text": "a"}
    assert allowed(wire.SearchRequest(query=query)) == 100
    assert allowed(wire.SearchRequest(query=query, k=190)) == 10
    excluded = [f"item-{n:03}" for n in range(180)]
    assert allowed(wire.SearchRequest(query=query, k=10, exclude=excluded)) == 10


def swap(server: RetrievalServer, lineup: TrafficSplit) -> None:
    """Let others answer, and return when they do."""
    swapped = threading.Event()
    server.swap(lineup, swapped.set)
    assert swapped.wait(10)


@contextmanager
def lone_stub(server: RetrievalServer) -> Iterator[Any]:
    """A stub that shares its connection with no other, and tries a call once."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(server.address, options) as channel:
        yield retrieval_pb2_grpc.RetrievalStub(channel)


def searched_of_batch(stub: Any, metrics: SharedMetrics, before: float) -> float:
    """Queries of a batch that were searched, once the server works on it no more."""
    assert soon(lambda: metrics.snapshot()["in_flight"] == 0)
    for _ in range(2):  # the first has been counted when the second is answered, and the batch before both
        assert stub.Search(ONE, timeout=60).hits
    return searched(metrics) - before - 2


MANY = wire.SearchBatchRequest(queries=[{"text": "a" * LENGTH}] * 128)
SHARES = (0.5, 0.3, 0.7, 0.4, 0.6, 0.2, 0.8, 0.1, 0.9) * 4  # of its time, to hit it while it is encoded


@pytest.fixture
def patient(slow: Retriever) -> Iterator[RetrievalServer]:
    """A server on the slow bundle with much room for waiting queries."""
    with RetrievalServer(slow, configured(bounds=WorkerLimits(queue=10_000))) as server:
        yield server


def test_nothing_is_searched_for_a_client_that_waits_no_longer(
    patient: RetrievalServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "twinspire.serving.wire.status")
    with stub_of(patient.address) as stub:
        whole = seconds(stub)
        for share in SHARES:
            with suppress(grpc.RpcError):
                stub.SearchBatch(MANY, timeout=share * whole)
            if wait_for(caplog, "skipped: deadline_exceeded before search"):
                break
        else:
            pytest.fail("it was searched for all the same")
        assert stub.Search(ONE, timeout=30).hits


def seconds(stub: Any) -> float:
    """How long the batch takes."""
    stub.SearchBatch(MANY, timeout=30)
    began = time.monotonic()
    stub.SearchBatch(MANY, timeout=30)
    return time.monotonic() - began


def wait_for(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    until = time.monotonic() + 0.5
    while text not in caplog.text and time.monotonic() < until:
        time.sleep(0.01)
    return text in caplog.text


def test_a_stream_that_was_idle_has_not_waited(patient: RetrievalServer) -> None:
    def requests() -> Iterator[wire.SearchRequest]:
        time.sleep(0.3)
        yield ONE

    with stub_of(patient.address) as stub:
        (answer,) = stub.SearchStream(requests(), timeout=30)
    assert answer.timing.queue_us < 200_000
