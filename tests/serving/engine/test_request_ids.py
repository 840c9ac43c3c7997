"""The id of a request: the client's, if it is sane, or one of its own; and where a client finds it."""

import uuid
from typing import Any

import grpc
import pytest

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos.system import logs

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
