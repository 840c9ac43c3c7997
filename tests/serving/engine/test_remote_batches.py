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

from tests.helpers.answers import hits_of
from tests.helpers.scores import difference
from tests.helpers.serving.reacting import reacting, soon
from tests.helpers.tiny import FILTERS, item_names, tiny_bundle
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.errors import Overloaded, Unavailable
from twinspire.serving.engine import remote_batches
from twinspire.serving.engine.admission import Admission
from twinspire.serving.engine.batching import Batcher, Job, kind
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.engine.remote_batches import RemoteBatches
from twinspire.serving.filters.compiled import CompiledFilter
from twinspire.serving.filters.expression import where
from twinspire.serving.filters.passing_rows import PassingRows
from twinspire.serving.index import remote_search
from twinspire.serving.index.remote_search import Best, OutOfTime
from twinspire.serving.index.vector_index import Neighbours, Rows, VectorIndex, Vectors
from twinspire.serving.retrieval.query import NO_SEARCH, Query, SearchOptions
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.segments.built import BuiltSegment
from twinspire.serving.wire.status import ClientGone, Code

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
        self.filters: dict[str, PassingRows] = {}  # by expression
        self.compared: list[int] = []  # queries of each comparison
        self.takes_filters = False  # otherwise all items that pass are compared

    @property
    def count(self) -> int:
        return self._base.count

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        answers = remote_search.answers_of_thread()
        if answers is None:
            return self._base.search(vectors, k)
        best = answers.best(self, vectors, min(k, self.count), "")
        return Neighbours(np.stack([rows for rows, _ in best]), np.stack([scores for _, scores in best]))

    def search_filtered(self, vectors: Vectors, k: int, compiled: Any) -> Neighbours | None:
        answers = remote_search.answers_of_thread()
        if answers is None or not self.takes_filters:
            return None
        self.filters[expression := repr(compiled.expression)] = compiled
        best = answers.best(self, vectors, k, expression)
        return Neighbours(np.stack([rows for rows, _ in best]), np.stack([scores for _, scores in best]))

    def exact(self, vectors: Vectors, k: int, rows: Rows | None = None) -> Neighbours:
        def compare(some: Vectors, width: int) -> Neighbours:
            self.compared.append(len(some))
            assert self.allowed.wait(30)
            return self._base.exact(some, width, rows)

        some_rows = np.arange(self.count) if rows is None else rows
        items = some_rows.tobytes().hex()
        return Neighbours(*remote_search.compared(compare, vectors, k, len(some_rows), items))

    def vectors(self, rows: Any) -> Vectors:
        return self._base.vectors(rows)

    def ask(self, vectors: Vectors, k: int, expression: str, seconds: float) -> list[Best]:
        rows = self.filters[expression].rows if expression else None
        self.questions.append((len(vectors), k, seconds))
        self.fails(vectors)
        if not self.allowed.wait(seconds):
            raise OutOfTime("the far index does not answer")
        return [*zip(*self._base.exact(vectors, k, rows), strict=True)]


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    exact = IndexParameters("ip", 8, 64, 64, 0, exact=True)
    return Retriever.load(tiny_bundle(tmp_path_factory.mktemp("near"), index=exact, filters=FILTERS))


@pytest.fixture
def index(near: Retriever) -> Iterator[FarIndex]:
    made = FarIndex(near.built.index)
    yield made
    made.allowed.set()


@contextmanager
def serving(near: Retriever, index: FarIndex) -> Iterator[tuple[Any, Any]]:
    """A server on the far index, and a stub of it."""
    parameters = replace(near.manifest.index, kind="milvus", exact=False)
    manifest = replace(near.manifest, index=parameters)
    built = BuiltSegment(manifest, index, near.built.catalogue, near.built.columns)
    far = Retriever(near._query_encoder.tower, built)
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
        for _ in range(20):
            assert stub.Info(wire.InfoRequest(), timeout=30).item_count == 300
            assert stub.Encode(wire.EncodeRequest(queries=[{"text": NAMES[0]}]), timeout=30).vectors
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
    monkeypatch.setattr(remote_batches, "MAX_QUERIES", 4)
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


def price_below(price: float) -> wire.Filter:
    limit = wire.Range(below=wire.FilterValue(number=price))
    return wire.Filter(condition=wire.Condition(field="price", range=limit))


@pytest.fixture
def pushes(index: FarIndex) -> None:
    """The index is asked for the items that pass a filter."""
    index.takes_filters = True


def batch_of(served: Any, *calls: Callable[[], Any]) -> list[Any]:
    """Begin calls that get into one batch."""
    with grpc.insecure_channel(served.address) as other, served.held(other):
        return [call() for call in calls]


def test_what_needs_no_search_is_answered_in_a_batch_that_waits(near: Retriever, index: FarIndex) -> None:
    index.allowed.clear()
    scored = wire.ScoreRequest(queries=[{"query": {"text": NAMES[2]}, "item_ids": ["item-002"]}])
    with serving(near, index) as (served, stub):
        search, encode, score = batch_of(
            served,
            lambda: stub.Search.future(request(NAMES[0]), timeout=30),
            lambda: stub.Encode.future(wire.EncodeRequest(queries=[{"text": NAMES[1]}]), timeout=30),
            lambda: stub.Score.future(scored, timeout=30),
        )
        assert soon(lambda: encode.done() and score.done())
        assert encode.result().vectors
        assert score.result().results
        assert not search.done()
        assert index.questions[0][0] == 1  # only the search asks
        index.allowed.set()
        assert differs(near, search.result(), NAMES[0]) == ""
        assert served.becomes("in_flight", 0)


def test_what_needs_no_search_is_answered_while_the_server_is_down(near: Retriever, index: FarIndex) -> None:
    def fails(vectors: Vectors) -> None:
        raise Unavailable("the far index is down")

    index.fails = fails
    popular = wire.SearchRequest(query={"text": ""}, k=3)  # the tower knows nothing of it
    with serving(near, index) as (served, stub):
        search, encode, blank = batch_of(
            served,
            lambda: stub.Search.future(request(NAMES[0]), timeout=20),
            lambda: stub.Encode.future(wire.EncodeRequest(queries=[{"text": NAMES[1]}]), timeout=20),
            lambda: stub.Search.future(popular, timeout=20),
        )
        assert search.exception().code() is StatusCode.UNAVAILABLE
        assert encode.result().vectors
        assert blank.result().basis == wire.BASIS_POPULAR
        assert len(blank.result().hits) == 3


def test_many_filters_in_a_batch_are_answered(near: Retriever, index: FarIndex, pushes: None) -> None:
    prices = [10.0 + n for n in range(2 * remote_batches.MAX_ROUNDS)]
    with serving(near, index) as (served, stub):
        calls = batch_of(
            served,
            *[
                lambda n=n, price=price: stub.Search.future(
                    request(NAMES[n], filter=price_below(price)), timeout=20
                )
                for n, price in enumerate(prices)
            ],
        )
        found = [each.result() for each in calls]
        assert len(index.questions) == len(prices)
        assert {each.plan for each in found} == {wire.PLAN_GRAPH}
        for name, price, each in zip(NAMES, prices, found, strict=False):
            wanted = near.search([Query(name)], 3, filter=where.price < price)[0]
            assert difference(hits_of(wanted), [(hit.id, hit.score) for hit in each.hits]) == ""


class Asked:
    """`RemoteBatches` without an event loop: a test calls what the loop would call soon."""

    def __init__(self, near: Retriever, index: FarIndex) -> None:
        parameters = replace(near.manifest.index, kind="milvus", exact=False)
        manifest = replace(near.manifest, index=parameters)
        built = BuiltSegment(manifest, index, near.built.catalogue, near.built.columns)
        self.far = Retriever(near._query_encoder.tower, built)
        self.soon: list[Callable[[], None]] = []
        self.waits: set[Any] = set()
        self.batcher = Batcher()
        self.remote = RemoteBatches(self.soon.append, self.waits.add, self.waits.discard)
        self.batcher.remote = self.remote
        self.done: list[Job] = []

    def submit(self, *names: str, seconds: float = 60.0, options: SearchOptions | None = None) -> Job:
        prepared = [self.far.prepare(Query(name)) for name in names]
        job = Job(self.far, prepared, options or SearchOptions(3), lambda job: job)
        job.arrived, job.deadline = time.perf_counter_ns(), time.time() + seconds
        job.check, job.done = lambda stage: None, self.done.append
        self.batcher.submit(job)
        return job

    def go_on(self, count: int = 1) -> None:
        """Wait for answers, and hand them over."""
        for _ in range(count):
            assert soon(lambda: bool(self.soon))
            self.soon.pop(0)()


@pytest.fixture
def asked(near: Retriever, index: FarIndex) -> Iterator[Asked]:
    made = Asked(near, index)
    yield made
    made.remote.stop()


def test_a_job_without_a_client_does_not_shorten_a_question(asked: Asked, index: FarIndex) -> None:
    gone, waits = asked.submit(NAMES[0], seconds=-1.0), asked.submit(NAMES[1])

    def check(stage: str) -> None:
        if stage == "search":
            raise ClientGone(Code.DEADLINE_EXCEEDED, stage)

    gone.check = check
    asked.batcher.answer()
    asked.go_on()
    assert isinstance(gone.error, ClientGone)
    assert (waits.error, len(waits.found[0].rows)) == (None, 3)
    assert index.questions[0][2] == pytest.approx(remote_batches.SECONDS, abs=1.0)


def test_a_job_whose_time_is_over_fails_alone(asked: Asked, index: FarIndex) -> None:
    late, waits = asked.submit(NAMES[0], seconds=-1.0), asked.submit(NAMES[1])
    asked.batcher.answer()
    asked.go_on()
    assert (late.error.__class__, str(late.error)) == (
        Unavailable,
        "the search on the server of the index has no time left",
    )
    assert (waits.error, len(waits.found[0].rows)) == (None, 3)
    assert sorted(map(id, asked.done)) == sorted(map(id, (late, waits)))


def test_a_question_that_waited_for_a_thread_fails_only_those_without_time(
    asked: Asked, index: FarIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_batches, "THREADS", 1)
    index.allowed.clear()
    first = asked.submit(NAMES[0])
    asked.batcher.answer()
    assert soon(lambda: len(index.questions) == 1)
    hasty, patient = asked.submit(NAMES[1], seconds=1.0), asked.submit(NAMES[2])
    asked.batcher.answer()
    assert soon(lambda: time.time() > hasty.deadline)
    index.allowed.set()
    asked.go_on(3)
    assert isinstance(hasty.error, Unavailable)
    for job in (first, patient):
        assert (job.error, len(job.found[0].rows)) == (None, 3)


def test_a_server_that_never_has_enough_time_is_told_in_the_end(asked: Asked, index: FarIndex) -> None:
    def fails(vectors: Vectors) -> None:
        raise OutOfTime("the far index is slow")

    index.fails = fails
    job = asked.submit(NAMES[0])
    asked.batcher.answer()
    asked.go_on(remote_batches.MAX_ROUNDS)
    assert (type(job.error), str(job.error)) == (Unavailable, "the far index is slow")


def test_calls_get_an_error_if_no_thread_can_ask(asked: Asked, index: FarIndex) -> None:
    first = asked.submit(NAMES[0])
    asked.batcher.answer()
    asked.go_on()
    asked.remote.stop()
    jobs = [asked.submit(name) for name in NAMES[1:3]]
    asked.batcher.answer()
    assert asked.done == [first, *jobs]
    assert all(isinstance(job.error, RuntimeError) and not job.held for job in jobs)
    assert (asked.remote.queries, asked.waits) == (0, set())


def test_calls_get_an_error_if_their_results_cannot_be_delivered(
    asked: Asked, index: FarIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [asked.submit(name) for name in NAMES[:2]]
    asked.batcher.answer()

    class Broken:
        def batch(self, *worked: int) -> None:
            raise ZeroDivisionError

    monkeypatch.setattr(asked.batcher, "_observer", Broken())
    asked.go_on()
    assert asked.done == jobs
    assert all(isinstance(job.error, ZeroDivisionError) for job in jobs)


def test_searches_without_room_are_refused_before_they_are_encoded(
    asked: Asked, index: FarIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_batches, "MAX_QUERIES", 2)
    index.allowed.clear()
    encoded: list[int] = []
    encode = asked.far.encode_prepared

    def counted(prepared: Any, started: int) -> Any:
        encoded.append(len(prepared))
        return encode(prepared, started)

    monkeypatch.setattr(asked.far, "encode_prepared", counted)
    kept = [asked.submit(name) for name in NAMES[:2]]
    refused, vectors = asked.submit(NAMES[2]), asked.submit(NAMES[3], options=NO_SEARCH)
    asked.batcher.answer()
    assert encoded == [3]
    assert isinstance(refused.error, Overloaded)
    assert asked.done == [refused, vectors]
    assert vectors.error is None
    index.allowed.set()
    asked.go_on()
    assert asked.done[2:] == kept
    assert [job.error for job in kept] == [None, None]


def test_a_long_job_that_waits_takes_room(asked: Asked, index: FarIndex) -> None:
    index.allowed.clear()
    job = asked.submit(*MANY)
    asked.batcher.answer()
    assert soon(lambda: len(index.questions) == 1)
    first = index.questions[0][0]
    assert (asked.batcher.queries, asked.batcher.long.queries) == (0, 0)
    admission = Admission(WorkerLimits(queue=len(MANY), backlog=len(MANY)), asked.batcher, lambda count: None)
    with pytest.raises(Overloaded):
        admission.check_job(Job(asked.far, job.prepared, job.options, job.answer), is_stream=False)
    index.allowed.set()
    asked.go_on()
    assert (asked.batcher.queries, asked.batcher.long.held) == (len(MANY) - first, 0)


def test_the_wait_of_a_slice_is_no_work(asked: Asked, index: FarIndex) -> None:
    index.allowed.clear()
    job = asked.submit(*MANY)
    asked.batcher.answer()
    waited = time.perf_counter()
    assert soon(lambda: time.perf_counter() > waited + 0.5)  # 25 times what a slice should take
    index.allowed.set()
    asked.go_on()
    while asked.batcher.queries:
        asked.batcher.answer()
        asked.go_on()
    assert (job.error, len(job.found)) == (None, len(MANY))
    assert index.questions[1][0] > 8  # by wall-clock time it would be 2


def test_long_jobs_of_another_index_are_of_another_kind(near: Retriever, asked: Asked) -> None:
    job = asked.submit(*MANY)
    assert kind(Job(near, job.prepared, job.options, job.answer)) != kind(job)


def cheap(asked: Asked) -> SearchOptions:
    """Options with a filter that so few items pass that all of them are compared."""
    return asked.far.search_options(3, compiled=asked.far.filters.compile(where.price < 30.0))


def test_other_methods_go_on_while_items_are_compared(near: Retriever, index: FarIndex) -> None:
    index.allowed.clear()
    with serving(near, index) as (served, stub):
        waiting = stub.Search.future(request(NAMES[0], filter=price_below(30.0)), timeout=30)
        try:
            assert soon(lambda: bool(index.compared))
            assert stub.Info(wire.InfoRequest(), timeout=30).item_count == 300
            assert not waiting.done()
        finally:
            index.allowed.set()
        wanted = hits_of(near.search([Query(NAMES[0])], 3, filter=where.price < 30.0)[0])
        assert difference(wanted, [(hit.id, hit.score) for hit in waiting.result().hits]) == ""
        assert waiting.result().plan == wire.PLAN_EXACT
        assert served.becomes("in_flight", 0)


def test_a_comparison_goes_on_in_parts_so_that_others_take_turns(
    near: Retriever, asked: Asked, index: FarIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_search, "PIECE_SECONDS", 0.0)
    monkeypatch.setattr(remote_search, "BLOCK", 2)
    monkeypatch.setattr(remote_batches, "COMPARING_THREADS", 1)
    index.allowed.clear()
    long = asked.submit(*NAMES[:40], options=cheap(asked))
    asked.batcher.answer()
    short = asked.submit(NAMES[0], options=asked.far.search_options(3, compiled=sold(asked)))
    asked.batcher.answer()
    index.allowed.set()
    asked.go_on(2)
    assert asked.done == [short]
    asked.go_on(19)
    assert asked.done == [short, long]
    assert index.compared == [2, 1, *[2] * 19]
    assert remote_batches.MAX_ROUNDS < 20
    expected = near.search([Query(name) for name in NAMES[:40]], 3, filter=where.price < 30.0)
    for own, found in zip(expected, long.found, strict=True):
        ids = [near.items.ids[row] for row in found.rows]
        assert difference(hits_of(own), [*zip(ids, found.scores, strict=True)]) == ""


def sold(asked: Asked) -> CompiledFilter:
    return asked.far.filters.compile(where.sale == True)  # noqa: E712


def test_more_comparisons_than_are_made_in_time_are_refused(
    asked: Asked, index: FarIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = cheap(asked)
    assert options.filter is not None and options.filter.parts[0].rows.count > 1
    monkeypatch.setattr(remote_batches, "MAX_COMPARED", 2 * options.filter.parts[0].rows.count)
    index.allowed.clear()
    kept = [asked.submit(*NAMES[:5], options=options)]  # alone it may be larger
    asked.batcher.answer()
    refused, other = asked.submit(NAMES[5], options=options), asked.submit(NAMES[6])
    asked.batcher.answer()
    assert str(refused.error) == (
        "more exact comparisons wait than the service makes in time; try again, with fewer at once"
    )
    assert isinstance(refused.error, Overloaded) and refused.error.retry_after > 0
    index.allowed.set()
    asked.go_on(2)
    kept += [asked.submit(NAMES[n], options=options) for n in (7, 8)]
    asked.batcher.answer()
    asked.go_on()
    assert [(job.error, len(job.found[0].rows)) for job in [*kept, other]] == [(None, 3)] * 4
