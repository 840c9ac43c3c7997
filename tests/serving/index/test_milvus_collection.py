"""The circuit breaker of a collection: what opens it, what closes it, and what says nothing of the server."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from tests.helpers.milvus import needs_lite
from tests.helpers.tiny import tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos.errors import Unavailable
from twinspire.protos.vector_databases.milvus import ID, URI
from twinspire.serving.index.remote_search import ExpressionRefused, OutOfTime

if TYPE_CHECKING:
    from twinspire.serving.index.milvus_collection import MilvusCollection

FAILURES, FAIR_SECONDS = 5, 1.0
pytestmark = needs_lite()  # that is, the package pymilvus
QUERY = np.ones((1, 4), np.float32)
SHORT, FAIR = FAIR_SECONDS / 2, FAIR_SECONDS * 2


class RpcError(grpc.RpcError):
    """An error with a code, as gRPC raises it."""

    def __init__(self, code: grpc.StatusCode, text: str = "") -> None:
        super().__init__(text)
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code


LATE, DOWN = grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE


class Client:
    """A client of pymilvus whose searches end as a test says."""

    error: Exception | None = None
    asked = 0

    def describe_collection(self, name: str, timeout: float) -> dict[str, Any]:
        return {"fields": []}

    def search(self, *arguments: Any, **options: Any) -> "Future[Any]":
        self.asked += 1
        future: Future[Any] = Future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result([[{ID: 7, "distance": 0.5}]])
        return future


def collection_of(monkeypatch: pytest.MonkeyPatch, connect: Callable[[float], Any]) -> "MilvusCollection":
    from twinspire.serving.index import milvus_collection  # which imports a package of the extra

    monkeypatch.setattr(milvus_collection, "FAIR_SECONDS", FAIR_SECONDS)
    monkeypatch.setattr(milvus_collection, "FAILURES", FAILURES)
    monkeypatch.setenv(URI, "http://127.0.0.1:1")
    manifest = tiny_manifest(3, TinyTower(), bundle_version="0" * 64)
    made = milvus_collection.MilvusCollection(manifest)
    monkeypatch.setattr(made, "server", SimpleNamespace(connect=connect, is_file=True))
    return made


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def collection(monkeypatch: pytest.MonkeyPatch, client: Client) -> "MilvusCollection":
    return collection_of(monkeypatch, lambda seconds: client)


def ask(collection: "MilvusCollection", seconds: float) -> type[Exception] | None:
    """How a search ends."""
    try:
        ((rows, _),) = collection.ask(QUERY, 1, "", seconds)
    except (OutOfTime, Unavailable, ExpressionRefused) as error:
        return type(error)
    assert rows.tolist() == [7]
    return None


def test_searches_with_little_time_neither_open_nor_close_it(
    collection: "MilvusCollection", client: Client
) -> None:
    client.error = RpcError(LATE)
    assert [ask(collection, SHORT) for _ in range(2 * FAILURES)] == [OutOfTime] * 2 * FAILURES
    for _ in range(FAILURES):
        assert ask(collection, FAIR) is Unavailable
        if not collection._breaker.opened:
            assert ask(collection, SHORT) is OutOfTime
    asked = client.asked
    assert ask(collection, FAIR) is Unavailable
    assert client.asked == asked  # it is open


@pytest.mark.parametrize("said", [None, "cannot parse expression"])
def test_an_answer_closes_it(collection: "MilvusCollection", client: Client, said: str | None) -> None:
    for _ in range(3):
        client.error = RpcError(DOWN)
        assert [ask(collection, FAIR) for _ in range(FAILURES - 1)] == [Unavailable] * (FAILURES - 1)
        client.error = None if said is None else RpcError(grpc.StatusCode.UNKNOWN, said)
        assert ask(collection, FAIR) is (None if said is None else ExpressionRefused)


def test_a_slow_connection_is_not_the_servers_fault_if_there_was_little_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = [True] * (FAILURES + 1)

    def connect(seconds: float) -> Any:
        if slow and slow.pop():
            threading.Event().wait(seconds)
        raise Unavailable("it does not answer")

    collection = collection_of(monkeypatch, connect)
    assert [ask(collection, SHORT) for _ in range(FAILURES + 1)] == [OutOfTime] * (FAILURES + 1)
    assert [ask(collection, SHORT) for _ in range(FAILURES)] == [Unavailable] * FAILURES  # it fails at once
    with pytest.raises(Unavailable, match=r"it is tried again soon"):
        collection.ask(QUERY, 1, "", FAIR)


def test_a_search_that_waits_for_the_connection_of_another_is_not_the_servers_fault(
    monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    entered, may_go_on = threading.Event(), threading.Event()

    def connect(seconds: float) -> Any:
        entered.set()
        assert may_go_on.wait(30)
        return client

    collection = collection_of(monkeypatch, connect)
    first = threading.Thread(target=ask, args=(collection, 30.0))
    first.start()
    assert entered.wait(10)
    try:
        assert ask(collection, FAIR_SECONDS) is OutOfTime
    finally:
        may_go_on.set()
        first.join()
    assert ask(collection, FAIR) is None
