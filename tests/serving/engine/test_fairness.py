"""A worker whose calls come from several addresses: none of them keeps the calls of another waiting."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest

from tests.helpers.serving.raw import Raw
from tests.helpers.serving.reacting import GOOD, ONE, SEARCH, reacting, soon
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos.errors import Overloaded
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.engine.stream_call import OpenCalls
from twinspire.serving.retrieval.retriever import Retriever

FLOODING = "127.0.1.1"
CALLS = 1000


@pytest.mark.parametrize(
    ("path", "message"), [("/test/Sleep", b"2"), (SEARCH, ONE)], ids=["slow worker", "searches"]
)
def test_a_call_is_answered_though_another_address_has_thousands_queued(
    retriever: Retriever, path: str, message: bytes
) -> None:
    with (
        reacting(retriever, queue=4 * CALLS, batch=4) as served,
        Raw(served.address, source=FLOODING) as flood,
        grpc.insecure_channel(served.address) as channel,
    ):
        stub: Any = retrieval_pb2_grpc.RetrievalStub(channel)
        assert stub.Search(GOOD, timeout=30).hits  # the connection is open
        with served.held(channel):
            for _ in range(CALLS):
                flood.ask(path, message, 600_000)
            asked = stub.Search.future(GOOD, timeout=30)
        assert asked.result().hits
        assert served.snapshot("requests")["OK"] < CALLS / 2


def test_no_call_is_cancelled_however_many_have_not_been_read(retriever: Retriever) -> None:
    """Without bounds of its own gRPC cancels calls of which more than 1,000 wait to be read."""
    with (
        reacting(retriever, queue=8 * CALLS) as served,
        Raw(served.address, source=FLOODING) as flood,
        grpc.insecure_channel(served.address) as channel,
    ):
        with served.held(channel):
            streams = [flood.ask("/test/Sleep", b"0", 600_000) for _ in range(4 * CALLS)]
        assert {flood.status(stream, 60).code for stream in streams} == {"OK"}


def test_a_call_has_room_in_an_overload_by_another_address(retriever: Retriever) -> None:
    bounds = WorkerLimits(queue=64, batch=4)
    with (
        reacting(retriever, queue=bounds.queue, batch=bounds.batch) as served,
        Raw(served.address, source=FLOODING) as flood,
        grpc.insecure_channel(served.address) as channel,
    ):
        stub: Any = retrieval_pb2_grpc.RetrievalStub(channel)
        assert stub.Search(GOOD, timeout=30).hits
        with served.held(channel):
            waiting = [flood.begin(SEARCH, 600_000) for _ in range(2 * bounds.queue)]  # without messages
        assert soon(lambda: served.snapshot("in_flight") >= bounds.overload_queue)
        assert stub.Search(GOOD, timeout=30).hits
        assert "OK" not in {status.code for status in flood.statuses.values()}
        assert len(waiting) == 2 * bounds.queue


def test_a_health_check_is_no_rival(retriever: Retriever) -> None:
    with (
        reacting(retriever) as served,
        Raw(served.address, source=FLOODING) as probe,
        grpc.insecure_channel(served.address) as channel,
    ):
        methods: Any = served.loop._dispatcher._methods
        methods["/test/Probe"] = replace(methods["/test/Sleep"], always=True)
        stub: Any = retrieval_pb2_grpc.RetrievalStub(channel)
        for path, are_rivals in (("/test/Probe", False), ("/test/Sleep", True)):
            assert stub.Search(GOOD, timeout=30).hits
            assert probe.status(probe.ask(path, b"0")).code == "OK"
            assert stub.Search(GOOD, timeout=30).hits
            assert served.loop._clients.have_rivals is are_rivals


class OpenCall:
    """A call of one connection, that a test ends."""

    def __init__(self, connection: str) -> None:
        self._connection = connection
        self._callbacks: list[Callable[[], None]] = []

    def peer(self) -> str:
        return self._connection

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self._callbacks.append(callback)
        return True

    def end(self) -> None:
        for each in self._callbacks:
            each()


def entered(calls: OpenCalls, connection: str) -> OpenCall:
    call = OpenCall(connection)
    calls.enter(call)  # type: ignore[arg-type]
    return call


def test_a_connection_and_the_worker_have_as_many_open_as_they_may() -> None:
    calls = OpenCalls("Changes", 2, 3)
    first = entered(calls, "a")
    entered(calls, "a")
    with pytest.raises(Overloaded, match="a connection may have 2 calls of Changes open"):
        entered(calls, "a")
    other = entered(calls, "b")
    with pytest.raises(Overloaded, match="a worker may have 3 calls of Changes open"):
        entered(calls, "b")
    other.end()
    entered(calls, "c").end()
    first.end()
    entered(calls, "a")
    with pytest.raises(Overloaded, match="a connection"):  # refused calls have left nothing behind
        entered(calls, "a")
    entered(calls, "d")


def test_without_a_bound_of_the_worker_each_connection_has_its_own() -> None:
    calls = OpenCalls("Watch", 1)
    for n in range(100):
        entered(calls, str(n))
