"""The service `retrieval.v1.Catalogue`: checks requests, and passes them to the catalogue's process."""

import json
import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twinspire.protos import catalogue_pb2 as wire
from twinspire.protos.errors import InvalidInput, Overloaded
from twinspire.serving.api.retrieval_service import RetrievalServicer
from twinspire.serving.engine.call import Call, Deferred
from twinspire.serving.engine.stream_call import OpenCalls, WatchCall
from twinspire.serving.live.process.frames import Frame, FrameKind, StoreClient
from twinspire.serving.live.store.records import (
    CatalogueBounds,
    WriteParser,
    WriteRequest,
    check_answer_size,
    check_id,
)
from twinspire.serving.rollout.loaded_bundle import TrafficSplit
from twinspire.serving.shared_state import CATALOGUE, SharedState

SERVICE = wire.DESCRIPTOR.services_by_name["Catalogue"]
PAGE = 500  # changes in one answer of a stream, at most
PAGE_BYTES = 1 << 20  # of such an answer, beyond which it ends
HIGHEST = 2**63 - 1  # no sequence of a store is higher
MAX_STREAMS = 64  # calls of Changes that a worker has open at once


class CatalogueServicer:
    """Answers each call when the catalogue's process has replied, and this worker has applied the write.

    Args:
        retrieval: has the bundles that answer, and waits until they have applied a write.
        client: the connection to the catalogue's process.
        shared_state: with the entry `CATALOGUE`, which has the bounds.
        max_answer_bytes: bound on an answer.
        streams_per_connection: calls of Changes that one connection may have open.
    """

    def __init__(
        self,
        retrieval: RetrievalServicer,
        client: StoreClient,
        shared_state: SharedState,
        max_answer_bytes: int,
        streams_per_connection: int,
    ) -> None:
        self._retrieval, self._client, self._shared_state = retrieval, client, shared_state
        self._max_bytes = max_answer_bytes
        self._bounds, self._bounds_version = CatalogueBounds(), 0
        self._parser: tuple[TrafficSplit, WriteParser] | None = None  # and the bundles that it is for
        self._streams: set[_ChangesStream] = set()
        self._open = OpenCalls("Changes", streams_per_connection, MAX_STREAMS)

    def Upsert(self, request: wire.UpsertRequest, call: Call) -> Deferred:
        """Write items."""
        return self._write(self.parser.upsert(request, self.bounds), call)

    def Delete(self, request: wire.DeleteRequest, call: Call) -> Deferred:
        """Withdraw items."""
        return self._write(self.parser.delete(request, self.bounds), call)

    def Get(self, request: wire.GetRequest, call: Call) -> Deferred:
        """Items as the store holds them."""
        if not 1 <= len(request.ids) <= self.bounds.max_batch:  # first: there may be a million to check
            raise InvalidInput("ids", f"expected 1 to {self.bounds.max_batch} ids, got {len(request.ids)}")
        ids = [check_id(each, f"ids[{n}]") for n, each in enumerate(request.ids)]
        self._admit(call, len(ids))
        asked = json.dumps({"ids": ids, "bytes": self._max_bytes}).encode()
        return self._client.defer(call, FrameKind.GET, asked, self._found)

    def Changes(self, request: wire.ChangesRequest, call: WatchCall, push: Callable[[Any], None]) -> None:
        """The changes after a sequence, and those to come.

        Raises:
            Overloaded: the connection, or the worker, has as many of these calls open as it may have.
        """
        self._open.enter(call)
        self._admit(call, 1)
        stream = _ChangesStream(self, request, call, push)
        self._streams.add(stream)

        def ended() -> None:
            stream.close()
            self._streams.discard(stream)

        call.add_callback(ended)
        stream.read_on()

    def advance(self) -> None:
        """Let calls of `Changes` that have all changes look for others; called when this worker has some."""
        for stream in self._streams:
            if stream.is_idle:
                stream.read_on()

    def page(self, call: Call, after: int, outcome: Callable[[Frame], Any]) -> Deferred:
        """What `outcome` makes of the changes after a sequence, for a call.

        Raises:
            Overloaded: too many requests wait for the store.
        """
        asked = json.dumps(
            {"after": after, "limit": PAGE, "bytes": min(PAGE_BYTES, self._max_bytes)}
        ).encode()
        return self._client.defer(call, FrameKind.CHANGES, asked, outcome)

    def shut_down(self) -> None:
        """End all calls of `Changes`: they would delay the shutdown."""
        for stream in list(self._streams):
            stream.end()

    @property
    def sequence(self) -> int:
        """All changes up to this sequence are searched by this worker."""
        return self._retrieval.split.sequence

    @property
    def bounds(self) -> CatalogueBounds:
        """The bounds of writes, as the store has them."""
        version = self._shared_state.version(CATALOGUE)
        if version != self._bounds_version:
            entry = self._shared_state.read(CATALOGUE)
            self._bounds, self._bounds_version = CatalogueBounds(**entry.get("bounds", {})), version
        return self._bounds

    @property
    def parser(self) -> WriteParser:
        """Parser and checks of writes, by the schemas of the bundles that answer."""
        split = self._retrieval.split
        if self._parser is None or self._parser[0] is not split:
            self._parser = split, WriteParser([each.manifest for each in split.all])
        return self._parser[1]

    def _write(self, request: WriteRequest, call: Call) -> Deferred:
        self._admit(call, len(request.items))
        rows = self._retrieval.split.champion.retriever.built.catalogue.rows
        items = [each._replace(in_bundle=bool(rows([each.item_id]))) for each in request.items]
        deadline = time.monotonic() + call.deadline - time.time()
        asked = replace(request, items=items, deadline=deadline)

        def written(reply: Frame) -> Any:
            """The outcome: now, or deferred until this worker's searches have applied its sequence."""
            if self._retrieval.split.sequence >= reply.value:
                return reply.payload
            return self._retrieval.waits.add(reply.value, call, lambda: reply.payload, is_stored=True)

        content, repeatable = pickle.dumps(asked), bool(request.request_id)
        return self._client.defer(call, FrameKind.WRITE, content, written, repeatable, len(items))

    def _found(self, reply: Frame) -> wire.GetResponse:
        """The store's answer, completed by the display fields of items that only the bundle holds.

        Raises:
            InvalidInput: the answer would be too large.
        """
        response = wire.GetResponse.FromString(reply.payload)
        # Not the live items: they change meanwhile, and may be older or newer than the store's answer.
        catalogue = self._retrieval.split.champion.retriever.built.catalogue
        for each in response.items:
            if each.origin == wire.ITEM_UNKNOWN:
                for row in catalogue.rows([each.item.id]):
                    each.origin = wire.ITEM_BUNDLE
                    each.item.fields.update(catalogue.fields(row))
        check_answer_size(response, self._max_bytes)
        return response

    def _admit(self, call: Call, items: int) -> None:
        """Charge the client's rate limit; an item written or read costs as much as a query."""
        call.bundle = self._retrieval.split.champion
        self._retrieval.admit(call, items)


class _ChangesStream:
    """One call of `Changes`: it reads a page, sends it, and reads the next when that has been sent.

    Without `follow` it ends at the sequence that the store had at the first page: a store that is written to
    all the time would never give it an empty page. With `follow` it reads on like this until it has all
    changes, and from then on whenever this worker has applied some.
    """

    def __init__(
        self,
        servicer: CatalogueServicer,
        request: wire.ChangesRequest,
        call: WatchCall,
        push: Callable[[Any], None],
    ) -> None:
        self._asked_after, self._after = request.after, min(request.after, HIGHEST)
        self._follow = request.follow
        self._until: int | None = None  # sequence of the store at the first page
        self._servicer, self._call, self._push = servicer, call, push
        self._is_open = True
        self.is_idle = False  # it has all changes
        call.on_clear = self.read_on

    def read_on(self) -> None:
        """Ask for the next page."""
        self.is_idle = False
        try:
            page = self._servicer.page(self._call, self._after, self._take)
        except Overloaded as error:
            self._call.fail(error)
            return
        self._call.await_outcome(page)

    def end(self) -> None:
        """End the call after what has been sent."""
        if self._is_open:
            self._is_open = False
            self._push(None)

    def close(self) -> None:
        """Mark the stream as closed: no page is sent or read any more."""
        self._is_open = False
        self._call.on_clear = None

    def _take(self, reply: Frame) -> None:
        """Send a page, and end or read on.

        Raises:
            InvalidInput: the store has not reached the sequence that was asked for.
        """
        if not self._is_open:
            return
        response = wire.ChangesResponse.FromString(reply.payload)
        if self._until is None:
            self._until = response.sequence
            if self._asked_after > self._until:
                reason = f"expected at most {self._until}, the store's sequence, got {self._asked_after}"
                raise InvalidInput("after", f"{reason}; it may be of another store")
        self._after = (
            response.changes[-1].sequence if response.changes else max(self._after, response.sequence)
        )
        if response.changes:
            self._push(reply.payload)  # and then `read_on`, unless this was the last one
        if not self._follow and self._after >= self._until:
            self.end()
        self.is_idle = not response.changes
        if self.is_idle and self._is_open and self._servicer.sequence > self._after:  # applied meanwhile
            self.read_on()
