"""Nobody works for a client that no longer waits; and the wait for a thread is measured."""

import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos import retrieval_pb2 as wire
from protos import retrieval_pb2_grpc
from protos.features import TextFeature
from serving.client import RetrievalClient
from serving.retriever import Retriever
from serving.server import RetrievalServer
from tests.tiny import tiny_bundle
from tests.tiny_towers import TinyTower

LENGTH, QUERIES = 10_000, 128


@pytest.fixture
def server(retriever: Retriever) -> Iterator[RetrievalServer]:
    """A server with two threads, of which one may be a stream's."""
    with RetrievalServer(retriever, handlers=2, streams=1) as server:
        yield server


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RetrievalServer]:
    """A server whose tower takes long texts, and some time for many of them."""
    features = {"text": TextFeature("text", column="text", max_length=LENGTH)}
    folder = tiny_bundle(tmp_path_factory.mktemp("slow"), query_tower=TinyTower(features))
    with RetrievalServer(Retriever.load(folder), handlers=2, streams=1) as server:
        yield server


@contextmanager
def all_threads_taken(server: RetrievalServer) -> Iterator[None]:
    """Hold the server's two threads with a reflection call and a stream that ask no more."""
    released = threading.Event()
    streamed: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    streamed.put("a")

    def list_services() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        released.wait()

    with (
        grpc.insecure_channel(server.address) as channel,
        RetrievalClient(server.address) as client,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        reflection = stub.ServerReflectionInfo(list_services())
        next(reflection)
        stream = client.search_stream(iter(streamed.get, None))
        next(stream)
        try:
            yield
        finally:
            released.set()
            streamed.put(None)
            assert list(stream) == []
            assert list(reflection) == []


@pytest.mark.parametrize("code", ["DEADLINE_EXCEEDED", "CANCELLED"])
def test_nothing_is_searched_for_a_client_that_waits_no_longer(
    slow: RetrievalServer, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    caplog.set_level(logging.DEBUG, "serving.status")
    request = wire.SearchBatchRequest(queries=[{"text": "a" * LENGTH}] * QUERIES)
    with grpc.insecure_channel(slow.address) as channel:
        stub = retrieval_pb2_grpc.RetrievalStub(channel)
        stub.SearchBatch(request, timeout=30)
        began = time.monotonic()
        stub.SearchBatch(request, timeout=30)
        whole = time.monotonic() - began
        for share in (0.5, 0.3, 0.7, 0.4, 0.6, 0.2, 0.8) * 2:  # to hit it while it is encoded
            early = share * whole
            call = stub.SearchBatch.future(request, timeout=30 if code == "CANCELLED" else early)
            with suppress(grpc.FutureTimeoutError, grpc.RpcError):
                call.result(early if code == "CANCELLED" else 30)
            call.cancel()
            if wait_for(caplog, f"skipped: {code.lower()} before search"):
                break
        else:
            pytest.fail("it was searched for all the same")
        assert stub.Search(wire.SearchRequest(query={"text": "a"}), timeout=30).hits


def wait_for(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    until = time.monotonic() + 0.5
    while text not in caplog.text and time.monotonic() < until:
        time.sleep(0.01)
    return text in caplog.text


def test_the_wait_for_a_thread_is_measured(server: RetrievalServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = retrieval_pb2_grpc.RetrievalStub(channel)
        with all_threads_taken(server):
            call = stub.Search.future(wire.SearchRequest(query={"text": "a"}), timeout=30)
            time.sleep(0.3)
        assert 200_000 < call.result().timing.queue_us < 5_000_000
        free = stub.Search(wire.SearchRequest(query={"text": "a"}), timeout=30)
        assert free.timing.queue_us < 100_000
