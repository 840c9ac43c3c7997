"""What every front does: the service's own on gRPC's C core, and one on grpc.aio (`aio_front.py`)."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.helpers.answers import differences
from tests.helpers.serving.aio_front import AioFront
from tests.helpers.serving.guarded import code_of
from tests.helpers.tiny import item_names
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos.errors import DeadlineExceeded, InvalidInput, Unavailable, UnknownItem
from twinspire.serving.client import Query, RetrievalClient
from twinspire.serving.engine.front import Front
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

NAMES = item_names(40)
STREAMS = ("SearchStream", "Watch", "ServerReflectionInfo")


def front(kind: str) -> Front | None:
    return None if kind == "grpc" else AioFront(STREAMS)


@pytest.fixture(scope="module", params=["grpc", "aio"])
def served(request: pytest.FixtureRequest, retriever: Retriever) -> Iterator[RetrievalServer]:
    with RetrievalServer(retriever, front=front(request.param)) as server:
        yield server


@pytest.fixture
def client(served: RetrievalServer) -> Iterator[RetrievalClient]:
    with RetrievalClient(served.address) as client:
        yield client


def test_a_search_is_answered_as_in_process(client: RetrievalClient, retriever: Retriever) -> None:
    for name in NAMES[:10]:
        answer = client.search(name, 5)
        (expected,) = retriever.search([Query(name)], 5)
        assert answer.hits == expected.hits  # equal bits: both are batches of one, in one process
        assert answer.bundle_version == retriever.manifest.bundle_version
        assert answer.timing.encode_us > 0 and answer.timing.search_us > 0


def test_a_batch_is_answered_as_in_process(client: RetrievalClient, retriever: Retriever) -> None:
    expected = retriever.search([Query(name) for name in NAMES], 5)
    assert differences(expected, client.search_batch(NAMES, 5)) == []


def test_a_stream_is_answered_in_order(client: RetrievalClient, retriever: Retriever) -> None:
    expected = retriever.search([Query(name) for name in NAMES], 5)
    assert differences(expected, [*client.search_stream(NAMES, 5)]) == []


def test_errors_have_their_kind_and_text(client: RetrievalClient) -> None:
    with pytest.raises(InvalidInput, match="k: expected"):
        client.search("zo", 100_000)
    with pytest.raises(UnknownItem, match=r"query\.item_id: the catalogue holds no item 'nothing'"):
        client.search(Query(item_id="nothing"))
    with pytest.raises(InvalidInput, match="k: expected"):
        [*client.search_stream(["zo"], 100_000)]
    assert client.search("zo", 3).hits


def test_a_call_of_no_method_and_a_message_that_cannot_be_read(served: RetrievalServer) -> None:
    with grpc.insecure_channel(served.address) as channel:
        missing = channel.unary_unary("/retrieval.v1.Retrieval/Nothing", None, None)
        assert code_of(missing, b"")[0] is grpc.StatusCode.UNIMPLEMENTED
        search = channel.unary_unary("/retrieval.v1.Retrieval/Search", None, None)
        assert code_of(search, b"\xff")[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_deadline_that_has_passed_ends_the_call(client: RetrievalClient) -> None:
    done = threading.Event()

    def queries() -> Iterator[str]:
        yield "zo"
        done.wait(30)

    answers = client.search_stream(queries(), 3, timeout=0.5)
    assert next(answers).hits
    with pytest.raises(DeadlineExceeded):
        next(answers)
    done.set()
    assert client.search("zo", 3).hits


def test_a_stream_that_is_cancelled_leaves_room_for_others(served: RetrievalServer) -> None:
    stub_of: Any = retrieval_pb2_grpc.RetrievalStub
    with grpc.insecure_channel(served.address) as channel:
        held = threading.Event()

        def requests() -> Iterator[wire.SearchRequest]:
            yield wire.SearchRequest(query=wire.Query(text="zo"), k=3)
            held.wait(30)

        answers = stub_of(channel).SearchStream(requests())
        assert next(answers).hits
        answers.cancel()
        held.set()
        with pytest.raises(grpc.RpcError) as cancelled:
            next(answers)
        assert cancelled.value.code() is grpc.StatusCode.CANCELLED
        streams = [[*stub_of(channel).SearchStream(iter(_requests(5)))] for _ in range(5)]
    assert all(len(each) == 5 for each in streams)


def _requests(count: int) -> list[wire.SearchRequest]:
    return [wire.SearchRequest(query=wire.Query(text=name), k=3) for name in NAMES[:count]]


def test_many_clients_at_once_get_their_own_answers(served: RetrievalServer, retriever: Retriever) -> None:
    expected = {name: retriever.search([Query(name)], 3)[0] for name in NAMES[:8]}
    wrong: list[str] = []

    def ask(name: str) -> None:
        with RetrievalClient(served.address, timeout=30) as client:
            for _ in range(20):
                wrong.extend(differences([expected[name]], [client.search(name, 3)]))

    threads = [threading.Thread(target=ask, args=(name,)) for name in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("kind", ["grpc", "aio"])
def test_a_server_that_stops_ends_within_its_grace(kind: str, retriever: Retriever) -> None:
    server = RetrievalServer(retriever, front=front(kind))
    server.start()
    with RetrievalClient(server.address, retries=False) as client:
        assert client.search("zo", 3).hits
        began = time.monotonic()
        server.stop(5.0)
        assert time.monotonic() - began < 10
        with pytest.raises(Unavailable):
            client.search("zo", 3, timeout=2)
