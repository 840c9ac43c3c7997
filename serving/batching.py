"""Micro-batching: whatever is waiting is encoded and searched at once, at most so many queries at a time.

There is no timer and nothing to tune. The reactor brings the jobs that have come in since the last batch; a
lone one makes a batch of its own, and under load batches grow by themselves. Long jobs are worked on in
slices between these batches (`slices.py`).
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from protos.errors import Overloaded
from serving.answer import Timing
from serving.overload import Overload
from serving.retriever import Retriever
from serving.slices import LongJobs
from serving.stages import NOTHING, Found, Prepared, Wanted
from serving.status import NobodyWaits

NONE = np.empty((0, 0), np.float32)
BATCH_COST = 1024  # items that the searches of one batch may look for, in all


class Observer(Protocol):
    """Who wants to know of batches."""

    def batch(self, queries: int, encode_us: int, search_us: int, searched: int) -> None:
        """A batch has been answered."""

    def waited(self, queries: int, queue_us: int) -> None:
        """A job's queries have been taken out of the queue."""

    def queued(self, depth: int) -> None:
        """So many jobs wait at the moment."""


class Job:
    """The queries of one request, and what becomes of them.

    Args:
        retriever: that has prepared them, and answers them whatever is served by then.
        prepared: at least one query.
        wanted: of each query; `NOTHING` where only vectors are asked for.
        answer: makes the answer's message of the finished job.
        answer_bytes: expected size of that message.

    Attributes:
        cost: items that its searches look for, in all: those wanted and those excluded, with those of the
            histories where these are excluded.
        check: raises NobodyWaits when the answer is of no use any more; asked before each stage, by its name.
        done: called once, when the job has its results or its error.
        arrived: `time.perf_counter_ns()` from which on the wait counts.
        batch: queries that were worked on together.
        encode_started, search_started: by the same clock.
    """

    __slots__ = (
        "answer", "answer_bytes", "arrived", "batch", "check", "cost", "done", "encode_started", "encode_us",
        "error", "found", "prepared", "queue_us", "retriever", "search_started", "search_us", "vectors",
        "wanted",
    )  # fmt: skip

    check: Callable[[str], None]
    done: Callable[["Job"], None]

    def __init__(
        self,
        retriever: Retriever,
        prepared: Sequence[Prepared],
        wanted: Wanted,
        answer: Callable[["Job"], Any],
        answer_bytes: int = 0,
    ) -> None:
        self.retriever, self.prepared, self.wanted, self.answer = retriever, prepared, wanted, answer
        self.answer_bytes = answer_bytes
        self.cost = len(prepared) * (wanted.k + len(wanted.exclude))
        self.found: list[Found] = []
        self.vectors = NONE
        self.error: Exception | None = None
        self.arrived = self.encode_started = self.search_started = 0
        self.queue_us = self.encode_us = self.search_us = self.batch = 0

    @property
    def timing(self) -> Timing:
        """Where the time went."""
        return Timing(self.queue_us, self.encode_us, self.search_us)

    def part(self, first: int, last: int) -> "Job":
        """The queries from `first` to before `last`, as a job of their own."""
        part = Job(self.retriever, self.prepared[first:last], self.wanted, self.answer)
        part.arrived, part.check = self.arrived, self.check
        part.cost = self.cost * len(part.prepared) // len(self.prepared)
        return part

    def is_wanted(self, stage: str) -> bool:
        """Whether somebody still waits for it; one that nobody does costs nothing from here on."""
        try:
            self.check(stage)
        except NobodyWaits as error:
            self.error = error
        return self.error is None


class Batcher:
    """Jobs that wait, and how they are answered. For one thread.

    Args:
        observer: told of every batch.
        most: queries in a batch; a job with more is a long one.
        overload: told of every batch.
    """

    def __init__(
        self, observer: Observer | None = None, most: int = 64, overload: Overload | None = None
    ) -> None:
        self.most = most
        self.queries = 0  # that wait, those of long jobs included
        self.short_queries = 0  # that wait, those of long jobs excluded
        self.long = LongJobs(most, BATCH_COST)
        self.seconds_per_query = 0.0  # of late
        self.overload = overload or Overload()
        self._observer = observer
        self._jobs: deque[Job] = deque()
        self._worked: list[tuple[int, int, int, int]] = []  # what `Observer.batch` is to be told

    @property
    def is_full(self) -> bool:
        """Whether a whole batch waits."""
        return self.short_queries >= self.most

    def is_long(self, job: Job) -> bool:
        """Whether a job is worked on in slices."""
        return job.cost > BATCH_COST or len(job.prepared) > self.most

    def submit(self, job: Job) -> None:
        """Let a job wait for the next batch, or for its slices."""
        self.queries += len(job.prepared)
        if self.is_long(job):
            self.long.begin(job)
        else:
            self._jobs.append(job)
            self.short_queries += len(job.prepared)

    def refusal(self, is_long: bool = False) -> Overloaded:
        """How to refuse one more job, with the time that the queries that wait will take."""
        seconds = self.short_queries * self.seconds_per_query
        if self.long.queries:  # which take half of the time
            seconds *= 2
        if is_long:
            seconds += self.long.queries * self.long.seconds_per_query
        seconds = max(0.01, seconds)
        return Overloaded("more queries are waiting than the service can answer in time", seconds)

    def shed(self, most: int) -> list[Job]:
        """Take out the short jobs that have waited longest, until at most `most` of their queries wait."""
        jobs: list[Job] = []
        while self.short_queries > most:
            jobs.append(self._jobs.popleft())
            self.short_queries -= len(jobs[-1].prepared)
            self.queries -= len(jobs[-1].prepared)
        return jobs

    def answer(self) -> None:
        """Answer one batch of short jobs, or work on one slice of a long one."""
        if self.long.queries and (self.long.is_due or not self._jobs):
            self._answer_slice()
        else:
            self._answer_batch()
        self._worked.clear()

    def _answer_batch(self) -> None:
        batch = self._take()
        started = time.perf_counter()
        due = [job for job in batch if self._is_due(job)]
        if due:
            for together in _by_retriever(due):
                self._answer(together)
            spent = (time.perf_counter() - started) / sum(len(job.prepared) for job in due)
            self.seconds_per_query += (spent - self.seconds_per_query) / 8
        for job in batch:
            job.done(job)
        self.overload.answered()
        if self.long.queries:
            self.long.gave_way(time.perf_counter() - started)
        # Observers come after the clients.
        if self._observer is not None:
            self._tell(self._observer, batch)

    def _answer_slice(self) -> None:
        """Work on the next slice of the long job whose turn it is; the job goes to the end of the queue."""
        long = self.long.take()
        part = long.slice()
        self.queries -= len(part.prepared)
        started, used = time.perf_counter(), time.thread_time()
        if self._is_due(part):
            self._answer((part,))
        used = time.thread_time() - used  # not by the clock: others on this machine must not shorten slices
        if part.error is None:
            self.long.worked(part, time.perf_counter() - started, used)
        if long.merge(part, used):
            self.queries -= long.queries  # which a failed job leaves
            long.job.done(long.job)
        else:
            self.long.add(long)
        if self._observer is not None:
            self._tell(self._observer, (part,))

    def _tell(self, observer: Observer, batch: Sequence[Job]) -> None:
        observer.queued(len(self._jobs) + len(self.long) if self.long.queries else len(self._jobs))
        for job in batch:
            observer.waited(len(job.prepared), job.queue_us)
        for worked in self._worked:
            observer.batch(*worked)

    def _take(self) -> list[Job]:
        """What is waiting, in its order, up to the size of a batch."""
        batch: list[Job] = []
        queries = cost = 0
        jobs = self._jobs
        while jobs and (
            not batch or (queries + len(jobs[0].prepared) <= self.most and cost + jobs[0].cost <= BATCH_COST)
        ):
            job = jobs.popleft()
            queries += len(job.prepared)
            cost += job.cost
            batch.append(job)
        self.queries -= queries
        self.short_queries -= queries
        return batch

    def _is_due(self, job: Job) -> bool:
        job.queue_us = (time.perf_counter_ns() - job.arrived) // 1000
        return job.is_wanted("encode")

    def _answer(self, batch: Sequence[Job]) -> None:
        try:
            self._work(batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            half = len(batch) // 2  # one of them is at fault, and only that one shall hear of it
            self._answer(batch[:half])
            self._answer(batch[half:])

    def _work(self, batch: Sequence[Job]) -> None:
        """Encode the queries of all jobs, and search for those that want it; all have one retriever."""
        retriever = batch[0].retriever
        prepared = [each for job in batch for each in job.prepared]
        encode_started = time.perf_counter_ns()
        encoded = retriever.encode_prepared(prepared, encode_started)
        search_started = time.perf_counter_ns()
        wanted = [
            each
            for job in batch
            for each in [job.wanted if job.is_wanted("search") else NOTHING] * len(job.prepared)
        ]
        found = retriever.find(encoded, wanted)
        search_us = (time.perf_counter_ns() - search_started) // 1000
        first = 0
        for job in batch:
            last = first + len(job.prepared)
            job.found, job.vectors = found[first:last], encoded.vectors[first:last]
            job.encode_us, job.search_us, job.batch = encoded.encode_us, search_us, len(prepared)
            job.encode_started, job.search_started = encode_started, search_started
            first = last
        searched = len(wanted) - wanted.count(NOTHING)
        self._worked.append((len(prepared), encoded.encode_us, search_us, searched))


def _by_retriever(batch: Sequence[Job]) -> list[Sequence[Job]]:
    """The jobs of each retriever: of one, but while bundles are swapped or a part is asked of another."""
    first = batch[0].retriever
    if all(job.retriever is first for job in batch):
        return [batch]
    groups: dict[int, list[Job]] = {}
    for job in batch:
        groups.setdefault(id(job.retriever), []).append(job)
    return list(groups.values())
