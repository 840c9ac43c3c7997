"""Methods of the service that the clients have no method of their own for are called by name."""

import asyncio

import pytest
from google.protobuf.message import Message

from protos import retrieval_pb2 as wire
from protos.errors import InvalidInput, UnknownItem
from serving.client import AsyncRetrievalClient, RetrievalClient
from serving.server import RetrievalServer

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
            "method: expected one of Encode, Info, Releases, Score, Search, SearchBatch, got 'Forget'",
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
