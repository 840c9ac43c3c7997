"""A server that stops: what it has accepted is answered, and what comes later is refused by name."""

import queue
import threading
import time

import grpc
import pytest

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc as stubs
from twinspire.serving.client import RetrievalClient
from twinspire.serving.engine import event_loop
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

QUERY = wire.SearchRequest(query=wire.Query(text="bavuti xelike mopy"), k=1)


def test_calls_that_come_while_it_stops_are_told_to_go_elsewhere(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC's own refusal is CANCELLED, which no client repeats."""
    monkeypatch.setattr(event_loop, "QUIET_SECONDS", 2.0)  # also where this test does not run for a while
    monkeypatch.setattr(event_loop, "REFUSE_SECONDS", 2.0)
    queries: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    with RetrievalServer(retriever) as server, RetrievalClient(server.address) as client:
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(server.address, options=options) as channel:
            stub = stubs.RetrievalStub(channel)
            stub.Search(QUERY)
            stream = client.search_stream(iter(queries.get, None), k=1)
            queries.put("before")
            next(stream)
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            codes: list[str] = []
            until = time.monotonic() + 20
            while "UNAVAILABLE" not in codes and time.monotonic() < until:
                try:
                    stub.Search(QUERY, timeout=5)
                except grpc.RpcError as error:
                    codes.append(error.code().name)
                    assert "the service is stopping" in str(error.details())
            assert codes == ["UNAVAILABLE"]
            queries.put("in flight")
            assert len(next(stream).hits) == 1
            queries.put(None)
            assert list(stream) == []
        stopping.join(20)
        assert not stopping.is_alive()


def test_an_idle_server_stops_at_once(retriever: Retriever) -> None:
    server = RetrievalServer(retriever)
    server.start()
    began = time.monotonic()
    server.stop(60)
    assert time.monotonic() - began < 5
