"""The event loop and its server stop while idle, answering and under load; later calls are refused."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.helpers.serving.raw import Raw
from tests.helpers.serving.reacting import GOOD, SEARCH, SEARCH_STREAM, call, reacting, soon
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos import retrieval_pb2_grpc as stubs
from twinspire.serving.client import RetrievalClient
from twinspire.serving.engine import event_loop
from twinspire.serving.retrieval.response_bytes import ResponseWriter
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.rollout.loaded_bundle import LoadedBundle
from twinspire.serving.segments.packed_items import PackedItems
from twinspire.serving.server import RetrievalServer

Stub = retrieval_pb2_grpc.RetrievalStub
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """Do something beside the test; it must be done soon after."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield thread
    thread.join(10)
    assert not thread.is_alive(), "it hangs"


def event_loops() -> int:
    return sum(each.name == "event-loop" for each in threading.enumerate())


def test_calls_in_flight_are_answered(retriever: Retriever) -> None:
    before = event_loops()
    with reacting(retriever) as served, grpc.insecure_channel(served.address) as channel:
        held_up = call(channel, "Sleep").future(b"300", timeout=5)
        stub = Stub(channel)
        assert soon(lambda: served.snapshot("in_flight") == 1)
        calls = [stub.Search.future(GOOD, timeout=5) for _ in range(20)]
        time.sleep(0.1)  # they are there, though nobody has read them yet
        with in_thread(lambda: served.loop.stop(5)):
            assert held_up.result() == b"300"
            assert all(each.result().hits for each in calls)
        assert served.snapshot("in_flight") == 0
    assert event_loops() == before


def test_processor_time_can_be_read_while_the_thread_ends(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    def has_ended(thread: int) -> int:  # what the C library may find between two instructions
        raise ProcessLookupError

    with reacting(retriever) as served:
        assert soon(lambda: served.loop.processor_seconds() > 0)
        monkeypatch.setattr(time, "pthread_getcpuclockid", has_ended)
        assert served.loop.processor_seconds() > 0
        served.loop.stop(5)
        assert soon(lambda: served.loop.processor_seconds() == 0)


def test_what_takes_longer_than_the_grace_period_is_broken_off(retriever: Retriever) -> None:
    with reacting(retriever) as served, Raw(served.address) as raw:
        streams = [raw.begin(path) for path in (SEARCH, SEARCH_STREAM)]
        assert soon(lambda: served.snapshot("in_flight") == 2)
        began = time.monotonic()
        served.loop.stop(0.2)
        assert 0.2 <= time.monotonic() - began < 3
        assert {raw.status(stream).code for stream in streams} <= {"CANCELLED", "UNAVAILABLE"}
        assert served.snapshot("in_flight") == 0
        served.loop.stop(0.2)  # again: there is nothing left to do


def test_who_watches_is_told_and_holds_nothing_up(retriever: Retriever) -> None:
    server = RetrievalServer(retriever)
    server.start()
    with grpc.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch
        watching = [watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", "unknown")]
        for each in watching:
            next(each)
        began = time.monotonic()
        with in_thread(lambda: server.stop(5)):
            assert next(watching[0]).status == NOT_SERVING
            for each in watching:
                assert list(each) == []
        assert time.monotonic() - began < 2


def test_it_can_be_stopped_at_any_moment_under_load(retriever: Retriever) -> None:
    packed = ResponseWriter(PackedItems(retriever.built.catalogue))

    def load(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            try:
                while True:
                    Stub(channel).Search(GOOD, timeout=5)
            except grpc.RpcError:
                return

    for n in range(10):
        server = RetrievalServer(LoadedBundle(retriever, packed))
        server.start()
        with in_thread(lambda s=server: load(s.address)), in_thread(lambda s=server: load(s.address)):  # type: ignore[misc]
            time.sleep(0.01 + n * 0.003)
            with in_thread(lambda s=server: s.stop(3)):  # type: ignore[misc]
                pass


@pytest.mark.parametrize("started", [True, False])
def test_to_stop_twice_or_what_never_started_is_fine(retriever: Retriever, started: bool) -> None:
    server = RetrievalServer(retriever)
    if started:
        server.start()
    for _ in range(2):
        server.stop(1)


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
