"""The client whose calls block the thread that makes them."""

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
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


class RetrievalClient:
    """Calls the service at an address, over one connection; safe to use from several threads.

    Args:
        address: `host:port`.
        timeout: seconds that a call may take, retries included, unless it says otherwise.
        security: TLS and token; without it the connection is neither encrypted nor authenticated.
        retries: whether gRPC repeats calls that end in UNAVAILABLE or RESOURCE_EXHAUSTED.

    Raises:
        DataError: a file of `security` cannot be read, or is not what it should be.
        InvalidInput: the token would travel in the clear to another machine.
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
        self._channel = self._connection.open(grpc)
        self._stub = retrieval_pb2_grpc.RetrievalStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def search(
        self,
        query: Query | str,
        k: int = 0,
        exclude: Collection[str] = (),
        timeout: float | None = None,
        exclude_history: bool = False,
        metadata: Metadata = (),
    ) -> Answer:
        """The `k` items nearest to one query.

        Args:
            query: a text, or all that a query can hold.
            k: 0 for the server's default.
            exclude: item ids that must not be in the answer.
            timeout: in seconds.
            exclude_history: nor may the items of the query's history be in it.
            metadata: sent beside the request, such as `[("x-request-id", "7")]`; names are lower case.

        Raises:
            InvalidInput: the server refuses the request; `field` says which part of it.
            UnknownItem: so it does where the catalogue has no item of that id.
            AccessDenied: so it does with this token, or without one.
            Overloaded: it has too much to do; `retry_after` says when to come back.
            DeadlineExceeded: there is no answer yet.
            Unavailable: nobody answers; the two errors before are of this kind too.
        """
        request = messages.search_request(query, k, exclude, exclude_history)
        return messages.answer(self._call(self._stub.Search, request, timeout, metadata))

    def search_batch(
        self,
        queries: Sequence[Query | str],
        k: int = 0,
        exclude: Collection[str] = (),
        timeout: float | None = None,
        exclude_history: bool = False,
        metadata: Metadata = (),
    ) -> list[Answer]:
        """One answer for each query, in order, in one call; arguments and errors as in `search`."""
        request = messages.batch_request(queries, k, exclude, exclude_history)
        return messages.answers(self._call(self._stub.SearchBatch, request, timeout, metadata))

    def search_stream(
        self,
        queries: Iterable[Query | str],
        k: int = 0,
        exclude: Collection[str] = (),
        timeout: float | None = None,
        exclude_history: bool = False,
        metadata: Metadata = (),
    ) -> Iterator[Answer]:
        """One answer for each query, in order, as they come; arguments as in `search`.

        A stream may be as long as its queries, so it has no deadline unless one is given, and then it
        is the whole stream's. gRPC takes the queries on a thread of its own, ahead of their answers by
        as many as it can send; it begins when the first answer is asked for. Closing the iterator ends
        the stream.

        Raises:
            the errors of `search`, with which the stream ends, and whatever `queries` raises, once the
            queries before are answered.
        """
        failed: list[Exception] = []

        def requests() -> Iterator[wire.SearchRequest]:
            try:
                for query in queries:
                    yield messages.search_request(query, k, exclude, exclude_history)
            except Exception as error:  # which gRPC would log, and replace by one of its own
                failed.append(error)

        return self._stream(requests(), failed, timeout, self._connection.metadata(metadata))

    def encode(
        self, queries: Sequence[Query | str], timeout: float | None = None, metadata: Metadata = ()
    ) -> npt.NDArray[np.float32]:
        """Vectors of queries, float32 (B, D), of unit length where scores are cosines.

        Arguments and errors are those of `search`.
        """
        request = messages.encode_request(queries)
        return messages.vectors(self._call(self._stub.Encode, request, timeout, metadata))

    def info(self, timeout: float | None = None, metadata: Metadata = ()) -> Info:
        """What is being served; errors are those of `search`."""
        return convert.info_from_wire(self._call(self._stub.Info, wire.InfoRequest(), timeout, metadata))

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Return as soon as the service says that it is serving.

        Raises:
            Unavailable: it does not within `timeout` seconds.
            AccessDenied: it does not answer this client.
        """
        until = time.monotonic() + timeout
        why = ""
        while (left := until - time.monotonic()) > 0:
            try:
                health = self._health.Check(
                    messages.HEALTH, timeout=left, wait_for_ready=True, metadata=self._connection.metadata()
                )
                if messages.serves(health):
                    return
            except grpc.RpcError as failure:
                why = messages.why_not_ready(failure, self.address)
            time.sleep(min(messages.READY_POLL_SECONDS, max(0.0, until - time.monotonic())))
        raise messages.never_ready(self.address, timeout, why)

    def close(self) -> None:
        """Give the connection up, and end the calls that are open."""
        self._channel.close()

    def __enter__(self) -> "RetrievalClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, method: Any, request: Any, timeout: float | None, metadata: Metadata) -> Any:
        connection = self._connection
        try:
            return method(
                request, timeout=connection.seconds(timeout), metadata=connection.metadata(metadata)
            )
        except grpc.RpcError as failure:
            raise error_from(failure, self.address) from failure

    def _stream(
        self, requests: Iterator[Any], failed: list[Exception], timeout: float | None, metadata: Any
    ) -> Iterator[Answer]:
        responses = self._stub.SearchStream(requests, timeout=timeout, metadata=metadata)
        try:
            for response in responses:
                yield messages.answer(response)
        except grpc.RpcError as failure:
            raise error_from(failure, self.address) from failure
        finally:
            responses.cancel()
        if failed:
            raise failed[0]
