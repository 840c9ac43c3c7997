"""Errors of reading a collection: each says what is wrong, in the time that the read has."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc
import numpy as np
import pytest

from tests.helpers.milvus import needs_lite
from tests.helpers.tiny import tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.errors import InvalidInput, Unavailable
from twinspire.protos.vector_databases.database import uri_variable
from twinspire.serving.segments.remote import RemoteCollection, seconds_left, within

pytestmark = needs_lite()  # that is, the package pymilvus
URI = uri_variable("milvus")
QUERY = np.ones((1, 4), np.float32)


class RpcError(grpc.RpcError):
    """An error with a code, as gRPC raises it."""

    def __init__(self, code: grpc.StatusCode, text: str = "") -> None:
        super().__init__(text)
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code


class Client:
    """A client of pymilvus whose searches end as a test says."""

    error: Exception | None = None
    seconds = 0.0

    def search(self, *arguments: Any, timeout: float, **options: Any) -> "Future[Any]":
        self.seconds = timeout
        future: Future[Any] = Future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            entity = {"id": "seven", "display": '{"title": "7"}'}
            future.set_result([[{"entity": entity, "distance": 0.5}]])
        return future


def collection_of(monkeypatch: pytest.MonkeyPatch, connect: Callable[[float], Any]) -> RemoteCollection:
    def client(uri: str, timeout: float, **options: Any) -> Any:
        return connect(timeout)

    def check(database: Any, name: str, manifest: Any, seconds: float) -> None:
        database.client(seconds)

    monkeypatch.setenv(URI, "http://127.0.0.1:1")
    monkeypatch.setattr("twinspire.protos.vector_databases.milvus.MilvusClient", client)
    monkeypatch.setattr("twinspire.serving.segments.remote.check_collection", check)
    index = IndexParameters("ip", 8, 64, 64, kind="milvus", options={"type": "HNSW"})
    return RemoteCollection(tiny_manifest(3, TinyTower(), bundle_version="0" * 64, index=index))


def test_a_read_takes_no_longer_than_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    collection = collection_of(monkeypatch, lambda seconds: client)
    with within(0.5):
        (((item, score),),) = collection.search(QUERY, 1)
    assert (item.item_id, item.fields, score) == ("seven", {"title": "7"}, 0.5)
    assert 0 < client.seconds <= 0.5
    with within(0.0), pytest.raises(Unavailable, match="has not answered in time"):
        collection.search(QUERY, 1)
    assert seconds_left() == pytest.approx(5.0, abs=0.5)


@pytest.mark.parametrize("code", [grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE])
def test_a_server_that_does_not_answer_is_told_without_its_address(
    monkeypatch: pytest.MonkeyPatch, code: grpc.StatusCode
) -> None:
    client = Client()
    client.error = RpcError(code, "http://the-address:19530 is away")
    collection = collection_of(monkeypatch, lambda seconds: client)
    with pytest.raises(Unavailable, match=rf"^Milvus \({URI}\) does not answer: {code.name}$"):
        collection.search(QUERY, 1)
    client.error = None
    assert len(collection.search(QUERY, 1)) == 1


def test_an_expression_that_the_server_does_not_take_is_a_fault_of_the_filter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client()
    client.error = RpcError(grpc.StatusCode.UNKNOWN, "cannot parse expression: f0 ==")
    with pytest.raises(InvalidInput, match=r"^filter: "):
        collection_of(monkeypatch, lambda seconds: client).search(QUERY, 1, "f0 ==")


def test_a_read_that_waits_for_the_connection_of_another_ends_in_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered, may_go_on, client = threading.Event(), threading.Event(), Client()

    def connect(seconds: float) -> Any:
        entered.set()
        assert may_go_on.wait(30)
        return client

    collection = collection_of(monkeypatch, connect)
    first = threading.Thread(target=collection.search, args=(QUERY, 1))
    first.start()
    assert entered.wait(10)
    try:
        with within(0.1), pytest.raises(Unavailable, match="another search waits for a connection"):
            collection.search(QUERY, 1)
    finally:
        may_go_on.set()
        first.join()
    assert len(collection.search(QUERY, 1)) == 1
