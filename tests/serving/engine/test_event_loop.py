"""The event loop over real sockets: calls that succeed, fail or are cancelled, and their effect on others."""

import gc
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from tests.helpers.serving import http2 as frames
from tests.helpers.serving.guarded import code_of
from tests.helpers.serving.raw import Raw
from tests.helpers.serving.reacting import GOOD, ONE, SEARCH, SEARCH_STREAM, Reacting, call, reacting, soon
from tests.helpers.tiny import item_names
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.serving.engine import event_loop
from twinspire.serving.engine.call import Call
from twinspire.serving.retrieval.retriever import Retriever


@pytest.fixture
def served(retriever: Retriever) -> Iterator[Reacting]:
    with reacting(retriever) as served:
        yield served


@pytest.fixture
def channel(served: Reacting) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return retrieval_pb2_grpc.RetrievalStub(channel)


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is logged as an error."""
    yield
    assert not [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]


pytestmark = pytest.mark.usefixtures("errors")


def expected_to_fail(caplog: pytest.LogCaptureFixture) -> str:
    """The one incident that was logged; it is taken out of the log."""
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    caplog.clear()
    (incident,) = re.findall(r"incident ([0-9a-f]{12})$", record.getMessage())
    return str(incident)


def test_a_stream_answers_slow_and_fast_in_order_until_the_first_error(stub: Any) -> None:
    names = item_names(60)
    requests = [wire.SearchRequest(query={"text": name}, k=1) for name in names]
    requests[40] = wire.SearchRequest(query={"item_id": "item-999"})
    for n in range(1, 40, 3):
        requests[n] = wire.SearchRequest(query={"item_id": f"item-{n - 1:03}"}, k=2)
        requests[n + 1] = wire.SearchRequest(query={"text": names[n + 1] + " " * 9000}, k=300)
    found: list[str] = []
    with pytest.raises(grpc.RpcError) as caught:
        found.extend(each.hits[0].id for each in stub.SearchStream(iter(requests), timeout=20))
    assert found == [stub.Search(request, timeout=5).hits[0].id for request in requests[:40]]
    assert caught.value.code() is StatusCode.NOT_FOUND
    assert (caught.value.details() or "").startswith("query.item_id: ")


def test_calls_that_come_one_by_one_are_answered_as_soon_as_they_have_been_read(
    stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(times: int) -> None:
        for _ in range(times):
            time.sleep(0.002)
            assert stub.Search(GOOD, timeout=5).hits

    ask(event_loop.ALONE + 1)
    with monkeypatch.context() as patched:
        patched.setattr(event_loop, "EMPTY", 10**9)  # looks for others, before any is answered
        ask(5)
        patched.setattr(event_loop, "ALONE_NS", 10**18)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Search(GOOD, timeout=0.2)
        assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
    ask(1)


def test_a_stream_that_is_closed_at_once_is_fine_and_a_call_without_a_message_is_not(
    served: Reacting,
) -> None:
    with Raw(served.address) as raw:
        streamed, unary = raw.begin(SEARCH_STREAM), raw.begin(SEARCH)
        for stream in (streamed, unary):
            raw.send(frames.frame(frames.DATA, frames.END_STREAM, stream))
        assert raw.status(streamed).code == "OK"
        assert raw.status(unary) == ("INVALID_ARGUMENT", "request: there is none")
        both = raw.begin(SEARCH_STREAM)
        for last in (False, True):
            raw.message(both, ONE, last)
        assert raw.status(both).code == "OK"


@pytest.mark.parametrize("path", [SEARCH, SEARCH_STREAM])
def test_what_is_no_message_is_refused(served: Reacting, path: str) -> None:
    name = path.rpartition("/")[2]
    with Raw(served.address) as raw:
        for garbage in (b"\xff", b"\x0a\xff\xff\xff\xff\x0f", bytes(range(256)), b"\x0a\x80" * 500):
            status = raw.status(raw.ask(path, garbage))
            assert status == ("INVALID_ARGUMENT", f"request: cannot be read as a request of {name}")
        assert raw.status(raw.ask(path, ONE)).code == "OK"


def test_a_client_that_never_reads_is_read_no_further_than_the_window(retriever: Retriever) -> None:
    closed_window = ((frames.HEADER_TABLE_SIZE, 0), (frames.INITIAL_WINDOW_SIZE, 0))
    with reacting(retriever, window=8) as served, Raw(served.address, closed_window) as raw:
        stream = raw.begin(SEARCH_STREAM)
        for n in range(500):
            raw.message(stream, ONE, last=n == 499)
        assert soon(lambda: served.snapshot("queries") >= 8)
        with grpc.insecure_channel(served.address) as channel:
            for _ in range(50):
                assert retrieval_pb2_grpc.RetrievalStub(channel).Search(GOOD, timeout=5).hits
        # One more than the window where the first could be sent. A call is counted after its answer is sent.
        assert soon(lambda: served.snapshot("queries") - 50 in (8, 9)), served.snapshot("queries")
        raw.send(frames.window_update(stream, 1 << 30))
        assert raw.status(stream).code == "OK"
        assert served.snapshot("queries") == 550


def test_clients_that_go_away_while_a_batch_is_worked_on_harm_nobody(served: Reacting, stub: Any) -> None:
    for n in range(20):
        with Raw(served.address) as raw:
            held_up = raw.ask("/test/Sleep", b"20")
            streams = [raw.ask(path, ONE) for path in (SEARCH, SEARCH_STREAM) * 10]
            if n % 2:
                raw.reset(held_up)
                for stream in streams[::2]:
                    raw.reset(stream)
                raw.status(streams[1])
        assert stub.Search(GOOD, timeout=5).hits
    assert served.becomes("in_flight", 0)
    assert served.becomes("streams", 0)
    assert {*served.snapshot("requests")} <= {"OK", "CANCELLED"}
    assert 40 <= sum(served.snapshot("requests").values()) <= 20 * 22  # gRPC keeps some to itself


def test_a_deadline_that_has_passed_before_the_batch_costs_nothing(
    served: Reacting, channel: grpc.Channel, stub: Any
) -> None:
    held_up = call(channel, "Sleep").future(b"300", timeout=5)
    time.sleep(0.05)
    calls = [stub.Search.future(GOOD, timeout=0.1) for _ in range(20)]
    assert {each.exception().code() for each in calls} == {StatusCode.DEADLINE_EXCEEDED}
    assert held_up.result() == b"300"
    assert served.becomes("in_flight", 0)
    assert served.worked_on() == 0
    assert served.snapshot("queries") == 0
    assert {*served.snapshot("requests")} <= {"OK", "DEADLINE_EXCEEDED"}
    assert stub.Search(GOOD, timeout=5).hits


def test_more_than_may_wait_is_refused_at_once_with_the_time_to_come_back(retriever: Retriever) -> None:
    with reacting(retriever, queue=4) as served, grpc.insecure_channel(served.address) as channel:
        stub: Any = retrieval_pb2_grpc.RetrievalStub(channel)
        held_up = call(channel, "Sleep").future(b"200", timeout=5)
        time.sleep(0.05)
        many = wire.SearchBatchRequest(queries=[GOOD.query] * 3)
        calls = [stub.Search.future(GOOD, timeout=5) for _ in range(30)]
        calls += [stub.SearchBatch.future(many, timeout=5) for _ in range(10)]
        assert held_up.result() == b"200"
        refused = [error for each in calls if (error := each.exception()) is not None]
        assert {each.code() for each in refused} == {StatusCode.RESOURCE_EXHAUSTED}
        assert 30 <= len(refused) <= 39  # at least two fit before the first refusal, fewer after it
        for each in refused:
            assert "more queries are waiting" in each.details()
            assert 1 <= int(dict(each.trailing_metadata())["grpc-retry-pushback-ms"]) < 1000
        singles = sum(each in refused for each in (one.exception() for one in calls[:30]))
        triples = len(refused) - singles
        # Some before their message was read, when nobody knows of how many queries.
        assert len(refused) <= served.snapshot("refused")["no_room"] <= singles + 3 * triples
        for _ in range(10):
            assert stub.Search(GOOD, timeout=5).hits
        assert len(stub.SearchBatch(many, timeout=5).results) == 3


def test_a_request_with_more_queries_than_may_wait_is_answered_when_nothing_does(
    retriever: Retriever,
) -> None:
    with reacting(retriever, queue=4, batch=2) as served, grpc.insecure_channel(served.address) as channel:
        many = wire.SearchBatchRequest(queries=[GOOD.query] * 20)
        stub: Any = retrieval_pb2_grpc.RetrievalStub(channel)
        assert len(stub.SearchBatch(many, timeout=5).results) == 20


def test_a_stream_is_refused_behind_its_answers_and_counts_one_query(retriever: Retriever) -> None:
    with reacting(retriever, queue=4) as served, Raw(served.address) as raw:
        stream = raw.begin(SEARCH_STREAM)
        for n in range(20):
            raw.message(stream, ONE)
            assert soon(lambda n=n: served.snapshot("queries") == n + 1)  # type: ignore[misc]
        held_up = raw.ask("/test/Sleep", b"100")
        time.sleep(0.03)
        for n in range(20):
            raw.message(stream, ONE, last=n == 19)
        assert raw.status(stream).code == "RESOURCE_EXHAUSTED"
        assert raw.status(held_up).code == "OK"
        assert served.snapshot("refused") == {"no_room": 1}
        assert served.becomes("streams", 0)


@pytest.mark.parametrize("name", ["Fail", "FailStream"])
def test_what_nobody_has_foreseen_is_an_incident_and_the_server_lives(
    served: Reacting, channel: grpc.Channel, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    def ask(request: bytes) -> list[bytes]:
        if name == "Fail":
            return [call(channel, name)(request, timeout=5)]
        return list(call(channel, name)(iter([b"a", request, b"b"]), timeout=5))

    with pytest.raises(grpc.RpcError) as caught:
        ask(b"fail")
    assert caught.value.code() is StatusCode.INTERNAL
    details = caught.value.details() or ""
    assert details.endswith(f"incident {expected_to_fail(caplog)}")
    assert "secret" not in details
    assert ask(b"fine")[-2:] in ([b"fine"], [b"fine", b"b"])
    assert served.becomes("in_flight", 0)


def test_a_call_that_is_over_leaves_nothing_for_the_collector(served: Reacting, stub: Any) -> None:
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            stub.Search(GOOD, timeout=5)
            assert len(list(stub.SearchStream(iter([GOOD] * 3), timeout=5))) == 3
            code_of(stub.Search, wire.SearchRequest())
        assert served.becomes("in_flight", 0)
        assert soon(lambda: sum(issubclass(type(each), Call) for each in gc.get_objects()) <= 1)
    finally:
        gc.enable()


def test_calls_without_a_message_do_not_keep_others_out(retriever: Retriever) -> None:
    with reacting(retriever, queue=8) as served, Raw(served.address) as raw:
        with grpc.insecure_channel(served.address) as channel:
            search = retrieval_pb2_grpc.RetrievalStub(channel).Search
            first = [raw.begin(SEARCH) for _ in range(20)]
            assert soon(lambda: served.snapshot("in_flight") == 8)
            assert served.becomes("requests", {"RESOURCE_EXHAUSTED": 12})
            time.sleep(0.55)
            assert search(GOOD, timeout=5).hits
            second = [raw.begin(SEARCH) for _ in range(8)]
            assert soon(lambda: served.snapshot("in_flight") == 16)
            time.sleep(0.55)
            assert search(GOOD, timeout=5).hits
        # Those that were accepted are the oldest, and more are late than may wait.
        codes = Counter(raw.status(each).code for each in first)
        assert codes == {"RESOURCE_EXHAUSTED": 12, "DEADLINE_EXCEEDED": 8}
        assert not {*second} & {*raw.statuses}
        raw.message(second[1], ONE, last=True)
        assert raw.status(second[1]).code == "OK"
    assert served.snapshot("in_flight") == 0
