"""Outcomes that come later: in order, within the deadline, and not at the cost of other calls."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from tests.helpers.serving.raw import Raw
from tests.helpers.serving.reacting import GOOD, call, reacting, soon
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos.errors import InvalidInput
from twinspire.serving.engine import event_loop
from twinspire.serving.engine.batching import Batcher, Job
from twinspire.serving.engine.call import Call, Deferred, Method, UnaryCall
from twinspire.serving.engine.event_loop import EventLoop
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.engine.stream_call import StreamCall
from twinspire.serving.grpc.core import GrpcFront
from twinspire.serving.observability.worker_metrics import Observer, SharedMetrics
from twinspire.serving.retrieval.query import Query, SearchOptions
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.security.auth import caller


class Later:
    """A loop whose methods answer after as many milliseconds as the request begins with.

    What follows says how: `echo`, `fail`, `now` (before the method has returned), `twice` (another wait after
    the first), `job` (a search), `never`.
    """

    def __init__(self, retriever: Retriever) -> None:
        self.metrics = SharedMetrics(workers=1)
        self.abandoned: list[bytes] = []
        self.late: list[Deferred] = []
        self._retriever = retriever
        counters = self.metrics.worker(0)
        served = {}
        for name, kind in (("Later", UnaryCall), ("LaterStream", StreamCall)):
            served[f"/test/{name}"] = Method(f"/test/{name}", name, bytes, self.answer, kind)
        front = GrpcFront([])
        self.loop = EventLoop(
            served, Batcher(counters, 64), Observer(counters), None, caller, WorkerLimits(), 64, front
        )
        self.address = f"127.0.0.1:{front.listen('127.0.0.1:0')}"
        self.loop.start()

    def answer(self, request: bytes, rpc: Call) -> Deferred:
        milliseconds, _, how = request.partition(b" ")
        deferred = Deferred(lambda: self.abandoned.append(request))
        self.late.append(deferred)
        if how == b"now":
            deferred.resolve(lambda: request)
        elif how != b"never":
            self._after(int(milliseconds), lambda: deferred.resolve(lambda: self._outcome(request, how, rpc)))
        return deferred

    def _outcome(self, request: bytes, how: bytes, rpc: Call) -> Any:
        if how == b"fail":
            raise InvalidInput("request", "as it was asked to")
        if how == b"twice":
            return self.answer(request.replace(b"twice", b"echo"), rpc)
        if how == b"job":
            prepared = [self._retriever.prepare(Query(text=GOOD.query.text))]
            return Job(
                self._retriever, prepared, SearchOptions(1), lambda job: b"%d" % len(job.found[0].rows)
            )
        return request

    def _after(self, milliseconds: int, function: Callable[[], None]) -> None:
        threading.Timer(milliseconds / 1000, self.loop.call_soon, [function]).start()


@pytest.fixture
def later(retriever: Retriever) -> Iterator[Later]:
    found = Later(retriever)
    yield found
    found.loop.stop(5.0)


@pytest.fixture
def channel(later: Later) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(later.address) as channel:
        yield channel


def settled(later: Later) -> bool:
    """Whether nothing is in flight, and the loop waits for no outcome."""
    return soon(lambda: later.metrics.snapshot()["in_flight"] == 0 and not later.loop._dispatcher.deferred)


def test_an_outcome_that_comes_later_is_an_answer_an_error_a_search_or_another_wait(
    later: Later, channel: grpc.Channel
) -> None:
    ask = call(channel, "Later")
    assert ask(b"5 echo", timeout=5) == b"5 echo"
    assert ask(b"5 now", timeout=5) == b"5 now"
    assert ask(b"5 twice", timeout=5) == b"5 echo"
    assert ask(b"5 job", timeout=5) == b"1"
    with pytest.raises(grpc.RpcError) as caught:
        ask(b"5 fail", timeout=5)
    assert (caught.value.code(), caught.value.details()) == (
        StatusCode.INVALID_ARGUMENT,
        "request: as it was asked to",
    )
    assert settled(later)
    assert not later.abandoned


def test_calls_wait_beside_one_another_and_a_stream_keeps_its_order(
    later: Later, channel: grpc.Channel
) -> None:
    started = time.monotonic()
    calls = [call(channel, "Later").future(b"100 echo", timeout=5) for _ in range(20)]
    requests = [b"%d echo" % (90 - n) for n in range(40)] + [b"3 job", b"1 fail", b"1 echo"]
    found: list[bytes] = []
    with pytest.raises(grpc.RpcError) as caught:
        found.extend(call(channel, "LaterStream")(iter(requests), timeout=10))
    assert found == [*requests[:40], b"1"]
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    assert {each.result() for each in calls} == {b"100 echo"}
    assert time.monotonic() - started < 1.5  # one after the other they would take 3.9 s
    assert settled(later)


def test_an_idle_loop_gives_an_outcome_within_milliseconds(
    later: Later, channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_loop, "IDLE_SECONDS", 3.0)
    ask = call(channel, "Later")
    ask(b"1 echo", timeout=5)
    started = time.monotonic()
    for _ in range(10):
        ask(b"5 echo", timeout=5)
    assert time.monotonic() - started < 2.0  # with polls of 3 s each, 30


def test_a_deadline_and_a_client_that_goes_end_the_wait(later: Later, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "Later")(b"0 never", timeout=0.1)
    assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
    assert soon(lambda: later.abandoned == [b"0 never"])
    waiting = call(channel, "Later").future(b"1 never", timeout=20)
    assert soon(lambda: len(later.late) == 2)
    waiting.cancel()
    stream = call(channel, "LaterStream")(iter([b"2 never", b"3 never"]), timeout=20)
    assert soon(lambda: len(later.late) == 4)
    stream.cancel()
    with Raw(later.address) as raw:
        raw.ask("/test/Later", b"4 never")
        assert soon(lambda: len(later.late) == 5)
    assert soon(lambda: sorted(later.abandoned) == [b"%d never" % n for n in range(5)])
    assert settled(later)
    for each in later.late:  # too late: nothing happens
        assert not each.is_open
        later.loop.call_soon(lambda each=each: each.resolve(lambda: b"late"))  # type: ignore[misc]
    assert call(channel, "Later")(b"1 echo", timeout=5) == b"1 echo"
    assert soon(lambda: later.metrics.snapshot()["requests"].get("OK") == 1)
    assert sum(later.metrics.snapshot()["requests"].values()) == 5


def test_a_loop_that_stops_waits_for_outcomes_and_then_cancels(later: Later, channel: grpc.Channel) -> None:
    soon_done = call(channel, "Later").future(b"200 echo", timeout=10)
    never = call(channel, "Later").future(b"0 never", timeout=10)
    assert soon(lambda: len(later.late) == 2)
    later.loop.stop(1.0)
    assert soon_done.result() == b"200 echo"
    assert never.exception() is not None
    assert later.abandoned == [b"0 never"]


def test_searches_go_on_while_other_calls_wait(retriever: Retriever) -> None:
    with reacting(retriever) as served, grpc.insecure_channel(served.address) as channel:
        waits = Deferred()
        served.loop.call_soon(lambda: served.loop._dispatcher.wait_for(waits))
        stub: Any = retrieval_pb2_grpc.RetrievalStub(channel)
        for _ in range(50):
            assert stub.Search(wire.SearchRequest(query={"text": "bavuti"}, k=1), timeout=5).hits
        served.loop.call_soon(lambda: served.loop._dispatcher.waited_for(waits))
