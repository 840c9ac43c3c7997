"""A typed client of the service.

    with RetrievalClient("127.0.0.1:50051") as client:
        answer = client.search("eigenvalues of a symmetric matrix", k=5)
        print([hit.id for hit in answer.hits])
        answer = client.search(Query(history=("296", "593")), exclude_history=True)

It raises the errors of `protos/errors.py`, never those of gRPC. gRPC itself repeats a call that
ends in UNAVAILABLE, up to three times with growing pauses, within the call's deadline.
"""

import json
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import retrieval_pb2 as wire
from protos import retrieval_pb2_grpc
from protos.errors import InvalidInput, Unavailable
from serving import convert
from serving.answer import Answer
from serving.convert import Info
from serving.query import Query
from serving.status import error_from

SERVICE = wire.DESCRIPTOR.services_by_name["Retrieval"].full_name
RETRIES = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
OPTIONS = (
    (
        "grpc.service_config",
        json.dumps({"methodConfig": [{"name": [{"service": SERVICE}], "retryPolicy": RETRIES}]}),
    ),
    ("grpc.max_receive_message_length", -1),  # the answer is as large as what was asked for
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class RetrievalClient:
    """Calls the service at an address; safe to use from several threads.

    Args:
        address: `host:port`.
        timeout: seconds that a call may take, unless it says otherwise.
    """

    def __init__(self, address: str, timeout: float = 5.0) -> None:
        self.address = address
        self._timeout = timeout
        self._channel = grpc.insecure_channel(address, options=OPTIONS)
        self._stub = retrieval_pb2_grpc.RetrievalStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def search(
        self,
        query: Query | str,
        k: int = 0,
        exclude: Collection[str] = (),
        timeout: float | None = None,
        exclude_history: bool = False,
    ) -> Answer:
        """The `k` items nearest to one query.

        Args:
            query: a text, or all that a query can hold.
            k: 0 for the server's default.
            exclude: item ids that must not be in the answer.
            timeout: in seconds.
            exclude_history: nor may the items of the query's history be in it.

        Raises:
            InvalidInput: the server refuses the request; `field` says which part of it.
            UnknownItem: so it does where the catalogue has no item of that id.
            Unavailable: nobody answers, or not in time.
        """
        request = _request(query, k, exclude, exclude_history)
        response = self._call(self._stub.Search, request, timeout)
        return convert.answer_from_wire(response, response.bundle_version, response.timing)

    def search_batch(
        self,
        queries: Sequence[Query | str],
        k: int = 0,
        exclude: Collection[str] = (),
        timeout: float | None = None,
        exclude_history: bool = False,
    ) -> list[Answer]:
        """One answer for each query, in order, in one call; arguments and errors as in `search`."""
        request = wire.SearchBatchRequest(
            queries=_messages(queries), k=_k(k), exclude=exclude, exclude_history=exclude_history
        )
        response = self._call(self._stub.SearchBatch, request, timeout)
        return [
            convert.answer_from_wire(result, response.bundle_version, response.timing)
            for result in response.results
        ]

    def search_stream(
        self,
        queries: Iterable[Query | str],
        k: int = 0,
        exclude: Collection[str] = (),
        timeout: float | None = None,
        exclude_history: bool = False,
    ) -> Iterator[Answer]:
        """One answer for each query, in order, as they come; no deadline unless one is given.

        Raises:
            InvalidInput, UnknownItem, Unavailable: as in `search`; the stream ends with the error.
        """
        requests = (_request(query, k, exclude, exclude_history) for query in queries)
        responses = self._stub.SearchStream(requests, timeout=timeout)
        try:
            for response in responses:
                yield convert.answer_from_wire(response, response.bundle_version, response.timing)
        except grpc.RpcError as failure:
            raise error_from(failure, self.address) from failure
        finally:
            responses.cancel()

    def encode(self, queries: Sequence[Query | str], timeout: float | None = None) -> npt.NDArray[np.float32]:
        """Vectors of queries, float32 (B, D), of unit length where scores are cosines.

        Errors are those of `search`.
        """
        request = wire.EncodeRequest(queries=_messages(queries))
        response = self._call(self._stub.Encode, request, timeout)
        return np.array([vector.values for vector in response.vectors], np.float32)

    def info(self, timeout: float | None = None) -> Info:
        """What is being served; raises Unavailable if nobody answers."""
        return convert.info_from_wire(self._call(self._stub.Info, wire.InfoRequest(), timeout))

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Return as soon as the service says that it is serving.

        Raises:
            Unavailable: it does not within `timeout` seconds.
        """
        until = time.monotonic() + timeout
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        while (left := until - time.monotonic()) > 0:
            try:
                answer = self._health.Check(request, timeout=left, wait_for_ready=True)
            except grpc.RpcError:
                answer = health_pb2.HealthCheckResponse()
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
            time.sleep(min(0.05, max(0.0, until - time.monotonic())))
        raise Unavailable(f"{self.address}: not serving after {timeout:g} s")

    def close(self) -> None:
        """Give the connection up."""
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

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        try:
            return method(request, timeout=self._timeout if timeout is None else timeout)
        except grpc.RpcError as failure:
            raise error_from(failure, self.address) from failure


def _request(
    query: Query | str, k: int, exclude: Collection[str], exclude_history: bool
) -> wire.SearchRequest:
    message = _message(query, "query")
    return wire.SearchRequest(query=message, k=_k(k), exclude=exclude, exclude_history=exclude_history)


def _messages(queries: Sequence[Query | str]) -> list[wire.Query]:
    return [_message(query, f"queries[{n}]") for n, query in enumerate(queries)]


def _message(query: Query | str, name: str) -> wire.Query:
    return convert.query_to_wire(Query(text=query) if isinstance(query, str) else query, name)


def _k(k: int) -> int:
    if not 0 <= k < 2**32:
        raise InvalidInput("k", f"expected 0 to {2**32 - 1}, got {k}")
    return k
