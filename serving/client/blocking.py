# Generated from asynchronous.py by `make protos`; change that file.
"""The calls of a client, each written once: `make protos` makes `blocking.py` of `asynchronous.py`."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, Unpack

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from twinspire.protos import catalogue_pb2, catalogue_pb2_grpc, events_pb2_grpc, retrieval_pb2_grpc
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import AccessDenied, Unavailable
from twinspire.serving.client import items as catalogue
from twinspire.serving.client import protocol
from twinspire.serving.client.events import Event, Recorded, list_request, listed, record_request, recorded
from twinspire.serving.client.failures import StreamStatus, error_from
from twinspire.serving.client.items import ChangePage, Item, ItemState, Mode, Written
from twinspire.serving.client.protocol import (
    TIMEOUT_SECONDS,
    ClientConnection,
    Metadata,
    Queries,
    SearchArguments,
    StoreRetries,
)
from twinspire.serving.client.security import Security
from twinspire.serving.retrieval.answer import Answer, Scores
from twinspire.serving.retrieval.query import Query, Value
from twinspire.serving.wire import converters
from twinspire.serving.wire.converters import Info


class RetrievalClient:
    """A client of the service at an address, with one connection.

    A `RetrievalClient` is safe to use from several threads. An `AsyncRetrievalClient` belongs to the event
    loop in which it is created, and cancelling a task cancels its call.

    Calls have a `timeout` in seconds, by default the client's, and `metadata` that is sent with the request,
    such as `[("x-request-id", "7")]`, with names in lower case. They raise the errors of `search`, too.

    Args:
        address: `host:port`.
        timeout: default timeout of a call in seconds, retries included.
        security: TLS and token; without it the connection is neither encrypted nor authenticated.
        retries: whether calls that end in UNAVAILABLE or RESOURCE_EXHAUSTED are tried again: `upsert`,
            `delete`, `get` and `record` until the timeout, the others by gRPC, up to four times.

    Raises:
        DataError: a file of `security` cannot be read, or is invalid.
        InvalidInput: the address is a URL or has no port, or the token would be sent to another machine
            without TLS.
    """

    def __init__(
        self,
        address: str,
        timeout: float = TIMEOUT_SECONDS,
        security: Security | None = None,
        retries: bool = True,
    ) -> None:
        self.address = address
        self._connection = ClientConnection(grpc, address, timeout, security or Security(), retries)
        self._channel = self._connection.open()
        self._stub = retrieval_pb2_grpc.RetrievalStub(self._channel)
        self._catalogue = catalogue_pb2_grpc.CatalogueStub(self._channel)
        self._events = events_pb2_grpc.EventsStub(self._channel)
        self._health = protocol.health_call(self._channel)

    def search(
        self,
        query: Query | str,
        k: int = 0,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Unpack[SearchArguments],
    ) -> Answer:
        """The `k` items nearest to one query.

        Args:
            query: a text, or a `Query` with a history and features.
            k: 0 for the server's default.
            options: `exclude`, `exclude_history`, `min_sequence`, `filter`, `fusion`, `min_score` and
                `exclude_shown`, as `SearchArguments` describes them.

        Raises:
            InvalidInput: the server refuses the request; `field` names the invalid part.
            UnknownItem: the catalogue has no item of that id.
            AccessDenied: the token is missing, invalid, or not sufficient.
            Overloaded: the server is overloaded; retry after `retry_after`.
            DeadlineExceeded: the timeout has passed.
            ConnectionFailed: there is no connection; `fault` says why.
            Unavailable: the server does not answer, or this client has been closed; the three errors before
                are of this kind too.
            TypeError: `exclude` is one string.
        """
        fields = protocol.search_fields(k, options)
        request = wire.SearchRequest(query=protocol.query_message(query), **fields)
        response = self._call(self._stub.Search, request, timeout, metadata)
        return protocol.answer(response)

    def search_batch(
        self,
        queries: Sequence[Query | str],
        k: int = 0,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Unpack[SearchArguments],
    ) -> list[Answer]:
        """One answer for each query, in order, in one call; arguments and errors as in `search`."""
        fields = protocol.search_fields(k, options)
        request = wire.SearchBatchRequest(queries=protocol.query_messages(queries), **fields)
        response = self._call(self._stub.SearchBatch, request, timeout, metadata)
        protocol.check_count(len(response.results), len(request.queries), self.address)
        return [protocol.answer(response, each) for each in enumerate(response.results)]

    def search_stream(
        self,
        queries: Queries,
        k: int = 0,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Unpack[SearchArguments],
    ) -> Iterator[Answer]:
        """One answer for each query, in order, as they arrive; arguments as in `search`.

        A stream has no deadline unless one is given, which is then for the whole stream. gRPC reads the
        queries as far ahead of the answers as it can send, on a thread of its own; for an
        `AsyncRetrievalClient` in the event loop, also from an asynchronous iterator. It begins when the first
        answer is requested. Closing the iterator ends the stream.

        Raises:
            The errors of `search`, which end the stream; and any error of `queries`, after the answers to the
            queries before it.
        """
        sent = protocol.StreamedQueries(queries, protocol.search_fields(k, options))
        return self._answers(sent, timeout, self._connection.metadata(metadata))

    def encode(
        self, queries: Sequence[Query | str], timeout: float | None = None, metadata: Metadata = ()
    ) -> npt.NDArray[np.float32]:
        """Vectors of queries, float32 (B, D), of unit length where scores are cosines.

        Where the manifest of `info` has `interests`, (B, K * D): the K vectors of a query side by side.
        """
        request = wire.EncodeRequest(queries=protocol.query_messages(queries))
        response = self._call(self._stub.Encode, request, timeout, metadata)
        return protocol.vectors(response, len(request.queries), self.address)

    def encode_items(
        self, items: Sequence[Mapping[str, Value]], timeout: float | None = None, metadata: Metadata = ()
    ) -> npt.NDArray[np.float32]:
        """Vectors of items, float32 (B, D), which the catalogue need not hold.

        The service has to offer its item tower (`--item-tower`).

        Args:
            items: of each item the values of the item tower's features, by name; each text is required.
                A tower that reads ids takes the id as the feature of that kind; without it, the item counts
                as one that training has not seen.
        """
        request = protocol.encode_items_request(items)
        response = self._call(self._stub.Encode, request, timeout, metadata)
        return protocol.vectors(response, len(request.items), self.address)

    def score(
        self,
        query: Query | str,
        item_ids: Sequence[str],
        timeout: float | None = None,
        metadata: Metadata = (),
        min_sequence: int = 0,
    ) -> Scores:
        """The exact scores of items for a query: the calibrated probability where the model predicts labels.

        They are those of the towers alone; of a hybrid bundle `Hit.dense`.

        Args:
            query: as in `search`, but not an item.
            item_ids: at least one; the score of an item that the catalogue lacks is None.
            min_sequence: as in `search`.
        """
        scores = self.score_batch([(query, item_ids)], timeout, metadata, min_sequence)
        return scores[0]

    def score_batch(
        self,
        pairs: Sequence[tuple[Query | str, Sequence[str]]],
        timeout: float | None = None,
        metadata: Metadata = (),
        min_sequence: int = 0,
    ) -> list[Scores]:
        """As `score`, of several queries with the items of each, in one call."""
        request = protocol.score_request(pairs, min_sequence)
        response = self._call(self._stub.Score, request, timeout, metadata)
        protocol.check_count(len(response.results), len(request.queries), self.address)
        return converters.scores_from_wire(response)

    def upsert(
        self,
        items: Iterable[Item],
        mode: Mode = "upsert",
        request_id: str | None = None,
        timeout: float | None = None,
        strict: bool = True,
        metadata: Metadata = (),
    ) -> Written:
        """Write items, each as a whole. When this returns they are durable, and searches find them.

        Args:
            items: of different ids.
            mode: `insert` writes only items that do not exist, `update` only those that do.
            request_id: a request that is repeated with its id is not carried out again; a new id by default.
            strict: whether a refused item is an error; otherwise only its result has the refusal.

        Raises:
            WriteRefused: an item was not written, because of `mode` or its `expected_sequence`, or cannot be
                encoded; the error has the results of all items.
            InvalidInput: the server refuses the request, and has written none of it.
            Overloaded: nothing was written, for one of these reasons. The bundle was built without as many
                changes as it may miss, and must be refreshed; then `retry_after` is infinite. Or encoding is
                too far behind the store, too many requests wait for the catalogue, or the service is over
                capacity; then send the request again after `retry_after` seconds.
            RateLimited: an `Overloaded`; this client exceeds its rate limit.
            MissingStage: the service takes no writes.
            Unavailable: the store cannot be written now, or there was no answer, so the items may have been
                written. Repeat the request with the error's `request_id`; it is carried out once.
            Each error of a call that failed has the `request_id`.
        """
        request = catalogue.upsert_request(items, mode, request_id)
        return self._write(self._catalogue.Upsert, request, timeout, strict, metadata)

    def delete(
        self,
        ids: Iterable[str],
        request_id: str | None = None,
        expected: Mapping[str, int] | None = None,
        timeout: float | None = None,
        strict: bool = True,
        metadata: Metadata = (),
    ) -> Written:
        """Withdraw items, also those that came with a bundle.

        Args:
            ids: of the items; unknown ones are allowed.
            request_id: as in `upsert`, and so are `strict` and the errors.
            expected: id -> the sequence that the item's last change must have; each id is one of `ids`.
        """
        request = catalogue.delete_request(ids, request_id, expected or {})
        return self._write(self._catalogue.Delete, request, timeout, strict, metadata)

    def get(
        self, ids: Iterable[str], timeout: float | None = None, metadata: Metadata = ()
    ) -> list[ItemState]:
        """The states of items in the catalogue, one for each id, in order; errors as in `upsert`."""
        with converters.refuse_surrogates("ids"):
            request = catalogue_pb2.GetRequest(ids=[ids] if isinstance(ids, str) else ids)
        response = self._call_store(self._catalogue.Get, request, timeout, metadata)
        protocol.check_count(len(response.items), len(request.ids), self.address)
        return [catalogue.state(each) for each in response.items]

    def changes(
        self,
        after: int = 0,
        follow: bool = False,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Iterator[ChangePage]:
        """The latest states of the items that changed after a sequence, in order, in pages.

        Args:
            after: the sequence; no higher than that of the store.
            follow: whether later changes are returned, too, until the iterator is closed.
            timeout: for the whole stream; none by default.

        Raises:
            As `upsert`.
        """
        request = catalogue_pb2.ChangesRequest(after=catalogue.check_range(after, "after"), follow=follow)
        return self._changes(request, timeout, self._connection.metadata(metadata))

    def record(
        self,
        events: Iterable[Event],
        request_id: str | None = None,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Recorded:
        """Store events: all of them, or none. When this returns they are durable, and histories have them.

        Args:
            events: at most 1,000.
            request_id: a request that is repeated with its id within a day is not stored again; a new id by
                default. It is not that of a search.

        Raises:
            InvalidInput: the server refuses an event, and has stored none.
            MissingStage: the service records no events.
            Unavailable: the store cannot be written now, or there was no answer, so the events may have been
                stored. Repeat the request with the error's `request_id`; they are stored once.
            Each error of a call that failed has the `request_id`.
        """
        request = record_request(events, request_id)
        return recorded(self._call_store(self._events.Record, request, timeout, metadata))

    def list_events(
        self, user: str, limit: int = 50, timeout: float | None = None, metadata: Metadata = ()
    ) -> list[Event]:
        """The latest events of a user, at most `limit` of up to 1,000, the newest first.

        Raises:
            MissingStage: the service records no events.
        """
        request = list_request(user, limit)
        response = self._call_store(self._events.List, request, timeout, metadata)
        return listed(user, response)

    def info(self, timeout: float | None = None, metadata: Metadata = ()) -> Info:
        """What the server serves."""
        response = self._call(self._stub.Info, wire.InfoRequest(), timeout, metadata)
        return converters.info_from_wire(response)

    def call(
        self, method: str, request: Message, timeout: float | None = None, metadata: Metadata = ()
    ) -> Any:
        """Call a method of `retrieval.v1.Retrieval` by its name, and return its response.

        For methods that have no method here: token, timeout, retries and errors are those of `search`.

        Args:
            method: such as `Info`; one request, one response.
            request: the message that the method takes.

        Raises:
            ValueError: the service has no such method, or it is a stream or takes another message.
        """
        return self._call(protocol.unary(self._stub, method, request), request, timeout, metadata)

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until the service reports that it is serving.

        Raises:
            Unavailable: the service does not report that within `timeout` seconds, or this client has been
                closed.
            AccessDenied: the service refuses this client.
        """
        until = time.monotonic() + timeout
        why = ""
        while (left := until - time.monotonic()) > 0:
            try:
                metadata = self._connection.metadata()
                health = self._connection.begin(
                    self._health, protocol.HEALTH, left, metadata, wait_for_ready=True
                )
                if protocol.serves(health):
                    return
            except grpc.RpcError as failure:
                error = error_from(failure, self.address)
                if isinstance(error, AccessDenied):  # there is nothing to wait for
                    raise error from failure
                why = f": {failure.details()}"
            pause = min(protocol.READY_POLL_SECONDS, max(0.0, until - time.monotonic()))
            self._connection.closed.wait(pause)
        raise Unavailable(f"{self.address}: not serving after {timeout:g} s{why}")

    def close(self) -> None:
        """Close the connection, and end open calls."""
        self._connection.closed.set()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _call(self, method: Any, request: Any, timeout: float | None, metadata: Metadata) -> Any:
        connection = self._connection
        try:
            response = connection.begin(
                method, request, connection.seconds(timeout), connection.metadata(metadata)
            )
        except grpc.RpcError as failure:
            raise error_from(failure, self.address) from failure
        return protocol.received(response, self.address)

    def _write(
        self, method: Any, request: Any, timeout: float | None, strict: bool, metadata: Metadata
    ) -> Written:
        response = self._call_store(method, request, timeout, metadata)
        protocol.check_count(len(response.results), len(request.items), self.address)
        return catalogue.written(response, request, strict)

    def _call_store(self, method: Any, request: Any, timeout: float | None, metadata: Metadata) -> Any:
        """Call a method of the catalogue or of the events, and repeat it as `StoreRetries` allows."""
        connection = self._connection
        attempts = StoreRetries(connection, timeout)
        given = connection.metadata(metadata)
        while True:
            try:
                response = connection.begin(method, request, attempts.seconds, given)
                return protocol.received(response, self.address)
            except grpc.RpcError as failure:
                error = catalogue.failure(failure, self.address, request)
                pause = attempts.pause(failure, error)
            if connection.closed.wait(pause):
                raise error

    def _answers(
        self, sent: protocol.StreamedQueries, timeout: float | None, metadata: Any
    ) -> Iterator[Answer]:
        responses = self._connection.begin(self._stub.SearchStream, iter(sent), timeout, metadata)
        status = StreamStatus(responses)
        answers = 0
        try:
            for response in responses:
                answers += 1
                yield protocol.answer(protocol.received(response, self.address))
        except grpc.RpcError as failure:
            raise error_from(status.of(failure), self.address) from failure
        finally:
            responses.cancel()
        sent.require_answers(answers, self.address)

    def _changes(self, request: Any, timeout: float | None, metadata: Any) -> Iterator[ChangePage]:
        responses = self._connection.begin(self._catalogue.Changes, request, timeout, metadata)
        try:
            for response in responses:
                yield catalogue.page(protocol.received(response, self.address))
        except grpc.RpcError as failure:
            raise catalogue.failure(failure, self.address, request) from failure
        finally:
            responses.cancel()
