"""The client for asyncio: the methods of `blocking.py`, to be awaited."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Collection, Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from grpc_health.v1 import health_pb2_grpc

from protos import retrieval_pb2 as wire
from protos import retrieval_pb2_grpc
from serving import convert
from serving.answer import Answer
from serving.client import messages
from serving.client.channel import TIMEOUT_SECONDS, Connection, Metadata
from serving.client.security import Security
from serving.convert import Info
from serving.query import Query
from serving.status import error_from

Queries = Iterable[Query | str] | AsyncIterable[Query | str]


class AsyncRetrievalClient:
    """`RetrievalClient` for asyncio; it belongs to the event loop in which it is made.

    Arguments and errors are those of `RetrievalClient`. A task that is cancelled takes its call along.
    """

    def __init__(
        self,
        address: str,
        timeout: float = TIMEOUT_SECONDS,
        security: Security | None = None,
        retries: bool = True,
    ) -> None:
        self.address = address
        self._connection = Connection(address, timeout, security or Security(), retries)
        self._channel = self._connection.open(grpc.aio)
        self._stub = retrieval_pb2_grpc.RetrievalStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    async def search(
        self,
        query: Query | str,
        k: int = 0,
        exclude: Collection[str] = (),
        timeout: float | None = None,
        exclude_history: bool = False,
        metadata: Metadata = (),
    ) -> Answer:
        """As `RetrievalClient.search`."""
        request = messages.search_request(query, k, exclude, exclude_history)
        return messages.answer(await self._call(self._stub.Search, request, timeout, metadata))

    async def search_batch(
        self,
        queries: Sequence[Query | str],
        k: int = 0,
        exclude: Collection[str] = (),
        timeout: float | None = None,
        exclude_history: bool = False,
        metadata: Metadata = (),
    ) -> list[Answer]:
        """As `RetrievalClient.search_batch`."""
        request = messages.batch_request(queries, k, exclude, exclude_history)
        return messages.answers(await self._call(self._stub.SearchBatch, request, timeout, metadata))

    def search_stream(
        self,
        queries: Queries,
        k: int = 0,
        exclude: Collection[str] = (),
        timeout: float | None = None,
        exclude_history: bool = False,
        metadata: Metadata = (),
    ) -> AsyncIterator[Answer]:
        """As `RetrievalClient.search_stream`; the queries may come from an asynchronous iterator too."""
        failed: list[Exception] = []

        async def requests() -> AsyncIterator[wire.SearchRequest]:
            try:
                async for query in _each(queries):
                    yield messages.search_request(query, k, exclude, exclude_history)
            except Exception as error:  # for which gRPC would cancel the call, and say no more
                failed.append(error)

        return self._stream(requests(), failed, timeout, self._connection.metadata(metadata))

    async def encode(
        self, queries: Sequence[Query | str], timeout: float | None = None, metadata: Metadata = ()
    ) -> npt.NDArray[np.float32]:
        """As `RetrievalClient.encode`."""
        request = messages.encode_request(queries)
        return messages.vectors(await self._call(self._stub.Encode, request, timeout, metadata))

    async def info(self, timeout: float | None = None, metadata: Metadata = ()) -> Info:
        """As `RetrievalClient.info`."""
        return convert.info_from_wire(
            await self._call(self._stub.Info, wire.InfoRequest(), timeout, metadata)
        )

    async def wait_ready(self, timeout: float = 30.0) -> None:
        """As `RetrievalClient.wait_ready`."""
        until = time.monotonic() + timeout
        why = ""
        while (left := until - time.monotonic()) > 0:
            try:
                health = await self._health.Check(
                    messages.HEALTH, timeout=left, wait_for_ready=True, metadata=self._connection.metadata()
                )
                if messages.serves(health):
                    return
            except grpc.RpcError as failure:
                why = messages.why_not_ready(failure, self.address)
            await asyncio.sleep(min(messages.READY_POLL_SECONDS, max(0.0, until - time.monotonic())))
        raise messages.never_ready(self.address, timeout, why)

    async def close(self) -> None:
        """Give the connection up, and end the calls that are open."""
        await self._channel.close()

    async def __aenter__(self) -> "AsyncRetrievalClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _call(self, method: Any, request: Any, timeout: float | None, metadata: Metadata) -> Any:
        connection = self._connection
        try:
            return await method(
                request, timeout=connection.seconds(timeout), metadata=connection.metadata(metadata)
            )
        except grpc.RpcError as failure:
            raise error_from(failure, self.address) from failure

    async def _stream(
        self, requests: AsyncIterator[Any], failed: list[Exception], timeout: float | None, metadata: Any
    ) -> AsyncIterator[Answer]:
        responses = self._stub.SearchStream(requests, timeout=timeout, metadata=metadata)
        statuses: list[grpc.aio.AioRpcError] = []
        responses.add_done_callback(lambda call: statuses.append(_status(call)))
        try:
            async for response in responses:
                yield messages.answer(response)
        except grpc.RpcError as failure:
            first = statuses[0] if statuses else failure
            raise error_from(first, self.address) from failure
        finally:
            responses.cancel()
        if failed:
            raise failed[0]


def _status(call: Any) -> grpc.aio.AioRpcError:
    """What a call ends with, taken while it ends.

    A moment later a request that could not be sent any more, because the server has ended the stream,
    may have put INTERNAL in its place: https://github.com/grpc/grpc/issues/36066.
    """
    code, trailers, details = map(_finished, (call.code(), call.trailing_metadata(), call.details()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details, None)


def _finished(result: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that has nothing to wait for."""
    try:
        result.send(None)
    except StopIteration as done:
        return done.value
    result.close()
    raise AssertionError("a call that has ended makes its status wait")


async def _each(queries: Queries) -> AsyncIterator[Query | str]:
    if isinstance(queries, AsyncIterable):
        async for query in queries:
            yield query
    else:
        for query in queries:
            yield query
