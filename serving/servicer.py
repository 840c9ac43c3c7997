"""The service `retrieval.v1.Retrieval`: reads requests, checks bounds, and says what is to be answered."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from protos import retrieval_pb2 as wire
from protos.errors import InvalidInput
from serving import convert
from serving.batching import Job
from serving.guard import caller
from serving.limits import Limits
from serving.packed import PackedCatalogue
from serving.query import Query
from serving.ratelimit import RateLimit
from serving.retriever import Retriever
from serving.rpc import Rpc
from serving.stages import NOTHING, Wanted

SERVICE = wire.DESCRIPTOR.services_by_name["Retrieval"]


class RetrievalServicer:
    """Turns requests into jobs; searches give their answers as bytes.

    Args:
        retriever: that answers.
        packed: its catalogue.
        limits: that requests must keep to.
        rate: that each client must keep to, if there is one.
        state: gives what `Info` tells of the service itself.
    """

    def __init__(
        self,
        retriever: Retriever,
        packed: PackedCatalogue,
        limits: Limits,
        rate: RateLimit | None,
        state: Callable[[], dict[str, Any]],
    ) -> None:
        self._retriever = retriever
        self._packed = packed
        self._limits = limits
        self._rate = rate
        self._state = state
        self._version = retriever.manifest.bundle_version
        self._started = time.monotonic()

    def Search(self, request: wire.SearchRequest, rpc: Rpc) -> Job:
        """The k items nearest to one query."""
        if not request.HasField("query"):
            raise InvalidInput("query", "required, but missing")
        queries = [self._query(request.query, "query")]
        return self._job(queries, ["query"], self._wanted(request), rpc, self._response)

    SearchStream = Search  # one answer for each request, in order

    def SearchBatch(self, request: wire.SearchBatchRequest, rpc: Rpc) -> Job:
        """Many queries in one call."""
        queries, names = self._batch(request.queries)
        return self._job(queries, names, self._wanted(request), rpc, self._batch_response)

    def Encode(self, request: wire.EncodeRequest, rpc: Rpc) -> Job:
        """The vectors of queries."""
        queries, names = self._batch(request.queries)
        return self._job(queries, names, NOTHING, rpc, self._vectors)

    def Info(self, request: wire.InfoRequest, rpc: Rpc) -> wire.InfoResponse:
        """What is being served."""
        uptime_seconds = time.monotonic() - self._started
        return convert.info_to_wire(self._retriever.manifest, self._limits, uptime_seconds, self._state())

    def encode(self, queries: Sequence[Query], rpc: Rpc) -> npt.NDArray[np.float32]:
        """The vectors of queries, at once; for who speaks another protocol."""
        self._admit(rpc, len(queries))
        rpc.check("encode")
        return self._retriever.encode(queries).vectors

    def _job(
        self,
        queries: Sequence[Query],
        names: Sequence[str],
        wanted: Wanted,
        rpc: Rpc,
        answer: Callable[[Job], Any],
    ) -> Job:
        self._admit(rpc, len(queries))
        prepare = self._retriever.prepare
        return Job([prepare(*each) for each in zip(queries, names, strict=True)], wanted, answer)

    def _admit(self, rpc: Rpc, queries: int) -> None:
        rpc.queries += queries
        if self._rate is not None:
            self._rate.admit(caller(rpc), queries)

    def _response(self, job: Job) -> bytes:
        return self._packed.response(job.found[0], self._version, job.timing)

    def _batch_response(self, job: Job) -> bytes:
        return self._packed.batch_response(job.found, self._version, job.timing)

    def _vectors(self, job: Job) -> wire.EncodeResponse:
        return wire.EncodeResponse(
            vectors=[wire.Vector(values=vector) for vector in job.vectors.tolist()],
            bundle_version=self._version,
            timing=convert.timing_to_wire(job.timing),
        )

    def _wanted(self, request: wire.SearchRequest | wire.SearchBatchRequest) -> Wanted:
        self._limits.check_exclude(request.exclude)
        k = self._limits.k(request.k)
        return self._retriever.wanted(k, request.exclude, request.exclude_history)

    def _batch(self, messages: Sequence[wire.Query]) -> tuple[list[Query], list[str]]:
        self._limits.check_batch(len(messages))
        names = [f"queries[{n}]" for n in range(len(messages))]
        return [self._query(*each) for each in zip(messages, names, strict=True)], names

    def _query(self, message: wire.Query, name: str) -> Query:
        query = convert.query_from_wire(message, name)
        self._limits.check_query(query, name)
        return query
