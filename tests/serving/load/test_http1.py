"""The load over HTTP: what it counts, and that it looks at the answers."""

from collections.abc import Iterator

import pytest

from tests.helpers.serving.gateways import RunningGateway
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.load.http1 import HttpPool
from tests.load.load import Requests, closed_loop
from tests.load.workload import Workload, expected_answers
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

QUERIES = [Query(text=text) for text in ("bavuti", "xelike", "xebara", "bavuti xelike")]


@pytest.fixture(scope="module")
def gateway(server: RetrievalServer) -> Iterator[RunningGateway]:
    with run_gateway(server.address) as running:
        yield running


def test_answers_are_counted_and_compared(gateway: RunningGateway, retriever: Retriever) -> None:
    workload = Workload(QUERIES, 5, expected_answers(retriever, QUERIES, 5))
    address = f"127.0.0.1:{gateway.port}"
    result = closed_loop(address, workload.http_searches(), 4, 0.3, 0.1)
    assert result.offered == len(result.latencies) > 0
    assert result.rps == pytest.approx(len(result.latencies) / 0.3)
    assert (result.errors, workload.different) == ({}, 0)
    assert workload.checked > 0


def test_a_wrong_answer_is_noticed(gateway: RunningGateway) -> None:
    workload = Workload(QUERIES, 1, [[("item-unknown", 0.5)]] * len(QUERIES))
    closed_loop(f"127.0.0.1:{gateway.port}", workload.http_searches(), 1, 0.2, 0.0)
    assert workload.different == workload.checked > 0
    assert "item-unknown" in workload.first


def test_an_error_is_no_answer(gateway: RunningGateway) -> None:
    requests = Requests("/v1/search", [b'{"quer": {}}'], pool=HttpPool)
    result = closed_loop(f"127.0.0.1:{gateway.port}", requests, 2, 0.2, 0.0)
    assert result.rps == 0
    assert next(iter(result.errors)) == "HTTP 400"  # the gateway answers 429 after many invalid requests
    assert "did you mean query?" in result.messages["HTTP 400"]
