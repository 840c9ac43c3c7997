"""The service `retrieval.v1.Retrieval`: converts, checks bounds, and lets the batching core answer."""

import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial

import grpc

from protos import retrieval_pb2 as wire
from protos import retrieval_pb2_grpc
from protos.errors import InvalidInput, Unavailable
from serving import convert
from serving.answer import Timing
from serving.batching import BatchingCore, Job
from serving.limits import Limits
from serving.packed import PackedCatalogue
from serving.pool import arrived_ns
from serving.query import Query
from serving.stages import NOTHING, Wanted
from serving.status import Answering, check_wanted
from serving.streaming import answer_in_order


class RetrievalServicer(retrieval_pb2_grpc.RetrievalServicer):
    """Answers the service's calls; searches give their answers as bytes.

    Args:
        core: that answers.
        packed: the catalogue of its retriever.
        limits: that requests must keep to.
        streams: calls of `SearchStream` that may be open at once; each takes a thread for as long
            as it is, so without a bound a few idle ones would stop the server.
    """

    def __init__(self, core: BatchingCore, packed: PackedCatalogue, limits: Limits, streams: int) -> None:
        self._core = core
        self._packed = packed
        self._limits = limits
        self._streams = threading.BoundedSemaphore(streams)
        self._started = time.monotonic()

    def Search(self, request: wire.SearchRequest, context: grpc.ServicerContext) -> bytes:  # type: ignore[override]
        """The k items nearest to one query."""
        with Answering(context):
            job = self._core.run(self._search_job(request, context, arrived_ns()))
            return self._packed.response(job.found[0], self._version, _timing(job))

    def SearchBatch(  # type: ignore[override]
        self, request: wire.SearchBatchRequest, context: grpc.ServicerContext
    ) -> bytes:
        """Many queries in one call."""
        with Answering(context):
            arrived = arrived_ns()
            queries, names = self._batch(request.queries)
            job = self._core.run(self._job(queries, names, self._wanted(request), context, arrived))
            return self._packed.batch_response(job.found, self._version, _timing(job))

    def SearchStream(  # type: ignore[override]
        self, requests: Iterator[wire.SearchRequest], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """One answer for each request, in order."""
        with Answering(context):
            if not self._streams.acquire(blocking=False):
                raise Unavailable("all streams are in use; try again, or use SearchBatch")
            try:
                jobs = answer_in_order(
                    requests,
                    lambda request: self._search_job(request, context, time.perf_counter_ns()),
                    self._core,
                    self._limits.max_in_flight,
                )
                for job in jobs:
                    yield self._packed.response(job.found[0], self._version, _timing(job))
            finally:
                self._streams.release()

    def Encode(self, request: wire.EncodeRequest, context: grpc.ServicerContext) -> wire.EncodeResponse:
        """The vectors of queries."""
        with Answering(context):
            arrived = arrived_ns()
            queries, names = self._batch(request.queries)
            job = self._core.run(self._job(queries, names, NOTHING, context, arrived))
            return wire.EncodeResponse(
                vectors=[wire.Vector(values=vector) for vector in job.vectors.tolist()],
                bundle_version=self._version,
                timing=convert.timing_to_wire(_timing(job)),
            )

    def Info(self, request: wire.InfoRequest, context: grpc.ServicerContext) -> wire.InfoResponse:
        """What is being served."""
        with Answering(context):
            uptime_seconds = time.monotonic() - self._started
            return convert.info_to_wire(self._core.retriever.manifest, self._limits, uptime_seconds)

    def _search_job(
        self, request: wire.SearchRequest, context: grpc.ServicerContext, arrived: int
    ) -> Job:
        if not request.HasField("query"):
            raise InvalidInput("query", "required, but missing")
        query = self._query(request.query, "query")
        return self._job([query], ["query"], self._wanted(request), context, arrived)

    def _wanted(self, request: wire.SearchRequest | wire.SearchBatchRequest) -> Wanted:
        self._limits.check_exclude(request.exclude)
        k = self._limits.k(request.k)
        return self._core.retriever.wanted(k, request.exclude, request.exclude_history)

    def _job(
        self,
        queries: Sequence[Query],
        names: Sequence[str],
        wanted: Wanted,
        context: grpc.ServicerContext,
        arrived: int,
    ) -> Job:
        retriever = self._core.retriever
        prepared = [retriever.prepare(*each) for each in zip(queries, names, strict=True)]
        return Job(prepared, wanted, partial(check_wanted, context), arrived)

    def _batch(self, messages: Sequence[wire.Query]) -> tuple[list[Query], list[str]]:
        self._limits.check_batch(len(messages))
        names = [f"queries[{n}]" for n in range(len(messages))]
        return [self._query(*each) for each in zip(messages, names, strict=True)], names

    def _query(self, message: wire.Query, name: str) -> Query:
        query = convert.query_from_wire(message, name)
        self._limits.check_query(query, name)
        return query

    @property
    def _version(self) -> str:
        return self._core.retriever.manifest.bundle_version


def _timing(job: Job) -> Timing:
    return Timing(job.queue_us, job.encode_us, job.search_us)
