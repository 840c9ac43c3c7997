"""Searches that another server answers: the loop goes on, errors and deadlines stay with their calls."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import StatusCode

from protos import retrieval_pb2 as wire
from protos import retrieval_pb2_grpc
from protos.bundle import IndexParameters
from protos.errors import Unavailable
from protos.scores import difference
from serving.retrieval import remote_search
from serving.retrieval.query import Query
from serving.retrieval.remote_search import Best, ExpressionRefused, OutOfTime
from serving.retrieval.retriever import Retriever
from serving.retrieval.vector_index import Allowed, Neighbours, VectorIndex, Vectors
from serving.transport import remote_batches
from tests.helpers.answers import hits_of
from tests.helpers.serving.reacting import reacting, soon
from tests.helpers.tiny import item_names, tiny_bundle

NAMES = item_names(300)
SOME = NAMES[:100]  # calls at once
MANY = NAMES[:250]  # queries of one call, more than a batch


class FarIndex(VectorIndex):
    """An index whose searches another thread answers when a test allows it."""

    def __init__(self, base: VectorIndex) -> None:
        self._base = base
        self.allowed = threading.Event()
        self.allowed.set()
        self.questions: list[tuple[int, int, float]] = []  # queries, k, seconds
        self.fails: Callable[[Vectors], None] = lambda vectors: None

    @property
    def count(self) -> int:
        return self._base.count

    def search(self, vectors: Vectors, k: int, allowed: Allowed | None = None) -> Neighbours:
        answers = remote_search.answers_of_thread()
        if answers is None or allowed is not None:
            return self._base.search(vectors, k, allowed)
        best = answers.best(self, vectors, min(k, self.count), "")
        return Neighbours(np.stack([rows for rows, _ in best]), np.stack([scores for _, scores in best]))

    def exact(self, vectors: Vectors, k: int, allowed: Allowed | None = None) -> Neighbours:
        return self._base.exact(vectors, k, allowed)

    def vectors(self, rows: Any) -> Vectors:
        return self._base.vectors(rows)

    def ask(self, vectors: Vectors, k: int, expression: str, seconds: float) -> list[Best]:
        assert not expression, ExpressionRefused
        self.questions.append((len(vectors), k, seconds))
        self.fails(vectors)
        if not self.allowed.wait(seconds):
            raise OutOfTime("the far index does not answer")
        return [*zip(*self._base.search(vectors, k), strict=True)]


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    exact = IndexParameters("ip", 8, 64, 64, 0, exact=True)
    return Retriever.load(tiny_bundle(tmp_path_factory.mktemp("near"), index=exact))


@pytest.fixture
def index(near: Retriever) -> Iterator[FarIndex]:
    made = FarIndex(near.index)
    yield made
    made.allowed.set()


@contextmanager
def serving(near: Retriever, index: FarIndex) -> Iterator[tuple[Any, Any]]:
    """A server on the far index, and a stub of it."""
    parameters = replace(near.manifest.index, kind="milvus", exact=False)
    manifest = replace(near.manifest, index=parameters)
    far = Retriever(manifest, near._encoder, index, near.catalogue, near.filters)
    with reacting(far) as served, grpc.insecure_channel(served.address) as channel:
        yield served, retrieval_pb2_grpc.RetrievalStub(channel)


def request(name: str, k: int = 3, **more: Any) -> wire.SearchRequest:
    return wire.SearchRequest(query={"text": name}, k=k, **more)


def differs(near: Retriever, found: Any, name: str, k: int = 3) -> str:
    """What an answer has that the same index nearby does not find; empty if nothing."""
    return difference(hits_of(near.search([Query(name)], k)[0]), [(hit.id, hit.score) for hit in found.hits])


def ids(near: Retriever, name: str, k: int = 3) -> list[str]:
    return [hit.id for hit in near.search([Query(name)], k)[0].hits]


def test_answers_are_those_of_the_same_index_nearby(near: Retriever, index: FarIndex) -> None:
    with serving(near, index) as (served, stub):
        for k in (1, 3, 17, 300):
            for name in NAMES[:5]:
                found = stub.Search(request(name, k), timeout=10)
                assert differs(near, found, name, k) == ""
        calls = [stub.Search.future(request(name, 3 + n % 20), timeout=10) for n, name in enumerate(SOME)]
        for n, (name, each) in enumerate(zip(SOME, calls, strict=True)):
            assert differs(near, each.result(), name, 3 + n % 20) == ""
        long = stub.SearchBatch(
            wire.SearchBatchRequest(queries=[{"text": name} for name in MANY], k=5), timeout=20
        )
        assert not any(differs(near, each, name, 5) for each, name in zip(long.results, MANY, strict=True))
        streamed = stub.SearchStream(iter([request(name) for name in NAMES[:50]]), timeout=20)
        assert not any(differs(near, each, name) for each, name in zip(streamed, NAMES[:50], strict=True))
        excluded = stub.Search(request(NAMES[0], exclude=ids(near, NAMES[0])), timeout=10)
        assert [hit.id for hit in excluded.hits] == ids(near, NAMES[0], 6)[3:]
        assert served.becomes("in_flight", 0)
    assert max(queries for queries, _, _ in index.questions) > 1  # queries that wait are asked together


def test_other_methods_and_searches_go_on_while_one_waits(near: Retriever, index: FarIndex) -> None:
    index.allowed.clear()
    with serving(near, index) as (served, stub):
        waiting = [stub.Search.future(request(name), timeout=30) for name in NAMES[:8]]
        long = stub.SearchBatch.future(
            wire.SearchBatchRequest(queries=[{"text": name} for name in MANY], k=5), timeout=30
        )
        assert soon(lambda: len(index.questions) >= 2)
        started = time.monotonic()
        for _ in range(20):
            assert stub.Info(wire.InfoRequest(), timeout=5).item_count == 300
            assert stub.Encode(wire.EncodeRequest(queries=[{"text": NAMES[0]}]), timeout=5).vectors
        assert time.monotonic() - started < 3.0
        assert not any(each.done() for each in [*waiting, long])
        index.allowed.set()
        for name, each in zip(NAMES, waiting, strict=False):
            assert differs(near, each.result(), name) == ""
        assert len(long.result().results) == len(MANY)
        assert served.becomes("in_flight", 0)


def test_a_client_learns_within_its_deadline_and_others_still_get_answers(
    near: Retriever, index: FarIndex
) -> None:
    index.allowed.clear()
    with serving(near, index) as (served, stub):
        with grpc.insecure_channel(served.address) as other, served.held(other):  # both get into one batch
            patient = stub.Search.future(request(NAMES[1]), timeout=30)
            hasty = stub.Search.future(request(NAMES[0]), timeout=3.0)
        error = hasty.exception()
        assert (error.code(), error.details()) == (StatusCode.UNAVAILABLE, "the far index does not answer")
        assert not patient.done()
        index.allowed.set()
        assert differs(near, patient.result(), NAMES[1]) == ""
        assert served.becomes("in_flight", 0)


def test_an_error_of_one_query_is_of_its_call_alone(near: Retriever, index: FarIndex) -> None:
    bad = near.encode([Query(NAMES[0])]).vectors[0]

    def fails(vectors: Vectors) -> None:
        if any(np.allclose(vector, bad) for vector in vectors):
            raise ArithmeticError("it cannot be searched")

    index.fails = fails
    with serving(near, index) as (served, stub):
        with grpc.insecure_channel(served.address) as other, served.held(other):
            calls = [stub.Search.future(request(name), timeout=20) for name in NAMES[:5]]
        assert calls[0].exception().code() is StatusCode.INTERNAL
        for name, each in zip(NAMES[1:], calls[1:], strict=False):
            assert differs(near, each.result(), name) == ""


def test_a_server_that_is_down_is_told(near: Retriever, index: FarIndex) -> None:
    def fails(vectors: Vectors) -> None:
        raise Unavailable("the far index is down")

    index.fails = fails
    with serving(near, index) as (served, stub):
        calls = [stub.Search.future(request(name), timeout=20) for name in NAMES[:5]]
        many = wire.SearchBatchRequest(queries=[{"text": name} for name in MANY], k=5)
        calls.append(stub.SearchBatch.future(many, timeout=20))
        for each in calls:
            assert each.exception().code() is StatusCode.UNAVAILABLE
            assert each.exception().details() == "the far index is down"
        index.fails = lambda vectors: None
        assert differs(near, stub.Search(request(NAMES[3]), timeout=20), NAMES[3]) == ""
        assert served.becomes("in_flight", 0)


def test_more_searches_than_may_wait_are_refused(
    near: Retriever, index: FarIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_batches, "MOST_QUERIES", 4)
    index.allowed.clear()
    with serving(near, index) as (served, stub):
        waiting = []
        for n, name in enumerate(NAMES[:4]):
            waiting.append(stub.Search.future(request(name), timeout=30))
            assert soon(lambda n=n: len(index.questions) == n + 1)  # type: ignore[misc]
        with pytest.raises(grpc.RpcError) as caught:
            stub.Search(request(NAMES[5]), timeout=10)
        assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
        index.allowed.set()
        assert all(each.result().hits for each in waiting)
        assert stub.Search(request(NAMES[5]), timeout=10).hits
        assert served.becomes("in_flight", 0)


def test_a_client_that_goes_leaves_nothing_behind(near: Retriever, index: FarIndex) -> None:
    index.allowed.clear()
    with serving(near, index) as (served, stub):
        gone = stub.Search.future(request(NAMES[0]), timeout=30)
        assert soon(lambda: len(index.questions) == 1)
        gone.cancel()
        assert served.becomes("in_flight", 0)
        index.allowed.set()
        assert stub.Search(request(NAMES[1]), timeout=10).hits


def test_nothing_is_asked_before_a_fork(near: Retriever, tmp_path: Path) -> None:
    with remote_search.local_only():
        assert remote_search.is_local_only()
    assert not remote_search.is_local_only()
