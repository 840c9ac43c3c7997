"""The client for asyncio: the methods of `blocking.py` as coroutines."""

import asyncio
import time
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, Unpack

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from protos import catalogue_pb2_grpc, retrieval_pb2_grpc
from protos import retrieval_pb2 as wire
from serving.client import items as catalogue
from serving.client import protocol
from serving.client.failures import error_from
from serving.client.items import ChangePage, Item, ItemState, Mode, Written
from serving.client.protocol import (
    MAX_ANSWER_BYTES,
    TIMEOUT_SECONDS,
    CatalogueRetries,
    ClientConnection,
    Metadata,
    SearchArguments,
)
from serving.client.security import Security
from serving.retrieval.answer import Answer, Scores
from serving.retrieval.query import Query, Value, refuse_lone_string
from serving.wire import converters
from serving.wire.converters import Info

Queries = Iterable[Query | str] | AsyncIterable[Query | str]


class AsyncRetrievalClient:
    """`RetrievalClient` for asyncio; it belongs to the event loop in which it is created.

    Arguments and errors are those of `RetrievalClient`. Cancelling a task cancels its call.
    """

    def __init__(
        self,
        address: str,
        timeout: float = TIMEOUT_SECONDS,
        security: Security | None = None,
        retries: bool = True,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self.address = address
        self._connection = ClientConnection(
            address, timeout, security or Security(), retries, max_answer_bytes=max_answer_bytes
        )
        self._channel = self._connection.open(grpc.aio)
        self._stub = retrieval_pb2_grpc.RetrievalStub(self._channel)
        self._catalogue = catalogue_pb2_grpc.CatalogueStub(self._channel)
        self._health = protocol.health_call(self._channel)

    async def search(
        self,
        query: Query | str,
        k: int = 0,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Unpack[SearchArguments],
    ) -> Answer:
        """As `RetrievalClient.search`."""
        request = protocol.search_request(query, protocol.search_fields(k, options))
        response = await self._call(self._stub.Search, request, timeout, metadata)
        return protocol.answer(response, options, self.address)

    async def search_batch(
        self,
        queries: Sequence[Query | str],
        k: int = 0,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Unpack[SearchArguments],
    ) -> list[Answer]:
        """As `RetrievalClient.search_batch`."""
        request = protocol.batch_request(queries, protocol.search_fields(k, options))
        response = await self._call(self._stub.SearchBatch, request, timeout, metadata)
        return protocol.answers(response, options, self.address, len(request.queries))

    def search_stream(
        self,
        queries: Queries,
        k: int = 0,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Unpack[SearchArguments],
    ) -> AsyncIterator[Answer]:
        """As `RetrievalClient.search_stream`; the queries may come from an asynchronous iterator too."""
        refuse_lone_string(queries, "queries", "queries")
        fields, sent = protocol.search_fields(k, options), protocol.SentQueries()

        async def requests() -> AsyncIterator[wire.SearchRequest]:
            try:
                async for query in _each(queries):
                    request = protocol.search_request(query, fields)
                    sent.count += 1
                    yield request
                sent.ended = True
            except Exception as error:  # gRPC would cancel the call, without the cause
                sent.error = error

        return self._stream(requests(), sent, options, timeout, self._connection.metadata(metadata))

    async def encode(
        self, queries: Sequence[Query | str], timeout: float | None = None, metadata: Metadata = ()
    ) -> npt.NDArray[np.float32]:
        """As `RetrievalClient.encode`."""
        request = protocol.encode_request(queries)
        response = await self._call(self._stub.Encode, request, timeout, metadata)
        return protocol.vectors(response, len(request.queries), self.address)

    async def encode_items(
        self, items: Sequence[Mapping[str, Value]], timeout: float | None = None, metadata: Metadata = ()
    ) -> npt.NDArray[np.float32]:
        """As `RetrievalClient.encode_items`."""
        request = protocol.encode_items_request(items)
        response = await self._call(self._stub.Encode, request, timeout, metadata)
        return protocol.vectors(response, len(request.items), self.address)

    async def score(
        self,
        query: Query | str,
        item_ids: Sequence[str],
        timeout: float | None = None,
        metadata: Metadata = (),
        min_sequence: int = 0,
    ) -> Scores:
        """As `RetrievalClient.score`."""
        return (await self.score_batch([(query, item_ids)], timeout, metadata, min_sequence))[0]

    async def score_batch(
        self,
        pairs: Sequence[tuple[Query | str, Sequence[str]]],
        timeout: float | None = None,
        metadata: Metadata = (),
        min_sequence: int = 0,
    ) -> list[Scores]:
        """As `RetrievalClient.score_batch`."""
        request = protocol.score_request(pairs, min_sequence)
        response = await self._call(self._stub.Score, request, timeout, metadata)
        return protocol.scores(response, len(request.queries), self.address)

    async def upsert(
        self,
        items: Iterable[Item],
        mode: Mode = "upsert",
        request_id: str | None = None,
        timeout: float | None = None,
        strict: bool = True,
        metadata: Metadata = (),
    ) -> Written:
        """As `RetrievalClient.upsert`."""
        request = catalogue.upsert_request(items, mode, request_id)
        return await self.write("Upsert", request, timeout, strict, metadata)

    async def delete(
        self,
        ids: Iterable[str],
        request_id: str | None = None,
        expected: Mapping[str, int] | None = None,
        timeout: float | None = None,
        strict: bool = True,
        metadata: Metadata = (),
    ) -> Written:
        """As `RetrievalClient.delete`."""
        request = catalogue.delete_request(ids, request_id, expected or {})
        return await self.write("Delete", request, timeout, strict, metadata)

    async def write(
        self,
        method: str,
        request: Any,
        timeout: float | None = None,
        strict: bool = True,
        metadata: Metadata = (),
    ) -> Written:
        """As `RetrievalClient.write`."""
        response = await self._call_catalogue(getattr(self._catalogue, method), request, timeout, metadata)
        protocol.check_count(len(response.results), len(request.items), self.address)
        return catalogue.written(response, request, strict)

    async def get(
        self, ids: Iterable[str], timeout: float | None = None, metadata: Metadata = ()
    ) -> list[ItemState]:
        """As `RetrievalClient.get`."""
        request = catalogue.get_request(ids)
        response = await self._call_catalogue(self._catalogue.Get, request, timeout, metadata)
        protocol.check_count(len(response.items), len(request.ids), self.address)
        return catalogue.states(response)

    def changes(
        self,
        after: int = 0,
        follow: bool = False,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> AsyncIterator[ChangePage]:
        """As `RetrievalClient.changes`."""
        request = catalogue.changes_request(after, follow)
        return self._changes(request, timeout, self._connection.metadata(metadata))

    async def info(self, timeout: float | None = None, metadata: Metadata = ()) -> Info:
        """As `RetrievalClient.info`."""
        return converters.info_from_wire(
            await self._call(self._stub.Info, wire.InfoRequest(), timeout, metadata)
        )

    async def call(
        self, method: str, request: Message, timeout: float | None = None, metadata: Metadata = ()
    ) -> Any:
        """As `RetrievalClient.call`."""
        return await self._call(protocol.unary(self._stub, method, request), request, timeout, metadata)

    async def wait_ready(self, timeout: float = 30.0) -> None:
        """As `RetrievalClient.wait_ready`."""
        until = time.monotonic() + timeout
        why = ""
        while (left := until - time.monotonic()) > 0:
            try:
                metadata = self._connection.metadata()
                health = await self._connection.begin(
                    self._health, protocol.HEALTH, left, metadata, wait_for_ready=True
                )
                if protocol.serves(health):
                    return
            except grpc.RpcError as failure:
                why = protocol.why_not_ready(failure, self.address)
            await asyncio.sleep(min(protocol.READY_POLL_SECONDS, max(0.0, until - time.monotonic())))
        raise protocol.never_ready(self.address, timeout, why)

    async def close(self) -> None:
        """Close the connection, and end open calls."""
        self._connection.closed.set()
        await self._channel.close()

    async def __aenter__(self) -> "AsyncRetrievalClient":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _call(self, method: Any, request: Any, timeout: float | None, metadata: Metadata) -> Any:
        connection = self._connection
        try:
            response = await connection.begin(
                method, request, connection.seconds(timeout), connection.metadata(metadata)
            )
            return protocol.received(response, self.address)
        except grpc.RpcError as failure:
            raise error_from(failure, self.address) from failure

    async def _call_catalogue(
        self, method: Any, request: Any, timeout: float | None, metadata: Metadata
    ) -> Any:
        """Call a method of the catalogue, and repeat it as `CatalogueRetries` allows."""
        connection = self._connection
        attempts = CatalogueRetries(connection, timeout)
        given = connection.metadata(metadata)
        while True:
            try:
                response = await connection.begin(method, request, attempts.seconds, given)
                return protocol.received(response, self.address)
            except grpc.RpcError as failure:
                error = catalogue.failure(failure, self.address, request)
                pause = attempts.pause(failure, error)
            await asyncio.sleep(pause)
            if connection.closed.is_set():
                raise error

    async def _changes(self, request: Any, timeout: float | None, metadata: Any) -> AsyncIterator[ChangePage]:
        responses = self._connection.begin(self._catalogue.Changes, request, timeout, metadata)
        try:
            async for response in responses:
                yield catalogue.page(protocol.received(response, self.address))
        except grpc.RpcError as error:
            raise catalogue.failure(error, self.address, request) from error
        finally:
            responses.cancel()

    async def _stream(
        self,
        requests: AsyncIterator[Any],
        sent: protocol.SentQueries,
        options: SearchArguments,
        timeout: float | None,
        metadata: Any,
    ) -> AsyncIterator[Answer]:
        responses = self._connection.begin(self._stub.SearchStream, requests, timeout, metadata)
        statuses: list[grpc.aio.AioRpcError] = []
        responses.add_done_callback(lambda call: statuses.append(final_status(call)))
        answers = 0
        try:
            async for response in responses:
                answers += 1
                yield protocol.answer(protocol.received(response, self.address), options, self.address)
        except grpc.RpcError as failure:
            first = statuses[0] if statuses else failure
            raise error_from(first, self.address) from failure
        finally:
            responses.cancel()
        sent.require_answers(answers, self.address)


def final_status(call: Any) -> grpc.aio.AioRpcError:
    """The status of a call; call it in the call's done callback.

    Later the status may be INTERNAL instead, if a request could not be sent because the server had ended the
    stream: https://github.com/grpc/grpc/issues/36066.
    """
    code, trailers, details = map(_finished, (call.code(), call.trailing_metadata(), call.details()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details, None)


def _finished(result: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for.

    Raises:
        AssertionError: it waits.
    """
    try:
        result.send(None)
    except StopIteration as done:
        return done.value
    result.close()
    raise AssertionError("the status of a call that has ended is not there")


async def _each(queries: Queries) -> AsyncIterator[Query | str]:
    if isinstance(queries, AsyncIterable):
        async for query in queries:
            yield query
    else:
        for query in queries:
            yield query
