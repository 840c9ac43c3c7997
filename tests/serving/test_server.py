"""The service over a real socket: answers, order, bounds, and errors that name the field."""

import logging
import queue
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.helpers.answers import differences
from tests.helpers.serving.guarded import code_of
from tests.helpers.serving.loopback import client_on, configured
from tests.helpers.tiny import item_ids, item_names
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos.errors import InvalidInput, Unavailable
from twinspire.serving.client import RetrievalClient
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.retrieval.answer import Answer
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer
from twinspire.serving.shadow.mirror import TrafficMirror
from twinspire.serving.wire.converters import RequestLimits

SERVICE = "retrieval.v1.Retrieval"


def ids(answer: Answer) -> list[str]:
    return [hit.id for hit in answer.hits]


def test_k_defaults_and_gives_what_there_is(client: RetrievalClient) -> None:
    assert len(client.search("bake").hits) == 10
    assert sorted(ids(client.search("bake", k=1000))) == item_ids(300)


def test_an_empty_text_is_answered_and_an_absent_one_is_not(client: RetrievalClient) -> None:
    assert len(client.search("").hits) == 10
    with pytest.raises(InvalidInput, match=r"query\.text: required .* but missing"):
        client.search(Query())


def test_a_batch_answers_in_order(client: RetrievalClient) -> None:
    queries: list[Query | str] = [*item_names(20), Query(item_id="item-030")]
    answers = client.search_batch(queries, k=3, exclude=["item-001"])
    alone = [client.search(query, k=3, exclude=["item-001"]) for query in queries]
    assert differences(alone, answers) == []
    assert len({answer.timing for answer in answers}) == 1


def test_streams_are_bounded_and_come_back(retriever: Retriever, caplog: pytest.LogCaptureFixture) -> None:
    with (
        RetrievalServer(retriever, configured(bounds=WorkerLimits(streams=1))) as server,
        RetrievalClient(server.address) as client,
    ):
        queries: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        queries.put("a")
        first = client.search_stream(iter(queries.get, None), k=1)
        next(first)
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
            list(retrieval_pb2_grpc.RetrievalStub(channel).SearchStream(iter([]), timeout=5))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == "all 1 streams are in use"
        assert client.search("a").hits
        first.close()  # type: ignore[attr-defined]
        queries.put(None)
        assert len(list(client.search_stream(["a", "b"], timeout=5))) == 2
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_encode_gives_unit_vectors(client: RetrievalClient, retriever: Retriever) -> None:
    queries: list[Query | str] = ["a", "日本語", Query(item_id="item-003"), ""]
    vectors = client.encode(queries)
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 0], atol=1e-5)
    (expected,) = retriever.encode([Query(item_names(300)[3])]).vectors
    np.testing.assert_allclose(vectors[2], expected, atol=1e-6)


def test_info_says_what_is_served(client: RetrievalClient, retriever: Retriever) -> None:
    info = client.info()
    assert info.bundle_version == retriever.manifest.bundle_version
    assert (info.name, info.dimension, info.item_count) == ("tiny", 32, 300)
    assert info.query_features == {"text": "text"}
    assert info.display_fields == ("name", "section")
    assert info.limits == RequestLimits()
    assert info.uptime_seconds > 0
    assert info.manifest["examples"] == list(retriever.manifest.examples)


def test_features_of_every_kind_reach_the_tower(full_client: RetrievalClient) -> None:
    features: list[dict[str, Any]] = [
        {},
        {"age": 30.0},
        {"country": "de"},
        {"country": "nowhere"},
        {"tags": ("new", "old")},
    ]
    vectors = full_client.encode([Query("ba", features=each) for each in features])
    assert len({vector.tobytes() for vector in vectors}) == len(features)
    assert full_client.info().query_features == {
        "text": "text",
        "country": "category",
        "tags": "category",
        "age": "number",
    }


def test_an_answer_may_be_larger_than_grpcs_own_bound(retriever: Retriever) -> None:
    with client_on(retriever, RequestLimits(max_hits=256 * 300, max_answer_bytes=8 << 20)) as client:
        answers = client.search_batch(["bake"] * 256, k=300, timeout=30)
    assert sum(len(answer.hits) for answer in answers) == 256 * 300


def test_health_knows_the_server_and_the_service(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", SERVICE):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    unknown = health_pb2.HealthCheckRequest(service="other")
    assert code_of(health.Check, unknown)[0] is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services_and_describes_them(channel: grpc.Channel) -> None:
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    listed, described = reflection.ServerReflectionInfo(iter(requests), timeout=5)
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {SERVICE, "grpc.health.v1.Health"}
    assert described.file_descriptor_response.file_descriptor_proto


def test_a_busy_port_is_an_error(retriever: Retriever, server: RetrievalServer) -> None:
    with pytest.raises(Unavailable, match=f"127.0.0.1:{server.port}: cannot listen"):
        RetrievalServer(retriever, configured(port=server.port))


class FailingMirror(TrafficMirror):
    """Takes everything, and fails."""

    def __init__(self) -> None:
        """Nothing is connected."""

        self._most = 10

    def samples(self) -> bool:
        return True

    def send(self, request: wire.SearchRequest, response: bytes) -> None:
        raise ValueError("the disk is full")


def test_a_mirror_that_fails_harms_no_search(retriever: Retriever, caplog: pytest.LogCaptureFixture) -> None:
    with client_on(retriever, mirror=FailingMirror(), retries=False) as client:
        assert len(client.search(item_names(1)[0], k=3).hits) == 3
        assert len(client.search(item_names(1)[0], k=3).hits) == 3
    assert "a search could not be mirrored to the shadow" in caplog.text
