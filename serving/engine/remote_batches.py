"""Batches whose searches another server answers, while the event loop does something else.

A batch is encoded, and its search begins, on the event loop's thread. Where the search needs an answer of
another server, the batch is held, a thread asks, and the loop goes on. When the answer has come, the loop
searches again with it (`serving/index/remote_search.py`) and sends the answers of the batch.

A question may take until shortly before the first deadline of the batch, so that its client gets an error
that names the server, and not DEADLINE_EXCEEDED. The question is then repeated for the calls with later
deadlines.

The jobs of a batch are held by filter, because each filter is a question of its own, and those that search
for nothing are not held. If a question fails, only the jobs that need its answer fail.

Exact comparisons are made by other threads of this process, in parts of a quarter of a second, so that
searches take turns.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from twinspire.protos.errors import Overloaded, Unavailable
from twinspire.serving.index.remote_search import (
    Answers,
    Best,
    ExpressionRefused,
    OutOfTime,
    Question,
    SearchPending,
    ThreadComparison,
    answered_by,
)
from twinspire.serving.retrieval.query import EncodedQueries, PreparedQuery, SearchOptions, SearchResult
from twinspire.serving.retrieval.retriever import Retriever

log = logging.getLogger(__name__)

THREADS = 16  # questions under way at once; others wait for one to end
COMPARING_THREADS = 2  # comparisons at once
MAX_COMPARED = 1 << 30  # pairs of a query and an item that wait to be compared; more are refused
MAX_COUNTED = 64  # queries of one question that count in `MAX_COMPARED`: longer ones are answered in parts
MAX_QUERIES = 4096  # held at once; more are refused
MAX_ROUNDS = 8  # questions of the searches with one filter, after each other
SECONDS = 5.0  # of a question, at most
MARGIN = 0.9  # of the time until the first deadline, which a question may take
PATIENCE = 0.5  # of a question's time, which a call must have left for the question to be repeated
RETRY_SECONDS = 0.1


class HeldJob(Protocol):
    """The attributes of a `serving.engine.batching.Job` that are used here."""

    retriever: Retriever
    prepared: Sequence[PreparedQuery]
    options: SearchOptions
    deadline: float
    held: bool
    used: float
    error: Exception | None
    done: Callable[[Any], None]


@dataclass
class RemoteSearch:
    """A batch whose queries are encoded.

    Args:
        jobs: of one retriever.
        encoded: their queries.
        options: gives the options of each query.
        deliver: hands the results to the jobs.
        answers: that the other server has given so far.
        rounds: questions so far.
        comparisons: how many of these questions were exact comparisons in this process.
        failure: why the missing answers will not come; None while they may.
    """

    jobs: Sequence[HeldJob]
    encoded: EncodedQueries
    options: Callable[[Sequence[Any]], list[SearchOptions]]
    deliver: Callable[[Sequence[Any], EncodedQueries, list[SearchResult], bool], None]
    answers: Answers = field(init=False)
    rounds: int = 0
    comparisons: int = 0
    failure: Exception | None = None

    def __post_init__(self) -> None:
        self.answers = Answers(self.encoded.vectors)

    def of(self, jobs: Sequence[HeldJob]) -> "RemoteSearch":
        """The same search for some of the jobs."""
        places: list[int] = []
        first = 0
        wanted = {id(job) for job in jobs}
        for job in self.jobs:
            last = first + len(job.prepared)
            places += range(first, last) if id(job) in wanted else ()
            first = last
        contexts = tuple([self.encoded.contexts[n] for n in places])
        terms = tuple([self.encoded.terms[n] for n in places]) if self.encoded.terms else ()
        unknown = tuple([self.encoded.unknown[n] for n in places]) if self.encoded.unknown else ()
        vectors = self.encoded.vectors[places]
        encoded = self.encoded._replace(vectors=vectors, contexts=contexts, terms=terms, unknown=unknown)
        part = replace(self, jobs=jobs, encoded=encoded)
        part.answers = self.answers
        return part

    def apart(self, jobs: Sequence[HeldJob]) -> "RemoteSearch":
        """The same search for some of the jobs, with answers that the other jobs do not share."""
        part = self.of(jobs)
        part.answers = Answers(part.encoded.vectors)
        return part


class RemoteBatches:
    """The batches that are held; for the event loop's thread.

    Args:
        call_soon: calls a function on the event loop's thread, from any thread.
        wait_for, waited_for: the loop polls more often in between (`Dispatcher`).
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], None],
        wait_for: Callable[[object], None],
        waited_for: Callable[[object], None],
    ) -> None:
        self._call_soon, self._wait_for, self._waited_for = call_soon, wait_for, waited_for
        self._pool: ThreadPoolExecutor | None = None
        self._comparing: ThreadPoolExecutor | None = None
        self._compared = 0  # pairs of a query and an item that wait to be compared
        self.queries = 0  # held

    def with_room(self, jobs: Sequence[Any]) -> list[Any]:
        """The jobs that may be held, and those without a search; the others get the error `Overloaded`."""
        queries = self.queries
        found = []
        for job in jobs:
            count = len(job.prepared) if job.options.k else 0
            if queries and count and queries + count > MAX_QUERIES:
                text = "more searches wait for the server of the index than are allowed"
                job.error = Overloaded(text, RETRY_SECONDS)
            else:
                queries += count
                found.append(job)
        return found

    def begin(self, search: RemoteSearch) -> None:
        """Search, or hold the jobs until the other server has answered; a job that fails gets its error."""
        groups: dict[tuple[bool, int], list[HeldJob]] = {}
        for job in search.jobs:
            groups.setdefault((job.options.k > 0, id(job.options.filter)), []).append(job)
        for jobs in groups.values():
            self._search(search if len(groups) == 1 else search.apart(jobs))

    def stop(self) -> None:
        """End the threads; questions that are under way are not waited for."""
        for pool in (self._pool, self._comparing):
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)

    def _search(self, search: RemoteSearch) -> None:
        try:
            self._try(search)
        except Exception as error:
            if len(search.jobs) > 1:  # only the job at fault gets the error
                for job in search.jobs:
                    self._search(search.of([job]))
            else:
                self._fail(search.jobs, error)

    def _try(self, search: RemoteSearch) -> None:
        retriever = search.jobs[0].retriever
        try:
            with answered_by(search.answers):
                found = retriever.find(search.encoded, search.options(search.jobs))
        except SearchPending as pending:
            if search.failure is not None:
                self._fail(search.jobs, search.failure)
            else:
                self._ask(search, pending.question)
            return
        search.deliver(search.jobs, search.encoded, found, search.jobs[0].held)
        _finish(search.jobs)

    def _ask(self, search: RemoteSearch, question: Question) -> None:
        """Ask the other server on a thread, or compare on one."""
        pairs = _pairs(question)
        if pairs and not search.comparisons and self._compared and self._compared + pairs > MAX_COMPARED:
            what = "more exact comparisons wait than the service makes in time"
            error = Overloaded(f"{what}; try again, with fewer at once", RETRY_SECONDS)
            self._give_up(search, search.jobs, error)
            return
        search.comparisons += pairs > 0  # once a part is compared, the search is not refused
        search.rounds += 1
        if search.rounds - search.comparisons > MAX_ROUNDS:
            why = f"took more than {MAX_ROUNDS} questions"
            self._give_up(search, search.jobs, Unavailable(f"the search on the server of the index {why}"))
            return
        now = time.time()
        late = [job for job in search.jobs if job.error is None and job.deadline <= now]
        if late:
            where = "exact comparison" if pairs else "search on the server of the index"
            self._give_up(search, late, Unavailable(f"the {where} has no time left"))
            if len(late) < len(search.jobs):
                self._search(search.of([job for job in search.jobs if job not in late]))
            return
        # The clients of jobs with an error no longer wait.
        first = min([job.deadline for job in search.jobs if job.error is None], default=math.inf)
        seconds = MARGIN * (first - now)
        if not pairs:
            seconds = min(SECONDS, seconds)
        until = time.monotonic() + seconds

        def ask() -> list[Best]:
            left = until - time.monotonic()  # the question may have waited for a thread
            if left <= 0:
                what = "more is compared exactly" if pairs else "the server of the index is asked more"
                raise OutOfTime(f"{what} than is answered in time")
            return question.remote.ask(question.vectors, question.k, question.expression, left)

        future = self._threads(bool(pairs)).submit(ask)
        for job in search.jobs:
            job.held = True
        count = len(search.encoded.contexts)
        self.queries += count
        self._compared += pairs
        pending = object()  # makes the loop poll often until the answer has come
        self._wait_for(pending)

        def resume(future: "Future[list[Best]]") -> None:
            self.queries -= count
            self._compared -= pairs
            self._waited_for(pending)
            began = time.thread_time()
            for job in search.jobs:
                job.used -= began
            try:
                self._go_on(search, question, future, seconds)
            except Exception as error:  # otherwise the clients would wait until their deadlines
                log.exception("a held search could not go on")
                self._fail([job for job in search.jobs if job.held], error)
            ended = time.thread_time()
            for job in search.jobs:
                job.used += ended

        future.add_done_callback(lambda done: self._call_soon(lambda: resume(done)))

    def _threads(self, compare: bool) -> ThreadPoolExecutor:
        """The threads that compare, or the threads that ask the other server."""
        if compare:
            if self._comparing is None:
                self._comparing = ThreadPoolExecutor(COMPARING_THREADS, "compare")
            return self._comparing
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, "remote-search")
        return self._pool

    def _go_on(
        self, search: RemoteSearch, question: Question, future: "Future[list[Best]]", seconds: float
    ) -> None:
        """Search again with the answer to a question, which could take `seconds` at most."""
        try:
            search.answers.add(question, future.result())
        except ExpressionRefused:
            search.answers.refuse(question)
        except OutOfTime as error:  # one call of the batch may have had little time
            now = time.time()
            patient = [job for job in search.jobs if job.deadline - now > PATIENCE * seconds]
            if search.rounds - search.comparisons >= MAX_ROUNDS:
                patient = []
            late = [job for job in search.jobs if job not in patient]
            self._give_up(search, late, Unavailable(str(error)))
            if not patient:
                return
            search = search.of(patient)
        except Unavailable as error:
            self._give_up(search, search.jobs, error)
            return
        except Exception as error:
            if len(search.jobs) == 1:
                self._fail(search.jobs, error)
                return
            for job in search.jobs:  # only the job at fault gets the error
                self._search(search.apart([job]))
            return
        self._search(search)

    def _give_up(self, search: RemoteSearch, jobs: Sequence[HeldJob], error: Exception) -> None:
        """End some of the jobs: with the error if they need an answer that is missing."""
        for job in jobs:
            part = search.of([job])
            part.failure = error
            self._search(part)

    def _fail(self, jobs: Sequence[HeldJob], error: Exception) -> None:
        for job in jobs:
            job.error = error if job.error is None else job.error
        _finish(jobs)


def _pairs(question: Question) -> int:
    """The pairs of a query and an item to compare for a question; 0 if another server answers it."""
    if not isinstance(question.remote, ThreadComparison):
        return 0
    return min(len(question.vectors), MAX_COUNTED) * question.remote.count


def _finish(jobs: Sequence[HeldJob]) -> None:
    """End the jobs that were held; the batcher ends the others."""
    for job in jobs:
        if job.held:
            job.held = False
            try:
                job.done(job)
            except Exception:  # must not affect the other jobs
                log.exception("a held job could not be ended")
