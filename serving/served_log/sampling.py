"""The workers' end of the served log: takes a share of the answers, and sends them to its process.

`Explorer` draws the order of a share of the answers at random, with probabilities that the log keeps.

A worker sends what is at hand: the bytes of the answer, and a few values of the query as `marshal` writes
them for another process of the same program. To make the columns of a file of them would take it several
times as long, and looking up ids would unshare the memory of the catalogue.
"""

import logging
import marshal
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from random import random
from typing import Any, NamedTuple

import numpy as np

from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.engine.batching import Job
from twinspire.serving.retrieval.query import Draw, SearchResult
from twinspire.serving.served_log.config import ServedLogConfig
from twinspire.serving.served_log.shared_queue import SharedQueues

log = logging.getLogger(__name__)

MOST_AT_ONCE = 64  # answers that are written at once, unless they have more bytes
MOST_BYTES = 32 << 10  # of answers that are written at once, unless one alone has more
NONE: frozenset[int] = frozenset()
MEASURED = 0.1  # share of all queries that are measured for drift at most: it takes 5 us
MOST_MEASURED = 20  # queries that a worker measures in a second at most
SECOND = 10**9  # nanoseconds
# Of the default temperature, in spans of the scores drawn from; `serving/RESULTS.md` has what it does.
SPAN_SHARE = 0.1
LEAST_TEMPERATURE = 1e-6  # of scores that are all equal
Request = wire.SearchRequest | wire.SearchBatchRequest
MakeAnswer = Callable[[Job], bytes]
# Makes the `SearchResponse` of the query of a number, from the job and its answer.
AnswerOf = Callable[[Job, bytes, int], bytes]
# An answer of which the log takes some queries; a tuple with names takes seven times as long to make.
TakenAnswer = tuple[
    int,  # when it was answered, in nanoseconds since 1970
    Job,  # that is done
    bytes,  # that the client gets
    AnswerOf,  # makes the answer to one query of it
    Sequence[int],  # numbers of the queries that are taken
    Sequence[wire.Query],  # all of the request
    int,  # hits that were asked for
    Request,  # that has the queries
]


class LoggedQuery(NamedTuple):
    """What is logged of a query besides its answer.

    Args:
        time: when it was answered, in nanoseconds since 1970.
        user: the key, if there is one.
        features: values of its features, without its texts unless these are to be written.
        k: hits that were asked for.
        filter: serialised; empty without one.
        candidates: ids and scores of the items that an explored answer was drawn from, and the temperature.
        teams: of an interleaved answer, the version of the challenger, and the team of each hit.
        measures: of the query, where it is measured for drift.
        comparable: whether the answer can be compared with the reference for drift: that of one bundle, not
            explored, to a default search for a query of which the towers know something.
    """

    time: int
    user: str | None
    features: Mapping[str, Any]
    k: int
    filter: bytes
    candidates: tuple[list[str], list[float], float] | None = None
    teams: tuple[str, list[int | None]] | None = None
    measures: list[float] | None = None
    comparable: bool = False


def decoded(content: bytes) -> list[tuple[LoggedQuery, bytes]]:
    """Queries and their answers, each a `SearchResponse`, from what a worker has sent at once."""
    return [(LoggedQuery._make(query), answer) for query, answer in marshal.loads(content)]


@dataclass
class Explorer:
    """Draws the order of the best items of answers by chance, with probabilities that are known.

    The draw is that of Plackett and Luce (Plackett, The Analysis of Permutations, 1975): the next item is
    drawn from those that are left with a probability in proportion to exp(score / temperature). Items in the
    order of score / temperature plus a Gumbel variable each are such a draw (Kool et al., Stochastic Beams
    and Where to Find Them, 2019, section 2).

    Args:
        top: best items of which the order is drawn; the others follow by their scores.
        temperature: of the draw; None for `SPAN_SHARE` of the span of the scores drawn from.
        random: by default seeded by the system, so make it after a fork.
    """

    top: int
    temperature: float | None = None
    random: np.random.Generator = field(default_factory=np.random.default_rng)

    def explored(self, found: SearchResult, k: int) -> SearchResult:
        """The first `k` items of a drawn order, with its probabilities; unchanged if there is no choice.

        Args:
            found: the best items by their scores, at least `max(k, top)` of them if there are as many.
        """
        scores = np.asarray(found.scores[: self.top], np.float32).astype(np.float64)  # as logged
        if len(scores) < 2:
            return found.first(k)
        span = float(scores.max() - scores.min())
        temperature = self.temperature or max(SPAN_SHARE * span, LEAST_TEMPERATURE)
        logits = scores / temperature
        drawn = np.argsort(-(logits + self.random.gumbel(size=len(logits))), kind="stable")
        left = np.logaddexp.accumulate(logits[drawn][::-1])[::-1]  # of the items from each on
        propensities = np.exp(logits[drawn] - left)
        draw = Draw(found.rows[: self.top], scores.tolist(), propensities[:k].tolist(), temperature)
        rest = max(0, min(k, len(found.rows)) - len(drawn))
        draw.propensities.extend([1.0] * rest)
        return found.at([*drawn.tolist(), *range(len(drawn), len(drawn) + rest)][:k])._replace(draw=draw)


class AnswerSampler:
    """Chooses the answers of a worker that the log takes; for one thread. Make it after the fork.

    Args:
        queues: to the process of the log.
        slot: of the worker.
        call_soon: calls a function on the same thread, once the answers at hand have been sent to clients.
    """

    def __init__(
        self,
        config: ServedLogConfig,
        queues: SharedQueues,
        slot: int,
        call_soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self._config, self._queues, self._slot = config, queues, slot
        self._call_soon = call_soon
        self._share, self._explored_share = config.served_log_share, config.explore_share or 0.0
        self._taken: list[TakenAnswer] = []  # that are not written yet
        self._has_failed = False
        self._second, self._measured = 0, 0  # since 1970, and the queries that were measured in it
        self.explorer = Explorer(config.explore_top, config.explore_temperature)
        self._whole = SampledQueries(self, range(1), NONE)  # of a request with one query

    @property
    def explores(self) -> bool:
        """Whether the order of some answers is drawn."""
        return self._explored_share > 0

    def sample(self, queries: int, explores: bool = True) -> "SampledQueries | None":
        """The queries of a request that are taken; None if none is.

        Args:
            explores: whether the order of some may be drawn.
        """
        share = self._explored_share if explores else 0.0
        if self._share >= 1 and not share:
            return self._whole if queries == 1 else SampledQueries(self, range(queries), NONE)
        drawn = [random() for _ in range(queries)]  # `random` is seeded again in every fork
        taken = [n for n, each in enumerate(drawn) if each < self._share]
        if not taken:
            return None
        return SampledQueries(self, taken, {n for n in taken if drawn[n] < share} if share else NONE)

    def take(self, answer: TakenAnswer) -> None:
        """Log some queries of a job that is done, soon: many answers at once cost less than each alone."""
        if not self._taken:
            self._call_soon(self.send)
        self._taken.append(answer)

    def send(self) -> None:
        """Send the taken answers: for the worker's thread, or after the last answer for any."""
        taken, self._taken = self._taken, []
        rows: list[tuple[Any, bytes]] = []
        size = 0
        for each in taken:
            _, job, whole, answer_of, places, *_ = each
            for place in places:
                try:
                    answer = answer_of(job, whole, place)
                    rows.append((self._row(each, place), answer))
                    size += len(answer)
                except Exception:
                    self._fail()
                if len(rows) == MOST_AT_ONCE or size >= MOST_BYTES:
                    self._send(rows)
                    rows, size = [], 0
        if rows:
            self._send(rows)

    def _send(self, rows: list[tuple[Any, bytes]]) -> None:
        try:
            content = marshal.dumps(rows)
        except Exception:
            if len(rows) == 1:
                self._fail()
            else:  # the others can be written
                for row in rows:
                    self._send([row])
            return
        self._queues.put(self._slot, content, len(rows))

    def _row(self, taken: TakenAnswer, place: int) -> tuple[Any, ...]:
        """The values of a `LoggedQuery`."""
        at, job, _, _, _, queries, k, request = taken
        query, options = queries[place], job.options
        retriever, values, found = job.retriever, job.prepared[place].values, job.found[place]
        measures = None
        if values is None:
            features: dict[str, Any] = {"item_id": query.item_id}
        else:
            names = values if self._config.served_log_texts else retriever.query_form.others
            features = {name: values[name] for name in names if values[name] is not None}
            if retriever.measures is not None and self._is_measured(at):
                measures = retriever.measures(values, job.vectors[place])
        candidates, draw = None, found.draw
        if draw is not None:
            item_id = retriever.items.item_id
            candidates = [*map(item_id, draw.rows)], draw.scores, draw.temperature
        mixed = found.interleaved
        teams = None if mixed is None else (mixed.challenger, mixed.teams)
        is_own = draw is None and mixed is None and not request.exclude_shown
        comparable = is_own and found.context.basis.is_searched and retriever.is_default(options)
        filter = b"" if options.filter is None else request.filter.SerializeToString()
        # No query has an empty user.
        return at, query.user or None, features, k, filter, candidates, teams, measures, comparable

    def _is_measured(self, at: int) -> bool:
        """Draw whether a query that was answered at this time is measured for drift."""
        if random() * self._share >= MEASURED:
            return False
        second = at // SECOND
        if second != self._second:
            self._second, self._measured = second, 0
        self._measured += 1
        return self._measured <= MOST_MEASURED

    def _fail(self) -> None:
        """Count an answer that could not be logged; the first time, log the exception that is handled."""
        self._queues.fail(self._slot)
        if not self._has_failed:
            log.exception("an answer could not be logged; further such answers are only counted")
        self._has_failed = True


class SampledQueries(NamedTuple):
    """The queries of one request that the log takes.

    Args:
        places: their numbers.
        explored: the numbers of those whose order is drawn.
    """

    sampler: AnswerSampler
    places: Sequence[int]
    explored: Set[int]

    def logged(
        self,
        make: MakeAnswer,
        answer_of: AnswerOf,
        queries: Sequence[wire.Query],
        k: int,
        request: Request,
    ) -> MakeAnswer:
        """`make`, before which explored answers are drawn, and after which the log takes answers.

        Those that are not explored get their first `k` hits.

        Args:
            make: makes the answer of a job that is done.
            answer_of, queries, k, request: as in `TakenAnswer`.
        """

        def logged(job: Job) -> bytes:
            if self.explored:
                explorer = self.sampler.explorer
                job.found = [
                    explorer.explored(found, k) if n in self.explored else found.first(k)
                    for n, found in enumerate(job.found)
                ]
            answer = make(job)
            self.sampler.take((time.time_ns(), job, answer, answer_of, self.places, queries, k, request))
            return answer

        return logged
