"""Micro-batching: the queries that wait are encoded and searched together, up to a bound.

There is no timer and nothing to tune. The event loop adds the jobs that arrived since the last batch. A
single job makes a batch of its own, and under load batches grow by themselves.

Long jobs are worked on in slices, between batches of short jobs. A job is long if it has more queries than a
batch, or if its searches look for many items in all. A slice should take about `SLICE_SECONDS` on any bundle,
k and machine; so its size follows from the processor time of earlier slices of the same job or of similar
ones, and is one query at least. If no similar job is known, the first slice is no larger than a batch. Long
jobs take turns, one slice each. While short jobs wait, long jobs get about half of the time.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from twinspire.protos.errors import Overloaded
from twinspire.serving.fair_queue import NOBODY, Client, Clients, FairQueue
from twinspire.serving.retrieval.answer import Timing
from twinspire.serving.retrieval.query import (
    NO_SEARCH,
    PreparedQuery,
    SearchOptions,
    SearchResult,
    Vectors,
)
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.wire.status import ClientGone

Kind = tuple[int, int, int, bool]  # what `kind` returns

NO_VECTORS = np.empty((0, 0), np.float32)
BATCH_COST = 1024  # items that the searches of one batch may look for in all
SLICE_SECONDS = 0.02
REST = 1.5  # a rest of at most this many slices becomes one slice, since each slice has a cost of its own
SHORTER = 4  # times shorter are slices while several clients call
PAUSE = 3.0  # after a slice, other work goes first for this many times the slice's duration
GROWTH = 4  # a slice has at most this many times the queries of the slice before it


class BatchObserver(Protocol):
    """Counts batches, after their answers have been sent."""

    def batch(self, queries: int, encode_us: int, search_us: int, searched: int) -> None:
        """A batch has been answered; `searched` of its queries needed a search."""

    def waited(self, queries: int, queue_us: int) -> None:
        """The queries of a job have left the queue."""

    def queued(self, depth: int) -> None:
        """Number of queued queries."""


class Job:
    """The queries of one request, and their results.

    Args:
        retriever: prepared the queries, and answers them even if the bundle has been swapped meanwhile.
        prepared: at least one query.
        options: of each query; `NO_SEARCH` for vectors only.
        answer: makes the answer's message of the finished job.
        answer_bytes: expected size of that message.

    Attributes:
        cost: items that the searches look for in all: k, excluded ones, and excluded histories; of `Score`
            the items that `answer` scores.
        check: raises ClientGone if the client no longer waits; called with the name of the next stage.
        done: called once, when the job has its results or its error.
        arrived: start of the wait, in `time.perf_counter_ns()`.
        client: whose call it is.
        batch: queries in the batch.
        sequence: all changes of live items up to it were applied before the search.
        encode_started, search_started: by the same clock.
        rival: searches the same for another bundle, in the same batch (`add_rival`).
    """

    __slots__ = (
        "answer", "answer_bytes", "arrived", "batch", "check", "client", "cost", "done",
        "encode_started", "encode_us", "error", "found", "options", "prepared", "queue_us",
        "retriever", "rival", "search_started", "search_us", "sequence", "vectors",
    )  # fmt: skip

    check: Callable[[str], None]
    done: Callable[["Job"], None]

    def __init__(
        self,
        retriever: Retriever,
        prepared: Sequence[PreparedQuery],
        options: SearchOptions,
        answer: Callable[["Job"], Any],
        answer_bytes: int = 0,
    ) -> None:
        self.retriever, self.prepared, self.options, self.answer = retriever, prepared, options, answer
        self.answer_bytes = answer_bytes
        self.client: Client = NOBODY
        self.cost = len(prepared) * (options.k + len(options.exclude))
        self.found: list[SearchResult] = []
        self.vectors = NO_VECTORS
        self.error: Exception | None = None
        self.rival: Job | None = None
        self.arrived = self.encode_started = self.search_started = 0
        self.queue_us = self.encode_us = self.search_us = self.batch = self.sequence = 0

    @property
    def timing(self) -> Timing:
        """Time in each stage."""
        return Timing(self.queue_us, self.encode_us, self.search_us)

    def add_rival(self, rival: "Job") -> None:
        """Have another bundle search in the same batch; if it fails, only `rival.error` says so."""
        self.rival = rival
        self.cost += rival.cost

    def part(self, first: int, last: int) -> "Job":
        """The queries from `first` to before `last`, as a job of their own."""
        part = Job(self.retriever, self.prepared[first:last], self.options, self.answer)
        part.arrived, part.check = self.arrived, self.check
        part.client = self.client
        part.cost = self.cost * len(part.prepared) // len(self.prepared)
        return part

    def client_waits(self, stage: str) -> bool:
        """Whether the client still waits before a stage; if not, the job's error is `ClientGone`."""
        try:
            self.check(stage)
        except ClientGone as error:
            self.error = error
        return self.error is None


class LongJob:
    """A long job and its progress.

    Args:
        job: collects the results of its slices.
        seconds_per_query: of similar jobs; 0 if none is known.
        first: queries in the first slice if none is known.
    """

    def __init__(self, job: Job, seconds_per_query: float, first: int) -> None:
        self.job = job
        self._vectors: list[Vectors] = []
        self._next = 0  # the first query of the next slice
        self._size = self._fitting(seconds_per_query) if seconds_per_query else first

    @property
    def queries(self) -> int:
        """Queries that no slice has worked on yet."""
        return len(self.job.prepared) - self._next

    def slice(self, shorter: int = 1) -> Job:
        """The next queries, as a job of their own; `shorter` divides their number."""
        part = self.job.part(self._next, self._next + max(1, self._size // shorter))
        self._next += len(part.prepared)
        return part

    def merge(self, part: Job, seconds: float) -> bool:
        """Add the results of a slice to the job.

        Args:
            part: the slice that was worked on.
            seconds: processor time of this thread that the slice took.

        Returns:
            Whether the job is done: all of its queries have results, or one slice has failed.
        """
        job = self.job
        if part.error is not None:
            job.error = part.error
            return True
        if not self._vectors:
            job.queue_us = part.queue_us
            job.encode_started, job.search_started = part.encode_started, part.search_started
            job.sequence = part.sequence  # later slices may have searched a later state
        self._vectors.append(part.vectors)
        job.found += part.found
        job.encode_us += part.encode_us
        job.search_us += part.search_us
        job.batch = max(job.batch, part.batch)
        self._size = min(GROWTH * len(part.prepared), self._fitting(seconds / len(part.prepared)))
        if self.queries:
            return False
        job.vectors = np.concatenate(self._vectors)
        return True

    def _fitting(self, seconds_per_query: float) -> int:
        """Size of the next slice, from the processor seconds of one query."""
        most = SLICE_SECONDS / max(seconds_per_query, 1e-7)
        return self.queries if self.queries <= REST * most else max(1, int(most))


class LongJobs:
    """The long jobs that wait for their next slice. For one thread.

    Args:
        batch: queries in a batch.
        batch_cost: items that the searches of one batch may look for in all.
        clients: of the worker.

    Attributes:
        queries: in the queue.
    """

    def __init__(self, batch: int, batch_cost: int, clients: Clients) -> None:
        self._batch, self._batch_cost = batch, batch_cost
        self._known: dict[Kind, float] = {}  # processor seconds per query
        self.queries = 0
        self.seconds_per_query = 0.0  # moving average
        self._jobs: FairQueue[LongJob] = FairQueue(clients)
        self._debt = 0.0  # seconds that short jobs must get before the next slice
        self._paused_until = 0.0  # in `time.perf_counter()` seconds

    def begin(self, job: Job) -> None:
        """Queue a job for its first slice."""
        first = max(1, min(self._batch, self._batch_cost * len(job.prepared) // max(1, job.cost)))
        self.add(LongJob(job, self._known.get(kind(job), 0.0), first))

    def add(self, job: LongJob) -> None:
        """Queue a job for its next slice, behind the others of its client."""
        self._jobs.add(job.job.client, job)
        self.queries += job.queries

    def take(self) -> LongJob:
        """Remove the job whose slice is next."""
        job = self._jobs.take()
        self.queries -= job.queries
        return job

    def is_due(self, rival: Client) -> bool:
        """Whether the next slice comes before the short jobs, of which the next is that of `rival`."""
        client = self._jobs.first_client
        return self._debt <= 0 if client is rival else client.used < rival.used

    @property
    def is_paused(self) -> bool:
        """Whether the time after a slice lasts that others have before the next one."""
        return time.perf_counter() < self._paused_until

    def has_room(self, job: Job, room: int) -> bool:
        """Whether a job is within `room` queries, or its client within a share of the room."""
        queries = len(job.prepared)
        if not self.queries or self.queries + queries <= room:
            return True
        own = sum([each.queries for each in self._jobs.line(job.client)])
        rivals = self._jobs.clients - (own > 0)
        return rivals > 0 and (own + queries) * (rivals + 1) <= room

    def worked(self, part: Job, seconds: float, used: float) -> None:
        """Note the time that a slice took.

        Args:
            part: the slice.
            seconds: wall-clock time.
            used: processor time in seconds.
        """
        queries = len(part.prepared)
        self._debt = seconds
        self._paused_until = time.perf_counter() + PAUSE * self._debt
        self.seconds_per_query += (seconds / queries - self.seconds_per_query) / 8
        each, known = used / queries, self._known.get(key := kind(part), 0.0)
        self._known[key] = each if each > known else known + (each - known) / 4

    def gave_way(self, seconds: float) -> None:
        """Note the wall-clock time of a batch of short jobs, in seconds."""
        self._debt -= seconds


class Batcher:
    """The queue of jobs, and the work on them. For one thread.

    Args:
        observer: counts batches.
        most: queries in a batch; a job with more is long.

    Attributes:
        queries: in the queue, including those of long jobs.
        short_queries: in the queue, without those of long jobs.
        seconds_per_query: moving average over batches.
        batch_answered: called after each batch of short jobs.
        clients: whose jobs they are, and what each has used.
    """

    def __init__(self, observer: BatchObserver | None = None, most: int = 64) -> None:
        self.most = most
        self.queries = self.short_queries = 0
        self.clients = Clients()
        self.long = LongJobs(most, BATCH_COST, self.clients)
        self.seconds_per_query = 0.0
        self._used_per_batch = 0.0  # moving average of the processor seconds of a batch that is full
        self.batch_answered: Callable[[], None] = lambda: None
        self._observer = observer
        self._jobs: FairQueue[Job] = FairQueue(self.clients)
        self._worked: list[tuple[int, int, int, int]] = []  # arguments of `BatchObserver.batch`

    def is_long(self, job: Job) -> bool:
        """Whether a job is answered in slices."""
        return job.cost > BATCH_COST or len(job.prepared) > self.most

    def submit(self, job: Job) -> None:
        """Queue a job for the next batch, or for its slices."""
        self.queries += len(job.prepared)
        if self.is_long(job):
            self.long.begin(job)
        else:
            self._jobs.add(job.client, job)
            self.short_queries += len(job.prepared)
            self.clients.wait(job.client, len(job.prepared))

    def refusal(self, is_long: bool = False) -> Overloaded:
        """The error for one more job, with the time that the queued queries will take."""
        seconds = self.short_queries * self.seconds_per_query
        if self.long.queries:  # long jobs take half of the time
            seconds *= 2
        if is_long:
            seconds += self.long.queries * self.long.seconds_per_query
        seconds = max(0.01, seconds)
        return Overloaded("more queries are waiting than the service can answer in time", seconds)

    def shed(self, most: int) -> list[Job]:
        """Remove the oldest short jobs of the clients with most, until at most `most` queries wait in all."""
        jobs: list[Job] = []
        while self.short_queries > most:
            job = self._jobs.shed()
            self.short_queries -= len(job.prepared)
            self.queries -= len(job.prepared)
            self.clients.leave(job.client, len(job.prepared))
            jobs.append(job)
        return jobs

    def answer(self, is_busy: bool = False) -> None:
        """Answer one batch of short jobs, or work on one slice of a long one.

        Args:
            is_busy: other clients' events wait; so a slice is followed by a pause.
        """
        is_due = self.long.queries and (not self._jobs or self.long.is_due(self._jobs.first_client))
        if is_due and not (is_busy and self.long.is_paused):
            self._run_slice()
        elif self._jobs:
            self._run_batch()
        self._worked.clear()

    def _run_batch(self) -> None:
        expected = self._used_per_batch
        batch = self._take()
        started, used = time.perf_counter(), time.thread_time()
        wanted = [job for job in batch if self._is_wanted(job)]
        if wanted:
            for group in _by_retriever([*wanted, *_rivals(wanted)]):
                self._search_or_split(group)
            queries = sum(len(job.prepared) for job in wanted)
            whole = (time.thread_time() - used) / sum(self._part_of_batch(job) for job in wanted)
            self._used_per_batch += (whole - expected) / 8
            for job in wanted:
                job.client.used += (whole - expected) * self._part_of_batch(job)
            spent = (time.perf_counter() - started) / queries
            self.seconds_per_query += (spent - self.seconds_per_query) / 8
        for job in batch:
            job.done(job)
        self.batch_answered()
        if self.long.queries:
            self.long.gave_way(time.perf_counter() - started)
        if self._observer is not None:
            self._report(self._observer, batch)

    def _run_slice(self) -> None:
        """Work on the next slice of the next long job; the job goes to the end of the queue of long jobs."""
        long = self.long.take()
        part = long.slice(SHORTER if self.clients.have_rivals else 1)
        self.queries -= len(part.prepared)
        started, used = time.perf_counter(), time.thread_time()
        if self._is_wanted(part):
            self._search_or_split((part,))
        # Not wall-clock time, because other processes must not make slices smaller.
        used = time.thread_time() - used
        if part.error is None:
            self.long.worked(part, time.perf_counter() - started, used)
        is_done = long.merge(part, used)
        if not is_done:
            self.long.add(long)
        self.clients.charge(part.client, used)
        if is_done:
            self.queries -= long.queries  # of a failed job
            long.job.done(long.job)
        if self._observer is not None:
            self._report(self._observer, (part,))

    def _report(self, observer: BatchObserver, batch: Sequence[Job]) -> None:
        observer.queued(self.queries)
        for job in batch:
            observer.waited(len(job.prepared), job.queue_us)
        for worked in self._worked:
            observer.batch(*worked)

    def _take(self) -> list[Job]:
        """Remove the jobs of the next batch from the queue, and charge their clients the expected time."""
        batch: list[Job] = []
        queries = cost = 0
        jobs, expected = self._jobs, self._used_per_batch
        while jobs:
            job = jobs.take()
            count = len(job.prepared)
            if batch and (queries + count > self.most or cost + job.cost > BATCH_COST):
                jobs.put_back(job.client, job)
                break
            self.clients.charge(job.client, expected * self._part_of_batch(job))
            self.clients.leave(job.client, count)
            queries += count
            cost += job.cost
            batch.append(job)
        self.queries -= queries
        self.short_queries -= queries
        return batch

    def _part_of_batch(self, job: Job) -> float:
        """The part of a batch that a job fills, by its queries or by its items, and so pays for."""
        return max(len(job.prepared) / self.most, job.cost / BATCH_COST)

    def _is_wanted(self, job: Job) -> bool:
        """Set the job's time in the queue, and return whether its client still waits."""
        job.queue_us = (time.perf_counter_ns() - job.arrived) // 1000
        return job.client_waits("encode")

    def _search_or_split(self, batch: Sequence[Job]) -> None:
        """Encode and search; if that fails, each job alone, so that only the one at fault gets the error."""
        try:
            self._encode_and_search(batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            for job in batch:
                self._search_or_split([job])

    def _encode_and_search(self, batch: Sequence[Job]) -> None:
        """Encode the queries of all jobs, and search for them; all jobs have one retriever."""
        retriever = batch[0].retriever
        prepared = [each for job in batch for each in job.prepared]
        encode_started = time.perf_counter_ns()
        encoded = retriever.encode_prepared(prepared, encode_started)
        search_started = time.perf_counter_ns()
        found = retriever.find(encoded, _options(batch))
        sequence = retriever.sequence  # changes are applied between batches
        search_us = (time.perf_counter_ns() - search_started) // 1000
        first = 0
        for job in batch:
            last = first + len(job.prepared)
            job.found, job.vectors = found[first:last], encoded.vectors[first:last]
            job.encode_us, job.search_us, job.batch = encoded.encode_us, search_us, len(found)
            job.encode_started, job.search_started = encode_started, search_started
            job.sequence = sequence
            first = last
        searched = sum([len(job.prepared) for job in batch if job.options.k and job.error is None])
        self._worked.append((len(found), encoded.encode_us, search_us, searched))


def _options(batch: Sequence[Job]) -> list[SearchOptions]:
    """The options of each query; `NO_SEARCH` for jobs whose client has gone."""
    return [
        each
        for job in batch
        for each in [job.options if job.client_waits("search") else NO_SEARCH] * len(job.prepared)
    ]


def _rivals(batch: Sequence[Job]) -> Iterator[Job]:
    for job in batch:
        if job.rival is not None and job.rival.error is None:
            job.rival.check = job.check
            yield job.rival


def _by_retriever(batch: Sequence[Job]) -> list[Sequence[Job]]:
    """The jobs grouped by retriever; there are several during a swap, or with a canary."""
    groups: dict[int, list[Job]] = {}
    for job in batch:
        groups.setdefault(id(job.retriever), []).append(job)
    return list(groups.values())


def kind(job: Job) -> Kind:
    """The properties that decide the time per query, as numbers of bits, so that there are few kinds.

    Returns:
        Items that each search looks for, queries that are items (which are searched exactly), characters and
        strings in each query, and whether there is a search at all (`Score` has items and none).
    """
    queries = len(job.prepared)
    items = size = 0
    for each in job.prepared:
        if each.values is None:
            items += 1
        else:
            size += sum([len(value) for value in each.values.values() if isinstance(value, str | list)])
    parts = job.cost // queries, items * 256 // queries, size // queries
    return parts[0].bit_length(), parts[1].bit_length(), parts[2].bit_length(), job.options.k > 0
