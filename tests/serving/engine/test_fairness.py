"""A worker whose calls come from several addresses: none of them keeps the calls of another waiting."""

from dataclasses import replace
from typing import Any

import grpc
import pytest

from tests.helpers.serving.raw import Raw
from tests.helpers.serving.reacting import GOOD, ONE, SEARCH, reacting, soon
from twinspire.protos import retrieval_pb2_grpc
from twinspire.serving.engine.limits import WorkerLimits
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
