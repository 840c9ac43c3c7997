"""Request ids, and refusals over a real socket: the code, the field, and no more than that."""

import uuid
from typing import Any

import grpc
import pytest

from tests.helpers.serving.guarded import code_of
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos.errors import InvalidInput
from twinspire.protos.system import logs
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.query import Query

SEARCH = wire.SearchRequest(query=wire.Query(text="bavuti"), k=1)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("7f3c-11", "7f3c-11"),
        ("a/b:c=d@e+f_g.h", "a/b:c=d@e+f_g.h"),
        ("x" * 128, "x" * 128),
        ("x" * 129, ""),
        ('a"b', ""),
        ("a b", ""),
        ("a\n", ""),
        ("日本1", ""),
        (b"binary", ""),
        ("", ""),
    ],
)
def test_a_sane_id_is_taken(given: str | bytes, taken: str) -> None:
    assert logs.request_id_in((("other", "x"), ("x-request-id", given))) == taken


def trailers(call: Any) -> dict[str, str]:
    return {each.key: each.value for each in call.trailing_metadata()}


def test_a_client_finds_its_id_in_the_trailing_metadata(channel: grpc.Channel) -> None:
    stub = retrieval_pb2_grpc.RetrievalStub(channel)
    _, call = stub.Search.with_call(SEARCH, metadata=(("x-request-id", "mine-1"),))
    assert trailers(call)["x-request-id"] == "mine-1"
    _, call = stub.Search.with_call(SEARCH)
    assert "x-request-id" not in trailers(call)
    stream = stub.SearchStream(iter([SEARCH]), metadata=(("x-request-id", "mine-2"),))
    assert len(list(stream)) == 1
    assert trailers(stream)["x-request-id"] == "mine-2"


def test_a_call_that_fails_has_an_id_in_any_case(channel: grpc.Channel) -> None:
    stub = retrieval_pb2_grpc.RetrievalStub(channel)
    for metadata, expected in (((("x-request-id", "mine-1"),), "mine-1"), ((("x-request-id", '"'),), "")):
        with pytest.raises(grpc.RpcError) as failed:
            stub.Search(wire.SearchRequest(k=99_999), metadata=metadata)
        found = trailers(failed.value)["x-request-id"]
        assert found == expected or (not expected and uuid.UUID(found).version == 4)


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return retrieval_pb2_grpc.RetrievalStub(channel)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "query: required, but missing"),
        ({"query": {"text": "a"}, "k": 1001}, "k: expected at most 1000, got 1001"),
        ({"query": {"text": "a"}, "exclude": ["x"] * 1001}, "exclude: expected at most 1000 items, got 1001"),
        ({"query": {"text": "a" * 10_001}}, "query.text: expected at most 10000 code points, got 10001"),
        (
            {"query": {"text": "a", "history": ["item-000"]}},
            "query.history: no history feature for it; the query tower takes text (text)",
        ),
        (
            {"query": {"text": "a", "features": {"txt": {"text": "a"}}}},
            "query.features.txt: unknown feature; the query tower takes text (text); did you mean text?",
        ),
        (
            {"query": {"text": "a", "item_id": "item-000"}},
            "query.text: expected either text or an item_id, got both",
        ),
        ({"query": {"item_id": "item-999"}}, "query.item_id: the catalogue holds no item 'item-999'"),
    ],
)
def test_a_bad_request_is_refused_by_name(stub: Any, fields: dict[str, Any], text: str) -> None:
    code, said = code_of(stub.Search, wire.SearchRequest(**fields))
    assert code.name == ("NOT_FOUND" if "holds no item" in text else "INVALID_ARGUMENT")
    assert said.startswith(text)


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
