"""Methods of the service that the clients have no method of their own for are called by name."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.message import Message

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import InvalidInput, Unavailable, UnknownItem
from twinspire.serving.client import AsyncRetrievalClient, Item, RetrievalClient
from twinspire.serving.server import RetrievalServer

TEXT = wire.SearchRequest(query=wire.Query(text="ba ke li"), k=2)


def test_a_method_is_called_by_its_name(server: RetrievalServer, client: RetrievalClient) -> None:
    expected = [hit.id for hit in client.search("ba ke li", k=2).hits]
    assert [hit.id for hit in client.call("Search", TEXT).hits] == expected

    async def other() -> wire.SearchResponse:
        async with AsyncRetrievalClient(server.address) as twin:
            response: wire.SearchResponse = await twin.call("Search", TEXT)
            return response

    assert [hit.id for hit in asyncio.run(other()).hits] == expected


def test_its_errors_are_those_of_a_search(server: RetrievalServer, client: RetrievalClient) -> None:
    with pytest.raises(InvalidInput, match="k: expected at most 1000"):
        client.call("Search", wire.SearchRequest(query=wire.Query(text="ba"), k=1001))

    async def other() -> None:
        async with AsyncRetrievalClient(server.address) as twin:
            await twin.call("Search", wire.SearchRequest(query=wire.Query(item_id="none")))

    with pytest.raises(UnknownItem, match=r"query\.item_id"):
        asyncio.run(other())


@pytest.mark.parametrize(
    ("method", "request_message", "expected"),
    [
        (
            "Forget",
            TEXT,
            "method: expected one of Encode, Info, Score, Search, SearchBatch, got 'Forget'",
        ),
        ("SearchStream", TEXT, "method: expected one of .* got 'SearchStream'"),
        ("Info", TEXT, r"request: expected retrieval\.v1\.InfoRequest, got retrieval\.v1\.SearchRequest"),
    ],
)
def test_what_is_no_such_call_is_refused(
    client: RetrievalClient, method: str, request_message: Message, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        client.call(method, request_message)


async def first(stream: Any) -> Any:
    return await anext(stream)


CALLS: dict[
    str, tuple[Callable[[RetrievalClient], Any], Callable[[AsyncRetrievalClient], Awaitable[Any]]]
] = {
    "search": (lambda client: client.search("ba"), lambda client: client.search("ba")),
    "search_stream": (
        lambda client: next(client.search_stream(["ba"])),
        lambda client: first(client.search_stream(["ba"])),
    ),
    "info": (lambda client: client.info(), lambda client: client.info()),
    "get": (lambda client: client.get(["a"]), lambda client: client.get(["a"])),
    "upsert": (
        lambda client: client.upsert([Item("a")], request_id="7"),
        lambda client: client.upsert([Item("a")], request_id="7"),
    ),
    "changes": (lambda client: next(client.changes()), lambda client: first(client.changes())),
    "wait_ready": (lambda client: client.wait_ready(5), lambda client: client.wait_ready(5)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_client_that_is_closed_says_so(server: RetrievalServer, name: str) -> None:
    blocking, asynchronous = CALLS[name]
    expected = pytest.raises(Unavailable, match=f"^{server.address}: this client has been closed$")
    with RetrievalClient(server.address) as client:
        client.wait_ready()
    with expected as caught:
        blocking(client)

    async def other() -> None:
        async with AsyncRetrievalClient(server.address) as twin:
            await twin.wait_ready()
        with expected as caught:
            await asynchronous(twin)
        assert caught.value.request_id == ("7" if name == "upsert" else "")

    assert caught.value.request_id == ("7" if name == "upsert" else "")
    asyncio.run(other())
