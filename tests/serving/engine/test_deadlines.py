"""Nobody works for a client that no longer waits; and the wait for a batch is measured."""

import logging
import time
from collections.abc import Iterator
from contextlib import suppress

import grpc
import pytest

from tests.helpers.serving.loopback import stub_of
from tests.helpers.tiny import tiny_bundle
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos.features import TextFeature
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

LENGTH, QUERIES = 10_000, 128
MANY = wire.SearchBatchRequest(queries=[{"text": "a" * LENGTH}] * QUERIES)
SHARES = (0.5, 0.3, 0.7, 0.4, 0.6, 0.2, 0.8, 0.1, 0.9) * 4  # of its time, to hit it while it is encoded
ONE = wire.SearchRequest(query={"text": "a"})


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RetrievalServer]:
    """A server whose tower takes long texts, and some time for many of them."""
    features = {"text": TextFeature("text", column="text", max_length=LENGTH)}
    folder = tiny_bundle(tmp_path_factory.mktemp("slow"), query_tower=TinyTower(features))
    with RetrievalServer(Retriever.load(folder), bounds=WorkerLimits(queue=10_000)) as server:
        yield server


def test_nothing_is_searched_for_a_client_that_waits_no_longer(
    slow: RetrievalServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "twinspire.serving.wire.status")
    with stub_of(slow.address) as stub:
        whole = seconds(stub)
        for share in SHARES:
            with suppress(grpc.RpcError):
                stub.SearchBatch(MANY, timeout=share * whole)
            if wait_for(caplog, "skipped: deadline_exceeded before search"):
                break
        else:
            pytest.fail("it was searched for all the same")
        assert stub.Search(ONE, timeout=30).hits


def seconds(stub: retrieval_pb2_grpc.RetrievalStub) -> float:
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


def test_a_stream_that_was_idle_has_not_waited(slow: RetrievalServer) -> None:
    def requests() -> Iterator[wire.SearchRequest]:
        time.sleep(0.3)
        yield ONE

    with grpc.insecure_channel(slow.address) as channel:
        (answer,) = retrieval_pb2_grpc.RetrievalStub(channel).SearchStream(requests(), timeout=30)
    assert answer.timing.queue_us < 200_000
