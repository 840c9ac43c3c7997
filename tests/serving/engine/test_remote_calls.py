"""Calls whose items are on another server: the loop goes on, errors and deadlines stay with their calls."""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import StatusCode

from tests.helpers.answers import hits_of
from tests.helpers.scores import difference
from tests.helpers.serving.far import FarCollection, serving_far
from tests.helpers.serving.reacting import soon
from tests.helpers.tiny import FILTERS, item_names, tiny_bundle
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.errors import Unavailable
from twinspire.protos.vector_databases.items import Vectors
from twinspire.serving.engine import remote_calls
from twinspire.serving.engine.call import UnaryCall
from twinspire.serving.filters.expression import where
from twinspire.serving.retrieval.event_reading import ResolvedQuery
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.segments.remote import SECONDS

NAMES = item_names(300)
MANY = NAMES[:250]  # queries of one call, more than a batch
BELOW = wire.Filter(
    condition=wire.Condition(field="price", range=wire.Range(below=wire.FilterValue(number=30.0)))
)


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    exact = IndexParameters("ip", 8, 64, 64, 0, exact=True)
    return Retriever.load(tiny_bundle(tmp_path_factory.mktemp("near"), index=exact, filters=FILTERS))


@pytest.fixture
def far(near: Retriever) -> Iterator[FarCollection]:
    made = FarCollection(near)
    yield made
    made.allowed.set()


def request(name: str, k: int = 3, **more: Any) -> wire.SearchRequest:
    return wire.SearchRequest(query={"text": name}, k=k, **more)


def differs(near: Retriever, found: Any, name: str, k: int = 3, **more: Any) -> str:
    """What an answer has that the same items here do not give; empty if nothing."""
    (expected,) = near.search([Query(name)], k, **more)
    return difference(hits_of(expected), [(hit.id, hit.score) for hit in found.hits])


def ids(near: Retriever, name: str, k: int = 3) -> list[str]:
    return [hit.id for hit in near.search([Query(name)], k)[0].hits]


def refused(future: Any) -> tuple[StatusCode, str]:
    error = future.exception()
    return error.code(), error.details()


def test_answers_are_those_of_the_same_items_here(near: Retriever, far: FarCollection) -> None:
    with serving_far(near, far) as (_, stub):
        for k in (1, 3, 17, 250):
            for name in NAMES[:5]:
                found = stub.Search(request(name, k), timeout=10)
                assert differs(near, found, name, k) == ""
        assert dict(found.hits[0].fields) == near.search([Query(name)], 1)[0].hits[0].fields
        filtered = stub.Search(request(NAMES[0], 10, filter=BELOW), timeout=10)
        assert differs(near, filtered, NAMES[0], 10, filter=where.price < 30) == ""
        assert filtered.plan == wire.PLAN_GRAPH
        long = stub.SearchBatch(
            wire.SearchBatchRequest(queries=[{"text": name} for name in MANY], k=5), timeout=20
        )
        assert not any(differs(near, each, name, 5) for each, name in zip(long.results, MANY, strict=True))
        streamed = stub.SearchStream(iter([request(name) for name in NAMES[:50]]), timeout=20)
        assert not any(differs(near, each, name) for each, name in zip(streamed, NAMES[:50], strict=True))
        excluded = stub.Search(request(NAMES[0], exclude=ids(near, NAMES[0])), timeout=10)
        assert [hit.id for hit in excluded.hits] == ids(near, NAMES[0], 6)[3:]


def test_items_as_queries_and_scores_are_read_from_the_server(near: Retriever, far: FarCollection) -> None:
    like = wire.SearchRequest(query={"item_id": "item-007"}, k=4)
    scored = wire.ScoreRequest(queries=[{"query": {"text": NAMES[2]}, "item_ids": ["item-002", "none"]}])
    with serving_far(near, far) as (_, stub):
        found = stub.Search(like, timeout=10)
        expected = near.search([Query(item_id="item-007")], 4)[0]
        assert difference(hits_of(expected), [(hit.id, hit.score) for hit in found.hits]) == ""
        several = wire.SearchBatchRequest(queries=[{"item_id": "item-007"}, {"text": NAMES[1]}], k=5)
        first, second = stub.SearchBatch(several, timeout=10).results
        assert far.searches[-1][:2] == (2, 8)  # together, though the item itself is left out of one
        expected = near.search([Query(item_id="item-007")], 5)[0]
        assert difference(hits_of(expected), [(hit.id, hit.score) for hit in first.hits]) == ""
        assert differs(near, second, NAMES[1], 5) == ""
        (one,) = stub.Encode(wire.EncodeRequest(queries=[{"item_id": "item-007"}]), timeout=10).vectors
        np.testing.assert_allclose(one.values, near.built.vectors([7])[0], atol=1e-6)
        (scores,) = stub.Score(scored, timeout=10).results
        (known, _) = near.scores(near.encode([Query(NAMES[2])]).vectors[0], ["item-002", "none"])
        assert [each.HasField("score") for each in scores.scores] == [True, False]
        assert scores.scores[0].score == pytest.approx(known, abs=1e-5)
        unknown = stub.Search.future(wire.SearchRequest(query={"item_id": "none"}, k=4), timeout=10)
        code, text = refused(unknown)
        assert code is StatusCode.NOT_FOUND and text.startswith("query.item_id: the catalogue holds no item")
        streamed = [*stub.SearchStream(iter([like, request(NAMES[0]), like]), timeout=20)]
        assert [len(each.hits) for each in streamed] == [4, 3, 4]


def test_what_the_events_of_a_user_exclude_is_left_out(near: Retriever, far: FarCollection) -> None:
    best = ids(near, NAMES[0], 5)

    def resolve(queries: Sequence[Query], _: Any, __: bool, ___: int, then: Callable[[Any], Any]) -> Any:
        return then([ResolvedQuery(replace(each, user=None), tuple(best[:2])) for each in queries])

    queries = [{"text": NAMES[0], "user": "ann"}, {"item_id": best[2], "user": "ann"}]
    with serving_far(near, far, resolve_users=resolve) as (_, stub):
        found = stub.SearchBatch(wire.SearchBatchRequest(queries=queries, k=3), timeout=10)
    by_text, by_item = ([hit.id for hit in each.hits] for each in found.results)
    assert by_text == best[2:]
    similar = near.search([Query(item_id=best[2])], 5)[0].hits
    assert by_item == [hit.id for hit in similar if hit.id not in best[:2]][:3]


def test_other_methods_and_searches_go_on_while_one_waits(near: Retriever, far: FarCollection) -> None:
    far.allowed.clear()
    with serving_far(near, far) as (_, stub):
        waiting = [stub.Search.future(request(name), timeout=30) for name in NAMES[:8]]
        item = stub.Search.future(wire.SearchRequest(query={"item_id": "item-007"}, k=4), timeout=30)
        long = stub.SearchBatch.future(
            wire.SearchBatchRequest(queries=[{"text": name} for name in MANY], k=5), timeout=30
        )
        assert soon(lambda: len(far.searches) >= 9)
        for _ in range(20):
            assert stub.Info(wire.InfoRequest(), timeout=30).item_count == 300
            assert stub.Encode(wire.EncodeRequest(queries=[{"text": NAMES[0]}]), timeout=30).vectors
        assert not any(each.done() for each in [*waiting, item, long])
        far.allowed.set()
        for name, each in zip(NAMES, waiting, strict=False):
            assert differs(near, each.result(), name) == ""
        assert len(item.result().hits) == 4
        assert len(long.result().results) == len(MANY)


def test_a_client_learns_within_its_deadline_and_others_still_get_answers(
    near: Retriever, far: FarCollection
) -> None:
    far.allowed.clear()
    with serving_far(near, far) as (_, stub):
        patient = stub.Search.future(request(NAMES[1]), timeout=30)
        hasty = stub.Search.future(request(NAMES[0]), timeout=3.0)
        assert refused(hasty) == (StatusCode.UNAVAILABLE, "the far server does not answer")
        assert not patient.done()
        far.allowed.set()
        assert differs(near, patient.result(), NAMES[1]) == ""
    assert sorted(round(seconds) for _, _, seconds in far.searches) == [3, SECONDS]


def test_an_error_of_one_query_is_of_its_call_alone(near: Retriever, far: FarCollection) -> None:
    bad = near.encode([Query(NAMES[0])]).vectors[0]

    def fails(vectors: Vectors) -> None:
        if any(np.allclose(vector, bad) for vector in vectors):
            raise ArithmeticError("it cannot be searched")

    far.fails = fails
    with serving_far(near, far) as (_, stub):
        calls = [stub.Search.future(request(name), timeout=20) for name in NAMES[:5]]
        assert calls[0].exception().code() is StatusCode.INTERNAL
        for name, each in zip(NAMES[1:], calls[1:], strict=False):
            assert differs(near, each.result(), name) == ""


def test_a_server_that_is_down_is_told_and_what_needs_no_search_is_answered(
    near: Retriever, far: FarCollection
) -> None:
    def fails(vectors: Vectors) -> None:
        raise Unavailable("the far server is down")

    far.fails = fails
    with serving_far(near, far) as (_, stub):
        calls = [stub.Search.future(request(name), timeout=20) for name in NAMES[:5]]
        many = wire.SearchBatchRequest(queries=[{"text": name} for name in MANY], k=5)
        calls.append(stub.SearchBatch.future(many, timeout=20))
        for each in calls:
            assert refused(each) == (StatusCode.UNAVAILABLE, "the far server is down")
        unknown = stub.Search(wire.SearchRequest(query={"text": ""}, k=3), timeout=20)
        assert (unknown.basis, len(unknown.hits)) == (wire.BASIS_NONE, 0)
        assert stub.Encode(wire.EncodeRequest(queries=[{"text": NAMES[1]}]), timeout=20).vectors
        far.fails = lambda vectors: None
        assert differs(near, stub.Search(request(NAMES[3]), timeout=20), NAMES[3]) == ""


def test_more_searches_than_may_wait_are_refused(
    near: Retriever, far: FarCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_calls, "MAX_QUERIES", 4)
    far.allowed.clear()
    with serving_far(near, far) as (_, stub):
        waiting = []
        for n, name in enumerate(NAMES[:4]):
            waiting.append(stub.Search.future(request(name), timeout=30))
            assert soon(lambda n=n: len(far.searches) == n + 1)  # type: ignore[misc]
        with pytest.raises(grpc.RpcError) as caught:
            stub.Search(request(NAMES[5]), timeout=10)
        assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
        far.allowed.set()
        assert all(each.result().hits for each in waiting)
        assert stub.Search(request(NAMES[5]), timeout=10).hits


def test_a_client_that_goes_leaves_nothing_behind(
    near: Retriever, far: FarCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_calls, "THREADS", 1)
    far.allowed.clear()
    with serving_far(near, far) as (served, stub):
        gone = [stub.Search.future(request(name), timeout=30) for name in NAMES[:3]]
        assert soon(lambda: len(far.searches) == 1)
        for each in gone:
            each.cancel()
        assert served.becomes("in_flight", 0)
        far.allowed.set()
        assert stub.Search(request(NAMES[4]), timeout=10).hits
    assert len(far.searches) == 2  # the calls that had not begun were never asked for


def test_a_call_is_freed_as_soon_as_it_is_answered(near: Retriever, far: FarCollection) -> None:
    """gRPC counts its stream until then, and refuses more than a connection may have."""
    like = wire.SearchRequest(query={"item_id": "item-007"}, k=4)
    scored = wire.ScoreRequest(queries=[{"query": {"text": NAMES[2]}, "item_ids": ["item-002"]}])
    with serving_far(near, far) as (served, stub):
        stub.Search(like, timeout=10)
        gc.collect()
        gc.disable()
        try:
            for name in NAMES[:5]:
                stub.Search(request(name), timeout=10)
                stub.Search(like, timeout=10)
                stub.Score(scored, timeout=10)
            assert served.becomes("in_flight", 0)
            assert soon(lambda: sum(isinstance(each, UnaryCall) for each in gc.get_objects()) < 3)
        finally:
            gc.enable()


@pytest.mark.parametrize("k", [5, 100])
def test_a_search_that_misses_items_is_made_again_exactly(
    near: Retriever, far: FarCollection, k: int
) -> None:
    far.misses = 2
    with serving_far(near, far) as (_, stub):
        assert differs(near, stub.Search(request(NAMES[0], k), timeout=10), NAMES[0], k) == ""
        found = stub.Search(request(NAMES[0], k, filter=BELOW), timeout=10)
        assert differs(near, found, NAMES[0], k, filter=where.price < 30) == ""


def test_more_items_than_the_server_returns_are_refused(near: Retriever, far: FarCollection) -> None:
    with serving_far(near, far) as (_, stub):
        code, text = refused(stub.Search.future(request(NAMES[0], 260), timeout=10))
    assert code is StatusCode.INVALID_ARGUMENT and "expected at most 256" in text
