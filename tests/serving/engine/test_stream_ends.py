"""How a stream without an open request ends: as its client sees it, so it is counted."""

import gc
import queue
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from tests.helpers.serving.guarded import REQUEST, Ended, recorded
from tests.helpers.waiting import wait_until
from twinspire.protos import retrieval_pb2_grpc
from twinspire.serving.observability.worker_metrics import SharedMetrics
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

ROUNDS = 5


@dataclass(frozen=True)
class Recorded:
    """A server: its address, the calls that have ended, and its figures."""

    address: str
    ended: Ended
    metrics: SharedMetrics


@pytest.fixture(scope="module")
def served(retriever: Retriever) -> Iterator[Recorded]:
    metrics = SharedMetrics(workers=1)
    with recorded() as ended, RetrievalServer(retriever, metrics=metrics) as server:
        yield Recorded(server.address, ended, metrics)


class Opened:
    """A stream whose requests have been answered."""

    def __init__(self, address: str, requests: int, timeout: float = 30.0) -> None:
        self.channel = grpc.insecure_channel(address)
        grpc.channel_ready_future(self.channel).result(10)
        self.requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        stub = retrieval_pb2_grpc.RetrievalStub(self.channel)
        self.call: Any = stub.SearchStream(iter(self.requests.get, None), timeout=timeout)
        for _ in range(requests):
            self.requests.put(REQUEST)
            next(self.call)

    def close(self) -> None:
        self.requests.put(None)
        self.channel.close()


def cancelled(stream: Opened) -> None:
    stream.call.cancel()


def closed(stream: Opened) -> None:
    stream.channel.close()


@pytest.mark.parametrize("end", [cancelled, closed])
@pytest.mark.parametrize("requests", [0, 2])
def test_a_stream_that_its_client_leaves_is_cancelled(
    served: Recorded, end: Callable[[Opened], None], requests: int
) -> None:
    codes = []
    for _ in range(ROUNDS):
        stream = Opened(served.address, requests)
        wait_until(lambda: served.metrics.snapshot()["in_flight"] == 1)  # the server has the call
        end(stream)
        codes.append(served.ended.next()["code"])
        stream.close()
    assert codes == ["CANCELLED"] * ROUNDS


@pytest.mark.parametrize("requests", [0, 2])
def test_a_stream_whose_deadline_passes_is_late(served: Recorded, requests: int) -> None:
    codes = []
    for _ in range(3):
        # From a second on, gRPC rounds it up for the server.
        stream = Opened(served.address, requests, timeout=0.5)
        with suppress(grpc.RpcError):
            next(stream.call)
        codes.append(served.ended.next()["code"])
        stream.close()
    # A client whose clock is ahead cancels the call a moment before the server's deadline.
    assert set(codes) <= {"DEADLINE_EXCEEDED", "CANCELLED"}
    assert "DEADLINE_EXCEEDED" in codes


def test_any_number_of_streams_of_a_connection_may_be_cancelled(served: Recorded) -> None:
    """gRPC resets a connection's calls if more than `--calls` earlier ones have not been freed."""
    gc.disable()
    try:
        with grpc.insecure_channel(served.address, options=[("grpc.enable_retries", 0)]) as channel:
            stub = retrieval_pb2_grpc.RetrievalStub(channel)
            for _ in range(60):
                stream = stub.SearchStream(iter([REQUEST] * 50), timeout=10)
                next(stream)
                stream.cancel()
            assert stub.Search(REQUEST, timeout=10).hits
    finally:
        gc.enable()
