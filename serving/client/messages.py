"""Requests as the wire carries them, and what its responses say; the same for both clients."""

from collections.abc import Collection, Sequence

import grpc
import numpy as np
import numpy.typing as npt
from grpc_health.v1 import health_pb2

from protos import retrieval_pb2 as wire
from protos.errors import AccessDenied, InvalidInput, Unavailable
from serving import convert
from serving.answer import Answer
from serving.client.channel import SERVICE
from serving.query import Query
from serving.status import error_from

HEALTH = health_pb2.HealthCheckRequest(service=SERVICE)
READY_POLL_SECONDS = 0.05


def search_request(
    query: Query | str, k: int, exclude: Collection[str], exclude_history: bool
) -> wire.SearchRequest:
    """One query.

    Raises:
        InvalidInput: the wire cannot carry it.
    """
    message = _query(query, "query")
    return wire.SearchRequest(
        query=message, k=_k(k), exclude=_exclude(exclude), exclude_history=exclude_history
    )


def batch_request(
    queries: Sequence[Query | str], k: int, exclude: Collection[str], exclude_history: bool
) -> wire.SearchBatchRequest:
    """Many queries; raises as `search_request`."""
    messages = _queries(queries)
    return wire.SearchBatchRequest(
        queries=messages, k=_k(k), exclude=_exclude(exclude), exclude_history=exclude_history
    )


def encode_request(queries: Sequence[Query | str]) -> wire.EncodeRequest:
    """Queries to encode; raises as `search_request`."""
    return wire.EncodeRequest(queries=_queries(queries))


def answer(response: wire.SearchResponse) -> Answer:
    """The answer to one query."""
    return convert.answer_from_wire(response, response.bundle_version, response.timing)


def answers(response: wire.SearchBatchResponse) -> list[Answer]:
    """The answers to a batch, in the order of its queries."""
    return [
        convert.answer_from_wire(result, response.bundle_version, response.timing)
        for result in response.results
    ]


def vectors(response: wire.EncodeResponse) -> npt.NDArray[np.float32]:
    """Vectors of queries, float32 (B, D)."""
    return np.array([vector.values for vector in response.vectors], np.float32)


def serves(response: health_pb2.HealthCheckResponse) -> bool:
    """Whether the service says that it is serving."""
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


def why_not_ready(failure: grpc.RpcError, address: str) -> str:
    """Why the service's health is unknown.

    Raises:
        AccessDenied: it will be as long as it is this client that asks.
    """
    error = error_from(failure, address)
    if isinstance(error, AccessDenied):
        raise error from failure
    return f": {failure.details()}"


def never_ready(address: str, seconds: float, why: str) -> Unavailable:
    """What `wait_ready` raises in the end."""
    return Unavailable(f"{address}: not serving after {seconds:g} s{why}")


def _queries(queries: Sequence[Query | str]) -> list[wire.Query]:
    return [_query(query, f"queries[{n}]") for n, query in enumerate(queries)]


def _query(query: Query | str, name: str) -> wire.Query:
    return convert.query_to_wire(Query(text=query) if isinstance(query, str) else query, name)


def _exclude(exclude: Collection[str]) -> Collection[str]:
    try:
        "".join(exclude).encode()
    except UnicodeEncodeError:
        raise InvalidInput("exclude", "expected Unicode, got a lone surrogate") from None
    return exclude


def _k(k: int) -> int:
    if not 0 <= k < 2**32:
        raise InvalidInput("k", f"expected 0 to {2**32 - 1}, got {k}")
    return k
