"""Micro-batching without a timer and without a thread of its own.

Every request's thread brings a `Job`, and one of them leads: it takes whatever is waiting, its own job among
it, encodes and searches all of that at once, and hands the results out (flat combining, Hendler et al. 2010).
A lone request leads at once, on its own thread, without any hand-over. Where more requests are already on their
way to the core, the last of them leads; so under load a batch is all that has come in, and there is no delay
to tune.

    core = BatchingCore(retriever)
    core.run(job)   # leads a batch, or waits for the one who does
    job.found
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from serving.retriever import Retriever
from serving.stages import NOTHING, Found, Prepared, Wanted
from serving.status import NobodyWaits

FUSE_SECONDS = 0.002  # after which nobody waits any longer for requests that are said to be on their way
NONE = np.empty((0, 0), np.float32)


class Observer(Protocol):
    """Who wants to know of batches; called by the thread that leads."""

    def batch(self, queries: int, encode_us: int, search_us: int) -> None:
        """A batch has been answered."""

    def waited(self, queries: int, queue_us: int) -> None:
        """A job's queries have been taken out of the queue."""


class Job:
    """The queries of one request, and what becomes of them.

    Args:
        prepared: at least one query.
        wanted: of each query; `NOTHING` where only vectors are asked for.
        check: raises NobodyWaits when the answer is of no use any more; asked before each stage, by its name.
        arrived: `time.perf_counter_ns()` from which on the wait counts.
    """

    __slots__ = (
        "arrived", "asleep", "check", "done", "encode_us", "error", "found", "gate", "prepared", "queue_us",
        "search_us", "vectors", "wanted",
    )  # fmt: skip

    def __init__(
        self, prepared: Sequence[Prepared], wanted: Wanted, check: Callable[[str], None], arrived: int
    ) -> None:
        self.prepared, self.wanted, self.check, self.arrived = prepared, wanted, check, arrived
        self.found: list[Found] = []
        self.vectors = NONE
        self.error: Exception | None = None
        self.queue_us = self.encode_us = self.search_us = 0
        self.done = False
        self.asleep = False  # a thread waits at the gate
        self.gate = threading.Lock()
        self.gate.acquire()


class Arrivals:
    """How many requests are on their way to the core: they have a thread, but no job yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._generation = 0
        self._here = threading.local()

    @property
    def any(self) -> bool:
        """Whether there is a request worth waiting for."""
        return self._count > 0

    def expect(self) -> int:
        """One more is on its way; what it has to say once its thread runs."""
        with self._lock:
            self._count += 1
            return self._generation

    def begin(self, generation: int) -> None:
        """The current thread is that request's."""
        self._here.generation = generation

    def arrived(self) -> None:
        """The current thread's request has come, or will not; saying it again changes nothing."""
        generation = getattr(self._here, "generation", None)
        if generation is not None:
            self._here.generation = None
            with self._lock:
                if generation == self._generation:
                    self._count -= 1

    def give_up(self) -> None:
        """Wait no longer for those that are on their way now: a client may never send what it announced."""
        with self._lock:
            self._count = 0
            self._generation += 1


class BatchingCore:
    """Answers jobs in batches; any number of threads may submit and wait.

    Args:
        retriever: that answers.
        arrivals: requests that are worth waiting for.
        observer: told of every batch.
        most: queries in a batch; one job with more is a batch of its own.
    """

    def __init__(
        self,
        retriever: Retriever,
        arrivals: Arrivals | None = None,
        observer: Observer | None = None,
        most: int = 64,
    ) -> None:
        self.retriever = retriever
        self._arrivals = arrivals or Arrivals()
        self._observer = observer
        self._most = most
        self._lock = threading.Lock()
        self._queue: deque[Job] = deque()
        self._led = False

    @property
    def depth(self) -> int:
        """Jobs that nobody has taken yet."""
        return len(self._queue)

    def submit(self, job: Job) -> None:
        """Put a job where the next leader finds it. Whoever submits must `wait`, or nobody may lead."""
        self._queue.append(job)
        self._arrivals.arrived()

    def wait(self, job: Job) -> None:
        """Return when the job is done, leading until then if nobody does.

        Raises:
            TwinspireError, NobodyWaits: what went wrong with this job.
            Exception: a fault of the service.
        """
        while not job.done:
            with self._lock:
                if job.done:
                    break
                led = self._led
                leads = not led and (not self._arrivals.any or len(self._queue) >= self._most)
                self._led = led or leads
                job.asleep = not leads
            if leads:
                self._lead(job)
            elif led:
                job.gate.acquire()
            elif not job.gate.acquire(timeout=FUSE_SECONDS):
                self._arrivals.give_up()
        if job.error is not None:
            raise job.error

    def run(self, job: Job) -> Job:
        """Submit and wait."""
        self.submit(job)
        self.wait(job)
        return job

    def _lead(self, own: Job) -> None:
        """Answer batches until the leader's own job is among the answered, then let somebody else lead."""
        try:
            while not own.done:
                batch = self._take()
                try:
                    self._answer([job for job in batch if self._is_due(job)])
                finally:
                    self._hand_out(batch)
        finally:
            with self._lock:
                self._led = False
                heir = next((job for job in self._queue if job.asleep), None)
                if heir is not None:
                    heir.asleep = False
                    heir.gate.release()

    def _take(self) -> list[Job]:
        """What is waiting, in its order, up to the size of a batch."""
        batch: list[Job] = []
        queries = 0
        while self._queue and (not batch or queries + len(self._queue[0].prepared) <= self._most):
            job = self._queue.popleft()
            queries += len(job.prepared)
            batch.append(job)
        return batch

    def _is_due(self, job: Job) -> bool:
        job.queue_us = (time.perf_counter_ns() - job.arrived) // 1000
        if self._observer is not None:
            self._observer.waited(len(job.prepared), job.queue_us)
        return _is_wanted(job, "encode")

    def _answer(self, batch: Sequence[Job]) -> None:
        try:
            if batch:
                self._work(batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
            else:  # one of them is at fault, and only that one shall hear of it
                for job in batch:
                    self._answer([job])

    def _work(self, batch: Sequence[Job]) -> None:
        """Encode the queries of all jobs, and search for those that want it."""
        prepared = [each for job in batch for each in job.prepared]
        encoded = self.retriever.encode_prepared(prepared)
        started = time.perf_counter_ns()
        wanted = [job.wanted if _is_wanted(job, "search") else NOTHING for job in batch]
        found = self.retriever.find(
            encoded, [each for each, job in zip(wanted, batch, strict=True) for _ in job.prepared]
        )
        search_us = (time.perf_counter_ns() - started) // 1000
        first = 0
        for job in batch:
            last = first + len(job.prepared)
            job.found = found[first:last]
            job.vectors = encoded.vectors[first:last]
            job.encode_us, job.search_us = encoded.encode_us, search_us
            first = last
        if self._observer is not None:
            self._observer.batch(len(prepared), encoded.encode_us, search_us)

    def _hand_out(self, batch: Sequence[Job]) -> None:
        with self._lock:
            for job in batch:
                job.done = True
                if job.asleep:
                    job.asleep = False
                    job.gate.release()


def _is_wanted(job: Job, stage: str) -> bool:
    """Whether somebody still waits for it; one that nobody does costs nothing from here on."""
    try:
        job.check(stage)
    except NobodyWaits as error:
        job.error = error
    return job.error is None
