"""The service `retrieval.v1.Retrieval`: converts, checks bounds, and lets the retriever answer."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc

from protos import retrieval_pb2 as wire
from protos import retrieval_pb2_grpc
from protos.errors import InvalidInput, Unavailable
from serving import convert
from serving.answer import Answer
from serving.limits import Limits
from serving.query import Query
from serving.retriever import Encoded, Retriever
from serving.status import Answering, check_wanted


class HandlerPool(ThreadPoolExecutor):
    """Threads for requests, which know how long each request has waited for its thread."""

    _waited = threading.local()

    def submit(self, handler: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `handler` on a thread as soon as one is free."""
        arrived = time.perf_counter_ns()

        def start() -> Any:
            self._waited.us = (time.perf_counter_ns() - arrived) // 1000
            return handler(*args, **kwargs)

        return super().submit(start)

    @classmethod
    def waited_us(cls) -> int:
        """Microseconds that the request of the current thread has waited; 0 on any other thread."""
        return int(getattr(cls._waited, "us", 0))


class RetrievalServicer(retrieval_pb2_grpc.RetrievalServicer):
    """Answers the service's calls.

    Args:
        retriever: that answers.
        limits: that requests must keep to.
        streams: calls of `SearchStream` that may be open at once; each takes a thread for as long
            as it is, so without a bound a few idle ones would stop the server.
    """

    def __init__(self, retriever: Retriever, limits: Limits, streams: int) -> None:
        self._retriever = retriever
        self._limits = limits
        self._streams = threading.BoundedSemaphore(streams)
        self._started = time.monotonic()

    def Search(self, request: wire.SearchRequest, context: grpc.ServicerContext) -> wire.SearchResponse:
        """The k items nearest to one query."""
        with Answering(context):
            return self._search_one(request, context, HandlerPool.waited_us())

    def SearchBatch(
        self, request: wire.SearchBatchRequest, context: grpc.ServicerContext
    ) -> wire.SearchBatchResponse:
        """Many queries in one call."""
        with Answering(context):
            queue_us = HandlerPool.waited_us()
            queries, names = self._batch(request.queries)
            answers = self._search(queries, names, request, context, queue_us)
            return convert.answers_to_wire(answers)

    def SearchStream(
        self, requests: Iterator[wire.SearchRequest], context: grpc.ServicerContext
    ) -> Iterator[wire.SearchResponse]:
        """One answer for each request, in order."""
        with Answering(context):
            if not self._streams.acquire(blocking=False):
                raise Unavailable("all streams are in use; try again, or use SearchBatch")
            try:
                for request in requests:
                    yield self._search_one(request, context, 0)
            finally:
                self._streams.release()

    def Encode(self, request: wire.EncodeRequest, context: grpc.ServicerContext) -> wire.EncodeResponse:
        """The vectors of queries."""
        with Answering(context):
            queue_us = HandlerPool.waited_us()
            queries, names = self._batch(request.queries)
            encoded = self._encode(queries, names, context)
            return wire.EncodeResponse(
                vectors=[wire.Vector(values=vector) for vector in encoded.vectors.tolist()],
                bundle_version=self._retriever.manifest.bundle_version,
                timing=wire.Timing(queue_us=queue_us, encode_us=encoded.encode_us),
            )

    def Info(self, request: wire.InfoRequest, context: grpc.ServicerContext) -> wire.InfoResponse:
        """What is being served."""
        with Answering(context):
            uptime_seconds = time.monotonic() - self._started
            return convert.info_to_wire(self._retriever.manifest, self._limits, uptime_seconds)

    def _search_one(
        self, request: wire.SearchRequest, context: grpc.ServicerContext, queue_us: int
    ) -> wire.SearchResponse:
        if not request.HasField("query"):
            raise InvalidInput("query", "required, but missing")
        query = self._query(request.query, "query")
        (answer,) = self._search([query], ["query"], request, context, queue_us)
        return convert.answer_to_wire(answer)

    def _search(
        self,
        queries: Sequence[Query],
        names: Sequence[str],
        request: wire.SearchRequest | wire.SearchBatchRequest,
        context: grpc.ServicerContext,
        queue_us: int,
    ) -> list[Answer]:
        k = self._limits.k(request.k)
        self._limits.check_exclude(request.exclude)
        encoded = self._encode(queries, names, context)
        check_wanted(context, "search")
        answers = self._retriever.nearest(encoded, k, request.exclude, request.exclude_history)
        timing = dataclasses.replace(answers[0].timing, queue_us=queue_us)
        return [dataclasses.replace(answer, timing=timing) for answer in answers]

    def _encode(
        self, queries: Sequence[Query], names: Sequence[str], context: grpc.ServicerContext
    ) -> Encoded:
        check_wanted(context, "encode")
        return self._retriever.encode(queries, names)

    def _batch(self, messages: Sequence[wire.Query]) -> tuple[list[Query], list[str]]:
        self._limits.check_batch(len(messages))
        names = [f"queries[{n}]" for n in range(len(messages))]
        return [self._query(*each) for each in zip(messages, names, strict=True)], names

    def _query(self, message: wire.Query, name: str) -> Query:
        query = convert.query_from_wire(message, name)
        self._limits.check_query(query, name)
        return query
