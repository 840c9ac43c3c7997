"""The service `retrieval.v1.Retrieval`: reads requests, checks bounds, and says what is to be answered."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from protos import retrieval_pb2 as wire
from protos.errors import InvalidInput
from serving import convert
from serving.batching import Job
from serving.guard import caller
from serving.limits import Limits
from serving.query import Query
from serving.ratelimit import RateLimit
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
        self._state = state
        self._tap = tap
        self._started = time.monotonic()

    def Search(self, request: wire.SearchRequest, rpc: Rpc) -> Job:
        """The k items nearest to one query."""
        if not request.HasField("query"):
            raise InvalidInput("query", "required, but missing")
        served = self._choose(rpc, request.query)
        queries = [self._query(request.query, "query")]
        answer: Callable[[Job], bytes] = served.response
        if self._tap is not None and served is self.lineup.champion and self._tap.wants():
            answer = self._tapped(request, served)
        return self._job(served, queries, ["query"], self._wanted(served, request), rpc, answer)

    SearchStream = Search  # one answer for each request, in order

    def SearchBatch(self, request: wire.SearchBatchRequest, rpc: Rpc) -> Job:
        """Many queries in one call."""
        queries, names = self._batch(request.queries)
        served = self._choose(rpc, request.queries[0])
        return self._job(served, queries, names, self._wanted(served, request), rpc, served.batch_response)

    def Encode(self, request: wire.EncodeRequest, rpc: Rpc) -> Job:
        """The vectors of queries."""
        queries, names = self._batch(request.queries)
        served = self._choose(rpc, request.queries[0])
        return self._job(served, queries, names, NOTHING, rpc, served.vectors_response)

    def Info(self, request: wire.InfoRequest, rpc: Rpc) -> wire.InfoResponse:
        """What is being served."""
        uptime_seconds = time.monotonic() - self._started
        return convert.info_to_wire(
            self.lineup.champion.manifest, self._limits, uptime_seconds, self._state()
        )

    def encode(self, queries: Sequence[Query], rpc: Rpc) -> npt.NDArray[np.float32]:
        """The champion's vectors of queries, at once; for who speaks another protocol."""
        rpc.served = self.lineup.champion
        self._admit(rpc, len(queries))
        rpc.check("encode")
        return self.lineup.champion.retriever.encode(queries).vectors

    def encode_items(self, items: Sequence[Query], rpc: Rpc) -> npt.NDArray[np.float32]:
        """The champion's vectors of items, at once."""
        rpc.served = self.lineup.champion
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

    def _tapped(self, request: wire.SearchRequest, served: Served) -> Callable[[Job], bytes]:
        """As `served.response`, and the tap is told of it."""

        def answer(job: Job) -> bytes:
            response = served.response(job)
            if self._tap is not None:
                self._tap.offer(request, response, job.batch)
            return response

        return answer

    def _job(
        self,
        served: Served,
        queries: Sequence[Query],
        names: Sequence[str],
        wanted: Wanted,
        rpc: Rpc,
        answer: Callable[[Job], Any],
    ) -> Job:
        self._admit(rpc, len(queries))
        retriever = served.retriever
        prepare = retriever.prepare
        return Job(retriever, [prepare(*each) for each in zip(queries, names, strict=True)], wanted, answer)

    def _admit(self, rpc: Rpc, queries: int) -> None:
        rpc.queries += queries
        if self._rate is not None:
            self._rate.admit(caller(rpc), queries)

    def _wanted(self, served: Served, request: wire.SearchRequest | wire.SearchBatchRequest) -> Wanted:
        self._limits.check_exclude(request.exclude)
        k = self._limits.k(request.k)
        return served.retriever.wanted(k, request.exclude, request.exclude_history)

    def _batch(self, messages: Sequence[wire.Query]) -> tuple[list[Query], list[str]]:
        self._limits.check_batch(len(messages))
        names = [f"queries[{n}]" for n in range(len(messages))]
        return [self._query(*each) for each in zip(messages, names, strict=True)], names

    def _query(self, message: wire.Query, name: str) -> Query:
        query = convert.query_from_wire(message, name)
        self._limits.check_query(query, name)
        return query
