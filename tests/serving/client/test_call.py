"""Methods of the service that the clients have no method of their own for are called by name."""

import asyncio
from collections.abc import Callable
from operator import methodcaller
from typing import Any

import pytest
from google.protobuf.message import Message

from tests.serving.client.ways import WAYS, Way, asynchronous, blocking, first
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import InvalidInput, TwinspireError, Unavailable, UnknownItem
from twinspire.serving.client import AsyncRetrievalClient, Item, RetrievalClient
from twinspire.serving.server import RetrievalServer

TEXT = wire.SearchRequest(query=wire.Query(text="ba ke li"), k=2)


@pytest.mark.parametrize("way", WAYS)
def test_a_method_is_called_by_its_name(server: RetrievalServer, client: RetrievalClient, way: Way) -> None:
    found = way(server.address, methodcaller("call", "Search", TEXT))
    assert [hit.id for hit in found.hits] == [hit.id for hit in client.search("ba ke li", k=2).hits]


@pytest.mark.parametrize(
    ("way", "request_message", "error", "text"),
    [
        (
            blocking,
            wire.SearchRequest(query={"text": "ba"}, k=1001),
            InvalidInput,
            "k: expected at most 1000",
        ),
        (asynchronous, wire.SearchRequest(query={"item_id": "none"}), UnknownItem, r"query\.item_id"),
    ],
)
def test_its_errors_are_those_of_a_search(
    server: RetrievalServer, way: Way, request_message: Message, error: type[TwinspireError], text: str
) -> None:
    with pytest.raises(error, match=text):
        way(server.address, methodcaller("call", "Search", request_message))


@pytest.mark.parametrize(
    ("method", "request_message", "expected"),
    [
        ("Forget", TEXT, "method: expected one of Encode, Info, Score, .*, got 'Forget'"),
        ("SearchStream", TEXT, "method: expected one of .* got 'SearchStream'"),
        ("Info", TEXT, r"request: expected retrieval\.v1\.InfoRequest, got retrieval\.v1\.SearchRequest"),
    ],
)
def test_what_is_no_such_call_is_refused(
    client: RetrievalClient, method: str, request_message: Message, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        client.call(method, request_message)


CALLS: dict[str, Callable[[Any], Any]] = {
    "search": methodcaller("search", "ba"),
    "search_stream": lambda client: first(client.search_stream(["ba"])),
    "info": methodcaller("info"),
    "get": methodcaller("get", ["a"]),
    "upsert": methodcaller("upsert", [Item("a")], request_id="7"),
    "changes": lambda client: first(client.changes()),
    "wait_ready": methodcaller("wait_ready", 5),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_client_that_is_closed_says_so(server: RetrievalServer, name: str) -> None:
    expected = pytest.raises(Unavailable, match=f"^{server.address}: this client has been closed$")
    with RetrievalClient(server.address) as client:
        client.wait_ready()
    with expected as caught:
        CALLS[name](client)

    async def other() -> None:
        async with AsyncRetrievalClient(server.address) as twin:
            await twin.wait_ready()
        with expected as caught:
            await CALLS[name](twin)
        assert caught.value.request_id == ("7" if name == "upsert" else "")

    assert caught.value.request_id == ("7" if name == "upsert" else "")
    asyncio.run(other())
