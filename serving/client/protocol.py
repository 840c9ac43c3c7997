"""The code that both clients share: connection, metadata of a call, retries, requests and responses."""

import asyncio
import contextlib
import json
import random
import threading
import time
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, TypedDict

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from twinspire.protos import catalogue_pb2
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import DeadlineExceeded, InvalidInput, Overloaded, TwinspireError, Unavailable
from twinspire.serving.address import check_target, is_local
from twinspire.serving.client.failures import no_message
from twinspire.serving.client.items import check_range
from twinspire.serving.client.security import Security
from twinspire.serving.filters.expression import Filter
from twinspire.serving.retrieval.answer import Answer, FusionMode
from twinspire.serving.retrieval.query import Query, Value, check_item_ids, refuse_lone_string
from twinspire.serving.wire import converters
from twinspire.serving.wire.filter_converters import filter_to_wire

SERVICE = wire.DESCRIPTOR.services_by_name["Retrieval"].full_name
CATALOGUE = catalogue_pb2.DESCRIPTOR.services_by_name["Catalogue"].full_name  # writes have request ids
TIMEOUT_SECONDS = 5.0
# More than any answer of a server with the usual bounds: `Info` has the bundle's manifest, of at most 64 MiB,
# and others have 4 MB (`--max-answer-bytes` of the server).
MAX_ANSWER_BYTES = 128 << 20

# gRPC's own retries (gRFC A6), for all calls but those of `StoreRetries`. A call is tried up to four
# times, with pauses of about 0.1, 0.2 and 0.4 s, or of the server's `grpc-retry-pushback-ms`. A call whose
# request is larger than gRPC's limit of 256 KiB is tried once, and a stream is not retried after its first
# answer.
RETRIES = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}
# Retries must not overload a server that is failing. Each server has a budget of tokens: a failure takes one,
# a success returns a tenth, and while fewer than half of the tokens are left, calls are not retried.
THROTTLING = {"maxTokens": 100, "tokenRatio": 0.1}
SERVICE_CONFIG = {
    "methodConfig": [
        {"name": [{"service": SERVICE}, {"service": CATALOGUE, "method": "Changes"}], "retryPolicy": RETRIES}
    ],
    "retryThrottling": THROTTLING,
}
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 1.0  # between attempts of `StoreRetries`
JITTER = 0.2  # largest random change of a pause, as a part of it: spreads clients that failed together
OPTIONS = (
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.use_local_subchannel_pool", 1),  # each client has its own connection, and so its own worker
    ("grpc.min_reconnect_backoff_ms", 1000),  # the time limit of an attempt to connect
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

# `grpc.health.v1.Health/Check`, without the package of its stubs: its request has one field, a string of
# number 1, and its response has one field, an enum of number 1. `StringValue` and `Int32Value` have the same
# bytes.
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH = StringValue(value=SERVICE)
HEALTH_SERVING = 1
READY_POLL_SECONDS = 0.05

Metadata = Iterable[tuple[str, str | bytes]]
Queries = Iterable[Query | str]
AsyncQueries = Queries | AsyncIterable[Query | str]


class AsyncEvent(asyncio.Event):
    """An event of asyncio that is used as one of `threading`."""

    async def wait(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Wait until it is set, for at most `timeout` seconds; returns whether it is set."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await super().wait()
        return self.is_set()


class ClientConnection:
    """The configuration of a connection, common to both clients.

    Args:
        api: `grpc` or `grpc.aio`.
        address: `host:port`.
        timeout: default timeout of a call in seconds.
        retries: whether calls are retried.
        connect_seconds: time limit of an attempt to connect; 1 if not given.

    Attributes:
        closed: set when the client has been closed; of a client of `grpc.aio` an `AsyncEvent`.

    Raises:
        InvalidInput: the address is not `host:port`, or a token would be sent to another machine without TLS.
    """

    def __init__(
        self,
        api: Any,
        address: str,
        timeout: float,
        security: Security,
        retries: bool,
        connect_seconds: float | None = None,
    ) -> None:
        check_target(address)
        self._api = api
        self.address = address
        self._connect_seconds = connect_seconds
        self._timeout = timeout
        self._security = security
        self.retries = retries
        self._authorization = security.authorization(address)
        self.closed: Any = AsyncEvent() if api is grpc.aio else threading.Event()

    def open(self) -> Any:
        """A channel of the `api`.

        Raises:
            DataError: a file of `security` cannot be read, or is invalid.
        """
        chosen: dict[str, Any] = dict(OPTIONS)
        chosen["grpc.max_receive_message_length"] = MAX_ANSWER_BYTES
        if not self.retries:
            chosen["grpc.enable_retries"] = 0
        if self._connect_seconds is not None:
            chosen["grpc.min_reconnect_backoff_ms"] = round(1000 * self._connect_seconds)
        if is_local(self.address):
            chosen["grpc.enable_http_proxy"] = 0  # a proxy would be another machine
        if self._security.server_name is not None:
            chosen["grpc.ssl_target_name_override"] = self._security.server_name
        options = [*chosen.items()]
        credentials = self._security.credentials()
        if credentials is None:
            return self._api.insecure_channel(self.address, options=options)
        return self._api.secure_channel(self.address, credentials, options=options)

    def begin(self, method: Any, request: Any, timeout: float | None, metadata: Any, **options: Any) -> Any:
        """Call a method of a stub of `grpc` or of `grpc.aio`, and return what it returns.

        Raises:
            Unavailable: the client has been closed; as of a call that was open then.
            grpc.RpcError: the call has failed.
        """
        try:
            return method(request, timeout=timeout, metadata=metadata, **options)
        except (ValueError, grpc.aio.UsageError) as error:  # both also have other causes
            if not self.closed.is_set():
                raise
            closed = Unavailable(f"{self.address}: this client has been closed")
            closed.request_id = getattr(request, "request_id", "")  # of a write
            raise closed from error

    def seconds(self, timeout: float | None) -> float:
        """The timeout of a call: its own, or the client's default."""
        return self._timeout if timeout is None else timeout

    def metadata(self, given: Metadata = ()) -> tuple[tuple[str, str | bytes], ...]:
        """The metadata of a call: the token, and `given`.

        Raises:
            InvalidInput: a name or a text of `given` is not printable ASCII, or a name has capital letters.
        """
        given = tuple(given)
        for name, value in given:
            texts = (name, value) if isinstance(value, str) else (name,)
            if name != name.lower() or not all(text.isascii() and text.isprintable() for text in texts):
                raise InvalidInput(
                    "metadata", f"expected names in lower case and printable ASCII, got {texts}"
                )
        return (*self._authorization, *given)


class StoreRetries:
    """The attempts of one call that reads items, or writes with a request id, until its deadline.

    gRPC's own retries are at most three, and none after many failures (`THROTTLING`). These calls are
    repeated for longer: a write whose answer was lost may be stored, and only a repeat gets its answer.

    Args:
        timeout: of the call in seconds, all attempts included; None for the client's default.
    """

    def __init__(self, connection: ClientConnection, timeout: float | None) -> None:
        self._connection = connection
        self._until = time.monotonic() + connection.seconds(timeout)
        self._pause = FIRST_PAUSE_SECONDS
        self._last_error: TwinspireError | None = None

    @property
    def seconds(self) -> float:
        """Time until the deadline."""
        return max(0.0, self._until - time.monotonic())

    def pause(self, failure: grpc.RpcError, error: TwinspireError) -> float:
        """Seconds to wait before the next attempt.

        Args:
            failure: of the last attempt, as gRPC raised it.
            error: the same as one of our errors.

        Raises:
            TwinspireError: `error`, if another attempt is of no use, or would begin after the deadline. If
                the deadline cut the attempt off, the error also names that of the attempt before it.
        """
        connection = self._connection
        if isinstance(error, DeadlineExceeded) and self._last_error is not None:
            late = DeadlineExceeded(f"{error}; the attempt before failed: {self._last_error}")
            late.request_id = error.request_id
            raise late from failure
        self._last_error = error
        may_help = isinstance(error, Overloaded) or failure.code() is grpc.StatusCode.UNAVAILABLE
        if not may_help or not connection.retries or connection.closed.is_set():
            raise error from failure
        pause = self._pause * random.uniform(1 - JITTER, 1 + JITTER)
        if isinstance(error, Overloaded):  # `retry_after` is infinite where a repeat is of no use
            pause = max(pause, error.retry_after)
        if pause >= self.seconds:
            raise error from failure
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        return pause


class StreamedQueries:
    """The requests of a stream of searches, for `grpc` by `iter` and for `grpc.aio` by `aiter`.

    gRPC would replace an error of the caller's iterator by its own, so the requests end there without one.

    Args:
        fields: of `search_fields`.

    Attributes:
        count: number of requests sent.
        ended: whether there are no more requests to send.
        error: raised by the caller's iterator, or for a query; None if there was none.

    Raises:
        TypeError: `queries` is one string.
    """

    def __init__(self, queries: AsyncQueries, fields: dict[str, Any]) -> None:
        refuse_lone_string(queries, "queries", "queries")
        self._queries, self._fields = queries, fields
        self.count = 0
        self.ended = False
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Message]:
        assert isinstance(self._queries, Iterable)
        try:
            for each in self._queries:
                yield self._request(each)
            self.ended = True
        except Exception as error:
            self.error = error

    async def __aiter__(self) -> AsyncIterator[Message]:
        if not isinstance(self._queries, AsyncIterable):
            for request in self:
                yield request
            return
        try:
            async for each in self._queries:
                yield self._request(each)
            self.ended = True
        except Exception as error:
            self.error = error

    def _request(self, query: Query | str) -> Message:
        request = wire.SearchRequest(query=query_message(query), **self._fields)
        self.count += 1
        return request

    def require_answers(self, answers: int, address: str) -> None:
        """Check, after a stream that has ended with OK, that each request has been answered.

        While workers were killed under an attack, one stream in 900 ended with OK and an answer too few.

        Raises:
            Unavailable: there are fewer answers than requests, or there were more requests to send.
            Exception: `error`, if it is set.
        """
        if self.error is not None:
            raise self.error
        if answers < self.count or not self.ended:
            sent = f"{self.count} requests" if self.ended else "requests of which not all were sent"
            raise Unavailable(
                f"{address}: the stream ended with {answers} answers to {sent}; some of the answers may "
                "belong to other requests; send all again"
            )


class SearchArguments(TypedDict, total=False):
    """What a search may be asked for besides its query and `k`.

    Args:
        exclude: item ids that must not be in the answer.
        exclude_history: whether to leave the items of the query's history out, and of its negative history;
            None as the bundle was evaluated, so true where no history of its training data holds an item
            twice.
        min_sequence: the search waits until the worker has applied all writes up to this sequence; pass
            `Written.sequence` to find your own write.
        filter: only items that pass are in the answer, such as `where.price < 50`, or the same as a text:
            `"price < 50"`.
        fusion: which scores rank the items of a query with a text; those of the bundle by default.
        min_score: leave out the hits with a lower score, so that there may be fewer than `k`; None for none.
        exclude_shown: leave out the items that answers showed to the query's `user` in these last seconds; 0
            leaves out none.
    """

    exclude: Collection[str]
    exclude_history: bool | None
    min_sequence: int
    filter: Filter | str | None
    fusion: FusionMode
    min_score: float | None
    exclude_shown: int


def search_fields(k: int, options: SearchArguments) -> dict[str, Any]:
    """The fields that requests of all kinds of searches have in common.

    Raises:
        InvalidInput: a value cannot be encoded.
        TypeError: `exclude` is one string, or there is no such option.
    """
    if unknown := options.keys() - SearchArguments.__annotations__.keys():
        expected = ", ".join(SearchArguments.__annotations__)
        raise TypeError(f"{', '.join(sorted(unknown))}: expected only {expected}, timeout and metadata")
    chosen = options.get("filter")
    return {
        "k": check_range(k, "k", 2**32 - 1),
        "exclude": _exclude(options.get("exclude", ())),
        "exclude_history": options.get("exclude_history"),
        "min_sequence": check_range(options.get("min_sequence", 0), "min_sequence"),
        "filter": None if chosen is None else filter_to_wire(chosen),
        "fusion": converters.fusion_to_wire(FusionMode(options.get("fusion", FusionMode.DEFAULT))),
        "min_score": options.get("min_score"),
        "exclude_shown": check_range(options.get("exclude_shown", 0), "exclude_shown", 2**32 - 1),
    }


def query_message(query: Query | str, name: str = "query") -> wire.Query:
    """A query as the service takes it.

    Raises:
        InvalidInput: as of `query_to_wire`, with the name.
        TypeError: it is neither a text nor a `Query`.
    """
    if not isinstance(query, Query | str):
        several = ", search_batch answers several" if name == "query" else ""
        raise TypeError(f"{name}: expected a text or a Query, got {type(query).__name__}{several}")
    return converters.query_to_wire(Query(text=query) if isinstance(query, str) else query, name)


def query_messages(queries: Sequence[Query | str]) -> list[wire.Query]:
    """Queries as the service takes them; raises as `query_message`.

    A TypeError is also raised if `queries` is one string.
    """
    refuse_lone_string(queries, "queries", "queries")
    return [query_message(query, f"queries[{n}]") for n, query in enumerate(queries)]


def encode_items_request(items: Sequence[Mapping[str, Value]]) -> wire.EncodeRequest:
    """The request to encode items, from the features of each; raises as `query_message`."""
    if not items:
        raise InvalidInput("items", "expected at least one, got none")
    for n, features in enumerate(items):
        if not isinstance(features, Mapping):
            raise InvalidInput(f"items[{n}]", f"expected features by name, got {features!r}")
    return wire.EncodeRequest(
        items=[converters.item_to_wire(features, f"items[{n}]") for n, features in enumerate(items)]
    )


def score_request(
    pairs: Sequence[tuple[Query | str, Sequence[str]]], min_sequence: int = 0
) -> wire.ScoreRequest:
    """The request to score items, from queries with item ids of each; raises as `query_message`.

    A TypeError is also raised if the ids of a query are one string.
    """
    queries = []
    for n, (query, item_ids) in enumerate(pairs):
        check_item_ids(item_ids, f"queries[{n}].item_ids")
        message = query_message(query, f"queries[{n}].query")
        with converters.refuse_surrogates(f"queries[{n}].item_ids"):
            queries.append(wire.QueryItems(query=message, item_ids=[*item_ids]))
    return wire.ScoreRequest(queries=queries, min_sequence=check_range(min_sequence, "min_sequence"))


def answer(
    response: wire.SearchResponse | wire.SearchBatchResponse,
    result: tuple[int, wire.HitList] | None = None,
) -> Answer:
    """The answer to one query.

    Args:
        result: number and content of the part of the response that answers the query; all of it by default.
    """
    found: Any = response if result is None else result[1]
    request_id = response.request_id
    if result is not None and request_id:
        request_id += f"/{result[0]}"
    version, timing, sequence = response.bundle_version, response.timing, response.sequence
    return converters.answer_from_wire(found, version, timing, sequence, request_id)


def vectors(response: wire.EncodeResponse, asked: int, address: str) -> npt.NDArray[np.float32]:
    """Vectors of `asked` queries or items, float32 (B, D); errors as of `check_count`."""
    check_count(len(response.vectors), asked, address)
    if len({len(vector.values) for vector in response.vectors}) > 1:
        raise Unavailable(f"{address}: gave vectors of different lengths")
    return np.array([vector.values for vector in response.vectors], np.float32)


def received(response: Any, address: str) -> Any:
    """A response, which of `grpc.aio` is None where the bytes are no message of the call.

    Raises:
        Unavailable: it is None.
    """
    if response is None:
        raise Unavailable(no_message(address))
    return response


def check_count(found: int, asked: int, address: str) -> None:
    """Refuse an answer that has not one part for each part of its request.

    Raises:
        Unavailable: it has fewer or more, as from a program that is no service of this kind.
    """
    if found != asked:
        raise Unavailable(
            f"{address}: gave {found} results where {asked} were asked for; is it this service?"
        )


def unary(stub: Any, method: str, request: Message) -> Any:
    """The method of a stub of `retrieval.v1.Retrieval` that takes a request.

    Raises:
        ValueError: there is no such method, or it is a stream or takes another message.
    """
    known = wire.DESCRIPTOR.services_by_name["Retrieval"].methods_by_name
    names = sorted(name for name, each in known.items() if not each.client_streaming)
    if method not in names:
        raise ValueError(f"method: expected one of {', '.join(names)}, got {method!r}")
    expected = known[method].input_type
    if request.DESCRIPTOR is not expected:
        raise ValueError(f"request: expected {expected.full_name}, got {request.DESCRIPTOR.full_name}")
    return getattr(stub, method)


def health_call(channel: Any) -> Any:
    """The method that checks the service's health, on a channel of `grpc` or of `grpc.aio`."""
    return channel.unary_unary(
        HEALTH_CHECK,
        request_serializer=StringValue.SerializeToString,
        response_deserializer=Int32Value.FromString,
    )


def serves(response: Int32Value | None) -> bool:
    """Whether the service's health is SERVING; not if the bytes of the response are no message (None)."""
    return response is not None and response.value == HEALTH_SERVING


def _exclude(exclude: Collection[str]) -> Collection[str]:
    check_item_ids(exclude, "exclude")
    with converters.refuse_surrogates("exclude"):
        "".join(exclude).encode()
    return exclude
