"""Closed and open loops on real servers: what they count, and from when."""

import re
import time
from collections import Counter
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import grpc
import pytest

from tests.helpers import query_generator
from tests.helpers.serving.grpc_servers import grpc_server
from tests.load import reference
from tests.load.load import closed_loop
from tests.load.open_loop import OfferedLoad, Segment, arrivals, open_loop
from tests.load.workload import Workload, expected_answers
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

pytestmark = pytest.mark.exhaustive

K = 5
PAUSE = 0.03  # seconds that the slow server takes for each request, one after the other


@pytest.fixture(scope="module")
def asked(retriever: Retriever) -> list[Query]:
    return query_generator.of_bundle(retriever.manifest, seed=0, max_queries=200)


@pytest.fixture
def expected(retriever: Retriever, asked: list[Query]) -> Workload:
    return Workload(asked, K, expected_answers(retriever, asked, K))


class Slow(retrieval_pb2_grpc.RetrievalServicer):
    def Search(self, request: wire.SearchRequest, context: grpc.ServicerContext) -> wire.SearchResponse:
        time.sleep(PAUSE)
        return wire.SearchResponse()


def slow(*options: tuple[str, int]) -> AbstractContextManager[str]:
    """The address of a server that answers one request after the other."""
    add = partial(retrieval_pb2_grpc.add_RetrievalServicer_to_server, Slow())
    return grpc_server(add, 1, options)


@pytest.mark.parametrize("clients", [1, 7])
def test_a_closed_loop_counts_and_compares(server: RetrievalServer, expected: Workload, clients: int) -> None:
    measured = closed_loop(server.address, expected.searches(), clients, 0.4, 0.1)
    assert measured.errors == {}
    assert measured.codes["OK"] == measured.offered == len(measured.latencies) > 0
    assert measured.rps == pytest.approx(measured.offered / 0.4)
    assert 0 < measured.percentile_us(50) <= measured.percentile_us(99)
    assert expected.checked > 0
    assert expected.different == 0


def test_another_answer_is_noticed(server: RetrievalServer, retriever: Retriever, asked: list[Query]) -> None:
    hits = expected_answers(retriever, asked, K)
    wrong = [[*each[:-1], ("item-unknown", each[-1][1] - 0.1)] for each in hits]
    for batch in (0, 32):
        compared = Workload(asked, K, wrong)
        requests = compared.batches(batch) if batch else compared.searches()
        closed_loop(server.address, requests, 1, 0.2, 0.0)
        assert compared.different == compared.checked > 0
        assert re.fullmatch(
            r"query \d+: place 5: item-\d+ with score [\d.]+, expected item-unknown with .*", compared.first
        )


@pytest.mark.parametrize("bundle", ["plain", "watched"])
def test_the_naive_server_answers_as_ours(bundle: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(bundle)
    retriever = Retriever.load(folder)
    asked = query_generator.of_bundle(retriever.manifest, seed=1, max_queries=100)
    compared = Workload(asked, K, expected_answers(retriever, asked, K))
    server, port = reference.start("naive", folder)
    measured = closed_loop(f"127.0.0.1:{port}", compared.searches(), 4, 0.4, 0.0)
    server.stop(None).wait()
    assert measured.errors == {}
    assert compared.checked > 4
    assert (compared.different, compared.first) == (0, "")


def test_arrivals_are_as_many_as_they_should_be_and_seeded() -> None:
    segments = (Segment(1000, 2.0), Segment(5000, 1.0))
    poisson = list(arrivals(OfferedLoad(segments), 10.0))
    assert poisson == sorted(poisson)
    assert 10.0 < poisson[0][0] <= poisson[-1][0] < 13.0
    assert all((due < 12.0) is (number == 0) for due, number in poisson)
    assert sum(number == 0 for _, number in poisson) == pytest.approx(2000, abs=5 * 45)
    assert sum(number == 1 for _, number in poisson) == pytest.approx(5000, abs=5 * 71)
    assert poisson == list(arrivals(OfferedLoad(segments), 10.0))
    assert poisson != list(arrivals(OfferedLoad(segments, seed=1), 10.0))


def test_an_open_loop_offers_what_it_should(server: RetrievalServer, expected: Workload) -> None:
    offer = OfferedLoad((Segment(100, 0.2), Segment(300, 0.4)), deadline=20.0, connections=3)
    first, second = open_loop(server.address, expected.searches(), offer)
    due = Counter(number for _, number in arrivals(offer, 0.0))
    assert (first.offered, second.offered) == (due[0], due[1])
    assert (first.errors, second.errors) == ({}, {})
    assert first.codes["OK"] + second.codes["OK"] == first.offered + second.offered
    assert len(second.latencies) + len(second.left_over) == second.offered
    assert expected.checked > 0
    assert expected.different == 0


def test_latency_counts_from_when_a_request_should_have_been_sent() -> None:
    requests = Workload([Query(text="a")], K, None).searches()
    offer = OfferedLoad((Segment(150, 0.3),), deadline=20.0, connections=2)
    with slow() as address:
        (measured,) = open_loop(address, requests, offer)
        closed = closed_loop(address, requests, 1, 0.5, 0.0)  # which never learns of the waits
    assert measured.errors == {}
    # The server takes each PAUSE after the one before, so the last waits for them all.
    expected = measured.offered * PAUSE - 0.3
    assert max(measured.left_over) >= expected > 0.5
    assert len(measured.latencies) < len(measured.left_over)  # most come after the time that is measured
    assert min(closed.latencies) < 0.5


def test_a_request_waits_where_the_server_allows_no_more() -> None:
    requests = Workload([Query(text="a")], K, None).searches()
    offer = OfferedLoad((Segment(100, 0.4),), deadline=0.5, connections=1)
    with slow(("grpc.max_concurrent_streams", 1)) as address:
        (measured,) = open_loop(address, requests, offer)
    assert set(measured.codes) == {"OK", "DEADLINE_EXCEEDED"}
    assert measured.codes.total() == measured.offered
