"""What the service refuses, over a real socket: the code, the field, and no more than that."""

from typing import Any

import grpc
import pytest

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos.errors import InvalidInput
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.query import Query


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return retrieval_pb2_grpc.RetrievalStub(channel)


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (wire.SearchRequest(), "INVALID_ARGUMENT", "query: required, but missing"),
        (
            wire.SearchRequest(query={"text": "a"}, k=1001),
            "INVALID_ARGUMENT",
            "k: expected at most 1000, got 1001",
        ),
        (
            wire.SearchRequest(query={"text": "a"}, exclude=["x"] * 1001),
            "INVALID_ARGUMENT",
            "exclude: expected at most 1000 items, got 1001",
        ),
        (
            wire.SearchRequest(query={"text": "a" * 10_001}),
            "INVALID_ARGUMENT",
            "query.text: expected at most 10000 code points, got 10001",
        ),
        (
            wire.SearchRequest(query={"text": "a", "history": ["item-000"]}),
            "INVALID_ARGUMENT",
            "query.history: no history feature for it; the query tower takes text (text)",
        ),
        (
            wire.SearchRequest(query={"text": "a", "features": {"txt": {"text": "a"}}}),
            "INVALID_ARGUMENT",
            "query.features.txt: unknown feature; the query tower takes text (text); did you mean text?",
        ),
        (
            wire.SearchRequest(query={"text": "a", "item_id": "item-000"}),
            "INVALID_ARGUMENT",
            "query.text: expected either text or an item_id, got both",
        ),
        (
            wire.SearchRequest(query={"item_id": "item-999"}),
            "NOT_FOUND",
            "query.item_id: the catalogue holds no item 'item-999'",
        ),
    ],
)
def test_a_bad_request_is_refused_by_name(
    stub: Any, request_: wire.SearchRequest, code: str, text: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Search(request_, timeout=5)
    assert caught.value.code().name == code
    assert (caught.value.details() or "").startswith(text)


def test_a_bad_query_is_named_within_its_batch(full_client: RetrievalClient) -> None:
    bad = Query("a", features={"country": 3.0})
    for call in (full_client.search_batch, full_client.encode):
        with pytest.raises(InvalidInput) as caught:
            call(["a", "b", bad])
        assert caught.value.field == "queries[2].features.country"
        assert caught.value.reason.startswith("expected a string")


@pytest.mark.parametrize("count", [0, 257])
def test_a_batch_is_bounded(client: RetrievalClient, count: int) -> None:
    for call in (client.search_batch, client.encode):
        with pytest.raises(InvalidInput, match=f"queries: expected 1 to 256 queries, got {count}"):
            call(["a"] * count)


def test_a_huge_message_is_refused(client: RetrievalClient) -> None:
    with pytest.raises(InvalidInput, match="larger than max"):
        client.search("a" * (5 << 20))
    assert client.search("a").hits


def test_the_client_refuses_what_the_wire_cannot_carry(client: RetrievalClient) -> None:
    with pytest.raises(InvalidInput, match=r"queries\[1\]: expected Unicode"):
        client.encode(["a", "\ud800"])
    with pytest.raises(InvalidInput, match="k: expected 0 to"):
        client.search("a", k=-1)
