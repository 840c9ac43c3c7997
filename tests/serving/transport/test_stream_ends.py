"""How a stream without an open request ends: as its client sees it, so it is counted and logged."""

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest

from protos import retrieval_pb2_grpc
from serving.retrieval.retriever import Retriever
from serving.security.access import Access
from tests.helpers.serving.guarded import REQUEST, Lines, guarded

ROUNDS = 10
SOON = 0.045  # seconds; an idle event loop polls for longer if it is not told to hurry


@pytest.fixture(scope="module")
def logged(retriever: Retriever) -> Iterator[tuple[str, Lines]]:
    """The address of a server, and its request log."""
    with guarded(retriever, Access()) as (address, lines):
        yield address, lines


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
    logged: tuple[str, Lines], end: Callable[[Opened], None], requests: int
) -> None:
    address, lines = logged
    codes = []
    for _ in range(ROUNDS):
        stream = Opened(address, requests)
        time.sleep(0.2)  # so that the server has seen the call
        end(stream)
        codes.append(lines.next()["code"])
        stream.close()
    assert codes == ["CANCELLED"] * ROUNDS


@pytest.mark.parametrize("requests", [0, 2])
def test_a_stream_whose_deadline_passes_is_late(logged: tuple[str, Lines], requests: int) -> None:
    address, lines = logged
    codes = []
    for _ in range(ROUNDS):
        stream = Opened(address, requests, timeout=0.5)  # from a second on, gRPC rounds it up for the server
        with suppress(grpc.RpcError):
            next(stream.call)
        codes.append(lines.next()["code"])
        stream.close()
    # A client whose clock is ahead cancels the call a moment before the server's deadline.
    assert set(codes) <= {"DEADLINE_EXCEEDED", "CANCELLED"}
    assert "DEADLINE_EXCEEDED" in codes


def test_a_stream_that_its_client_completes_is_ok_at_once(logged: tuple[str, Lines]) -> None:
    address, lines = logged
    seconds = []
    for _ in range(ROUNDS):
        stream = Opened(address, 1)
        began = time.perf_counter()
        stream.requests.put(None)
        assert list(stream.call) == []
        seconds.append(time.perf_counter() - began)
        assert lines.next()["code"] == "OK"
        stream.close()
    assert min(seconds) < SOON
