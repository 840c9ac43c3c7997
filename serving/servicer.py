"""The service `retrieval.v1.Retrieval`: reads requests, checks bounds, and says what is to be answered."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from protos import retrieval_pb2 as wire
from protos.errors import InvalidInput
from serving import convert
from serving.answer_bytes import AnswerBytes, MakeAnswer
from serving.batching import Job
from serving.guard import caller
from serving.limits import Limits
from serving.query import Query
from serving.ratelimit import RateLimit, tokens
from serving.rpc import Rpc
from serving.served import Lineup, Served
from serving.stages import NOTHING, Wanted

SERVICE = wire.DESCRIPTOR.services_by_name["Retrieval"]


KEY = "x-request-key"  # metadata: requests with the same one are answered by the same bundle


class Tap(Protocol):
    """Takes a part of the searches and their answers to somewhere else."""

    def wants(self) -> bool:
        """Whether it takes the next search."""

    def offer(self, request: wire.SearchRequest, response: bytes, batch: int) -> None:
        """A search that it wanted, its answer, and how many were worked on together; never waits or fails."""


class RetrievalServicer:
    """Turns requests into jobs; searches give their answers as bytes.

    Args:
        lineup: who answers; another may be put in its place on the reactor's thread.
        limits: that requests must keep to.
        rate: that each client must keep to, if there is one.
        state: gives what `Info` tells of the service itself.
        tap: gets a part of the champion's answers, if there is one.
    """

    def __init__(
        self,
        lineup: Lineup,
        limits: Limits,
        rate: RateLimit | None,
        state: Callable[[], dict[str, Any]],
        tap: Tap | None = None,
    ) -> None:
        self.lineup = lineup
        self._limits = limits
        self._rate = rate
        self._sizes = AnswerBytes(limits.max_answer_bytes)
        self._state = state
        self._tap = tap
        self._started = time.monotonic()

    def Search(self, request: wire.SearchRequest, rpc: Rpc) -> Job:
        """The k items nearest to one query."""
        if not request.HasField("query"):
            raise InvalidInput("query", "required, but missing")
        served = self._choose(rpc, request.query)
        queries = [self._query(request.query, "query")]
        wanted = self._wanted(served, request)
        answer: MakeAnswer = served.response
        size = 0
        if wanted.k * served.packed.largest > self._sizes.small:
            answer = self._sizes.checked(served, 1, wanted.k, answer)
            size = self._sizes.expected(served, 1, wanted.k)
        if self._tap is not None and served is self.lineup.champion and self._tap.wants():
            answer = self._tapped(request, answer)
        return self._job(served, queries, ["query"], wanted, rpc, answer, size)

    SearchStream = Search  # one answer for each request, in order

    def SearchBatch(self, request: wire.SearchBatchRequest, rpc: Rpc) -> Job:
        """Many queries in one call."""
        count = self._limits.check_batch(len(request.queries))
        self._limits.check_hits(count, self._limits.k(request.k))  # before any query is read
        queries, names = self._batch(request.queries)
        served = self._choose(rpc, request.queries[0])
        wanted = self._wanted(served, request)
        self._sizes.check_estimate(served, count, wanted.k)
        answer = self._sizes.checked(served, count, wanted.k, served.batch_response)
        size = self._sizes.expected(served, count, wanted.k)
        return self._job(served, queries, names, wanted, rpc, answer, size)

    def Encode(self, request: wire.EncodeRequest, rpc: Rpc) -> Job:
        """The vectors of queries."""
        count = self._limits.check_batch(len(request.queries))
        queries, names = self._batch(request.queries)
        served = self._choose(rpc, request.queries[0])
        size = self._sizes.check_vectors(served.manifest.dimension, count)
        return self._job(served, queries, names, NOTHING, rpc, served.vectors_response, size)

    def Info(self, request: wire.InfoRequest, rpc: Rpc) -> wire.InfoResponse:
        """What is being served."""
        uptime_seconds = time.monotonic() - self._started
        return convert.info_to_wire(
            self.lineup.champion.manifest, self._limits, uptime_seconds, self._state()
        )

    def encode(self, queries: Sequence[Query], rpc: Rpc) -> npt.NDArray[np.float32]:
        """The champion's vectors of queries, at once; for the Open Inference Protocol."""
        rpc.served = self.lineup.champion
        rpc.reserve(self._sizes.check_vectors(rpc.served.manifest.dimension, len(queries)))
        self._admit(rpc, len(queries))
        rpc.check("encode")
        return self.lineup.champion.retriever.encode(queries).vectors

    def encode_items(self, items: Sequence[Query], rpc: Rpc) -> npt.NDArray[np.float32]:
        """The champion's vectors of items, at once."""
        rpc.served = self.lineup.champion
        rpc.reserve(self._sizes.check_vectors(rpc.served.manifest.dimension, len(items)))
        self._admit(rpc, len(items))
        rpc.check("encode")
        tower = self.lineup.champion.item_tower
        assert tower is not None, "offered only where it has been loaded"
        return tower(items, rpc)

    def _choose(self, rpc: Rpc, query: wire.Query) -> Served:
        """Who answers: by the key that the client gives, or else by the query."""
        lineup = self.lineup
        if lineup.canary is None:
            rpc.served = lineup.champion
        else:
            key = next((value for name, value in rpc.metadata if name == KEY), None)
            if key is None:
                key = query.SerializeToString(deterministic=True)
            rpc.served = lineup.choose(key if isinstance(key, bytes) else key.encode())
        return rpc.served

    def _tapped(self, request: wire.SearchRequest, answer: MakeAnswer) -> MakeAnswer:
        """As `answer`, and the tap gets the response too."""

        def tapped(job: Job) -> bytes:
            response = answer(job)
            if self._tap is not None:
                self._tap.offer(request, response, job.batch)
            return response

        return tapped

    def _job(
        self,
        served: Served,
        queries: Sequence[Query],
        names: Sequence[str],
        wanted: Wanted,
        rpc: Rpc,
        answer: Callable[[Job], Any],
        size: int,
    ) -> Job:
        width = wanted.k + len(wanted.exclude)
        history = sum(map(_history, queries)) if wanted.exclude_history else 0
        self._admit(rpc, len(queries), len(queries) * width + history)
        retriever = served.retriever
        prepare = retriever.prepare
        prepared = [prepare(*each) for each in zip(queries, names, strict=True)]
        job = Job(retriever, prepared, wanted, answer, size)
        job.cost += history
        return job

    def _admit(self, rpc: Rpc, queries: int, items: int = 0) -> None:
        """Count queries, and the items that their searches look for."""
        rpc.queries += queries
        if self._rate is not None:
            self._rate.admit(caller(rpc), tokens(queries, items))

    def _wanted(self, served: Served, request: wire.SearchRequest | wire.SearchBatchRequest) -> Wanted:
        self._limits.check_exclude(request.exclude)
        k = self._limits.k(request.k)
        return served.retriever.wanted(k, request.exclude, request.exclude_history)

    def _batch(self, messages: Sequence[wire.Query]) -> tuple[list[Query], list[str]]:
        names = [f"queries[{n}]" for n in range(len(messages))]
        return [self._query(*each) for each in zip(messages, names, strict=True)], names

    def _query(self, message: wire.Query, name: str) -> Query:
        query = convert.query_from_wire(message, name)
        self._limits.check_query(query, name)
        return query


def _history(query: Query) -> int:
    """Items of a query's history at most, wherever the query holds it."""
    values = query.features.values()
    return len(query.history) + sum(len(each) for each in values if isinstance(each, tuple))
