"""Batches: how large they get, in which order, what they tell of themselves, and whom an error reaches."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.scores import Hits, difference
from tests.helpers.tiny import item_names, tiny_bundle
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos.errors import InvalidInput
from twinspire.serving.engine import batching
from twinspire.serving.engine.batching import Batcher, Job
from twinspire.serving.fair_queue import Client
from twinspire.serving.retrieval.answer import Timing
from twinspire.serving.retrieval.query import NO_SEARCH, Query, SearchOptions, SearchResult
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.wire.status import ClientGone, Code


class Told:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self.waits: list[tuple[int, int]] = []
        self.depths: list[int] = []

    def batch(self, queries: int, encode_us: int, search_us: int, searched: int) -> None:
        assert encode_us >= 0 and search_us >= 0
        self.batches.append((queries, searched))

    def waited(self, queries: int, queue_us: int) -> None:
        self.waits.append((queries, queue_us))

    def queued(self, depth: int) -> None:
        self.depths.append(depth)


class Waiting:
    """Jobs of one batcher, and the order in which they were done."""

    def __init__(self, retriever: Retriever, most: int = 64) -> None:
        self.told = Told()
        self.retriever = retriever
        self.batcher = Batcher(self.told, most)
        self.done: list[Job] = []

    def submit(
        self, *queries: Query | str, options: SearchOptions | None = None, gone: tuple[str, ...] = ()
    ) -> Job:
        """Put one request into the queue; its client has cancelled it at the stages of `gone`."""
        prepare = self.retriever.prepare
        asked = [Query(each) if isinstance(each, str) else each for each in queries]
        prepared = [prepare(each, f"queries[{n}]") for n, each in enumerate(asked)]
        job = Job(self.retriever, prepared, options or SearchOptions(3), lambda job: job)
        job.arrived = time.perf_counter_ns()

        def check(stage: str) -> None:
            if stage in gone:
                raise ClientGone(Code.CANCELLED, stage)

        job.check, job.done = check, self.done.append
        self.batcher.submit(job)
        return job

    def answer_all(self) -> None:
        """Work until nothing waits."""
        while self.batcher.queries:
            self.batcher.answer()


@pytest.fixture
def waiting(retriever: Retriever) -> Waiting:
    return Waiting(retriever, most=8)


def test_a_batch_takes_what_waits_in_order_up_to_its_bound(waiting: Waiting) -> None:
    jobs = [waiting.submit(name) for name in item_names(20)]
    assert waiting.batcher.short_queries == 20
    sizes = []
    while waiting.batcher.queries:
        before = len(waiting.done)
        waiting.batcher.answer()
        sizes.append(len(waiting.done) - before)
    assert sizes == [8, 8, 4]
    assert waiting.done == jobs
    assert [job.found[0].rows[0] for job in jobs] == list(range(20))
    assert [job.batch for job in jobs] == [8] * 16 + [4] * 4
    assert waiting.told.batches == [(8, 8), (8, 8), (4, 4)]
    assert waiting.told.depths == [12, 4, 0]
    assert [queries for queries, _ in waiting.told.waits] == [1] * 20
    assert waiting.batcher.short_queries == 0


def test_a_job_that_is_larger_than_a_batch_is_worked_on_in_slices_between_batches(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "SLICE_SECONDS", 60.0)  # or the size of the second depends on the machine
    names = item_names(40)
    small = waiting.submit(names[0])
    large = waiting.submit(*names[:30])
    last = waiting.submit(names[1])
    assert (waiting.batcher.queries, waiting.batcher.short_queries) == (32, 2)
    waiting.answer_all()
    assert waiting.done == [small, last, large]
    assert [found.rows[0] for found in large.found] == list(range(30))
    assert large.vectors.shape == (30, 32)
    assert waiting.told.batches == [(8, 8), (2, 2), (22, 22)]
    assert sum(queries for queries, _ in waiting.told.waits) == 32
    assert large.batch == 22
    assert large.queue_us + large.encode_us + large.search_us > 0


def test_one_query_of_many_items_is_a_slice_and_many_queries_of_few_items_are_one(waiting: Waiting) -> None:
    for k, queries, first in ((1000, 4, 1), (200, 20, 5), (3, 30, 8)):
        job = waiting.submit(*["a"] * queries, options=SearchOptions(k))
        waiting.batcher.answer()
        assert waiting.told.batches[-1] == (first, first)
        waiting.answer_all()
        assert len(job.found) == queries
        assert all(len(found.rows) == min(k, 300) for found in job.found)


def test_a_batch_ends_where_its_searches_look_for_enough_items(waiting: Waiting) -> None:
    jobs = [waiting.submit("a", options=SearchOptions(300)) for _ in range(5)]
    waiting.answer_all()
    assert waiting.done == jobs
    assert waiting.told.batches == [(3, 3), (2, 2)]


def test_a_job_pays_for_the_part_of_a_batch_that_it_fills(retriever: Retriever) -> None:
    batcher = Batcher()
    few, many = Client("few"), Client("many")
    for client, k in ((few, 10), (many, 900)):
        job = Job(retriever, [retriever.prepare(Query("bavuti"))], SearchOptions(k), lambda job: job)
        job.client, job.check, job.done = client, lambda stage: None, lambda job: None
        batcher.submit(job)
    batcher.answer()
    assert many.used == pytest.approx(few.used * 64 * 900 / batching.BATCH_COST)


def test_long_jobs_take_turns_and_a_short_job_waits_for_one_slice_at_most(waiting: Waiting) -> None:
    long = [waiting.submit(*["a"] * 40, options=SearchOptions(300)) for _ in range(2)]
    turns, begun = 0, []
    while waiting.batcher.long.queries:
        if not waiting.batcher.short_queries:
            waiting.submit("b")
        before = len(waiting.done)
        waiting.batcher.answer()
        turns += waiting.batcher.short_queries
        begun.append([len(job.found) > 0 for job in long])
        assert waiting.batcher.short_queries or len(waiting.done) == before + 1
    shorts = [job for job in waiting.done if job not in long]
    assert [True, False] in begun and [False, True] not in begun
    assert all(len(job.found) == 40 for job in long)
    assert len(shorts) >= turns - 1 > 2


def test_a_long_job_that_its_client_gave_up_ends_with_the_slice_before(waiting: Waiting) -> None:
    gone: list[str] = []
    job = waiting.submit(*["a"] * 30)

    def check(stage: str) -> None:
        if gone:
            raise ClientGone(Code.CANCELLED, stage)

    job.check = check
    waiting.batcher.answer()
    gone.append("client")
    waiting.answer_all()
    assert waiting.done == [job]
    assert isinstance(job.error, ClientGone)
    assert waiting.told.batches == [(8, 8)]
    assert (waiting.batcher.queries, waiting.batcher.long.queries) == (0, 0)


def test_the_error_of_one_slice_is_that_of_the_whole_job(full_retriever: Retriever) -> None:
    waiting = Waiting(full_retriever, most=8)
    job = waiting.submit(*["a"] * 20, Query("b", features={"country": 3.0}), *["c"] * 80)
    waiting.answer_all()
    assert waiting.done == [job]
    assert isinstance(job.error, InvalidInput)
    assert job.error.field == "queries[20].features.country"
    assert (waiting.batcher.queries, waiting.batcher.long.queries) == (0, 0)


def test_nobody_overtakes_a_job_that_does_not_fit_any_more(waiting: Waiting) -> None:
    first, second, third = waiting.submit(*"abcde"), waiting.submit(*"fghi"), waiting.submit("j")
    waiting.batcher.answer()
    assert waiting.done == [first]
    waiting.batcher.answer()
    assert waiting.done == [first, second, third]


def hits_of(found: SearchResult) -> Hits:
    return [(str(row), score) for row, score in zip(found.rows, found.scores, strict=True)]


def test_each_gets_what_it_would_get_alone(waiting: Waiting, retriever: Retriever) -> None:
    wanted = [SearchOptions(1), SearchOptions(7, frozenset({3, 5})), NO_SEARCH, SearchOptions(300)]
    queries: list[list[Query | str]] = [["a", "b"], [Query(item_id="item-004")], ["日本", ""], ["limo"]]
    jobs = [waiting.submit(*each, options=one) for each, one in zip(queries, wanted, strict=True)]
    waiting.batcher.answer()
    for job, one in zip(jobs, wanted, strict=True):
        alone = retriever.find(encoded := retriever.encode_prepared(job.prepared), [one] * len(job.prepared))
        for mine, other in zip(job.found, alone, strict=True):
            assert difference(hits_of(other), hits_of(mine)) == ""
        np.testing.assert_allclose(job.vectors, encoded.vectors, atol=1e-6)
    assert waiting.told.batches == [(6, 4)]


@pytest.mark.parametrize(("stage", "batches"), [("encode", [(2, 2)]), ("search", [(3, 2)])])
def test_a_job_that_nobody_waits_for_costs_nothing_from_then_on(
    waiting: Waiting, stage: str, batches: list[tuple[int, int]]
) -> None:
    jobs = [waiting.submit("a"), waiting.submit("b", gone=(stage,)), waiting.submit("c")]
    waiting.batcher.answer()
    assert waiting.done == jobs
    assert [type(job.error) for job in jobs] == [type(None), ClientGone, type(None)]
    assert waiting.told.batches == batches
    assert len(waiting.told.waits) == 3


def test_an_error_reaches_the_job_that_it_is_of(full_retriever: Retriever, tmp_path: Path) -> None:
    waiting = Waiting(full_retriever)
    bad = Query("a", features={"country": 3.0})
    jobs = [waiting.submit("a"), waiting.submit("b", bad), waiting.submit("c", "d")]
    waiting.batcher.answer()
    assert waiting.done == jobs
    assert isinstance(jobs[1].error, InvalidInput)
    assert jobs[1].error.field == "queries[1].features.country"
    assert [job.error for job in (jobs[0], jobs[2])] == [None, None]
    assert [len(job.found) for job in jobs] == [1, 0, 2]
    broken = Waiting(Retriever.load(tiny_bundle(tmp_path, items=20, query_tower=TinyTower(wraps=False))))
    torn: list[Any] = [broken.submit(text) for text in ("a", "日本", "b", "語", "c")]
    broken.batcher.answer()
    assert [job.error is None for job in torn] == [True, False, True, False, True]
    assert broken.batcher.queries == 0


def test_times_are_those_of_the_stages(waiting: Waiting) -> None:
    began = time.perf_counter_ns()
    jobs = [waiting.submit("a"), waiting.submit("b", "c")]
    time.sleep(0.02)
    waiting.batcher.answer()
    ended = time.perf_counter_ns()
    for job in jobs:
        assert began < job.arrived < job.encode_started <= job.search_started < ended
        assert 20_000 <= job.queue_us < (ended - began) / 1000
        assert job.timing == Timing(job.queue_us, job.encode_us, job.search_us)
        assert (job.queue_us + job.encode_us + job.search_us) * 1000 <= ended - began
    assert waiting.told.waits == [(1, jobs[0].queue_us), (2, jobs[1].queue_us)]
