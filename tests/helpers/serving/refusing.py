"""A small server of the service that refuses on demand, and remembers who asked what."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.helpers.serving.grpc_servers import grpc_server
from twinspire.protos import catalogue_pb2, catalogue_pb2_grpc, retrieval_pb2_grpc
from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.client import SERVICE
from twinspire.serving.wire.status import PUSHBACK


class Refusing(retrieval_pb2_grpc.RetrievalServicer, catalogue_pb2_grpc.CatalogueServicer):
    """Refuses the first calls, then answers; every answer holds the query's text as its only hit.

    A write is answered as done, or with the code `write_error` for each item if it is not 0; a read is
    answered with the ids that were asked for.

    The query `wait` is answered after its client has cancelled the call; `skip` gets no answer in a stream,
    and `end` ends the stream with OK after its answer.

    Args:
        codes: with which to refuse, a call each.
        pushback_ms: what a refused client is told to wait; None says nothing.
    """

    def __init__(self, codes: Iterable[grpc.StatusCode] = (), pushback_ms: int | None = None) -> None:
        self.codes = list(codes)
        self.pushback_ms = pushback_ms
        self.address = ""
        self.attempts = 0
        self.metadata: list[dict[str, str | bytes]] = []
        self.cancelled = threading.Event()
        self.request_ids: list[str] = []
        self.write_error: Any = 0
        self.answers_writes = threading.Event()  # cleared, writes that are not refused wait for it
        self.answers_writes.set()

    def Search(self, request: wire.SearchRequest, context: grpc.ServicerContext) -> wire.SearchResponse:
        self._refuse(context)
        return self._answer(request, context)

    def SearchStream(
        self, requests: Iterator[wire.SearchRequest], context: grpc.ServicerContext
    ) -> Iterator[wire.SearchResponse]:
        self._refuse(context)
        context.add_callback(self.cancelled.set)
        for request in requests:
            if request.query.text != "skip":
                yield self._answer(request, context)
            if request.query.text == "end":
                return

    def Upsert(
        self, request: catalogue_pb2.UpsertRequest, context: grpc.ServicerContext
    ) -> catalogue_pb2.WriteResponse:
        return self._written(request, context)

    def Delete(
        self, request: catalogue_pb2.DeleteRequest, context: grpc.ServicerContext
    ) -> catalogue_pb2.WriteResponse:
        return self._written(request, context)

    def Get(
        self, request: catalogue_pb2.GetRequest, context: grpc.ServicerContext
    ) -> catalogue_pb2.GetResponse:
        self._refuse(context)
        return catalogue_pb2.GetResponse(items=[{"item": {"id": each}} for each in request.ids])

    def _written(
        self,
        request: catalogue_pb2.UpsertRequest | catalogue_pb2.DeleteRequest,
        context: grpc.ServicerContext,
    ) -> catalogue_pb2.WriteResponse:
        self.request_ids.append(request.request_id)
        self._refuse(context)
        self.answers_writes.wait(20)
        results = [{"sequence": 1, "error": self.write_error}] * len(request.items)
        return catalogue_pb2.WriteResponse(sequence=1, results=results)

    def _refuse(self, context: grpc.ServicerContext) -> None:
        self.attempts += 1
        self.metadata.append(dict(context.invocation_metadata()))
        if self.codes:
            if self.pushback_ms is not None:
                context.set_trailing_metadata(((PUSHBACK, str(self.pushback_ms)),))
            context.abort(self.codes.pop(0), "query: refused")

    def _answer(self, request: wire.SearchRequest, context: grpc.ServicerContext) -> wire.SearchResponse:
        if request.query.text == "wait":
            gone = threading.Event()
            context.add_callback(gone.set)
            gone.wait(20)
            self.cancelled.set()
        return wire.SearchResponse(hits=[wire.Hit(id=request.query.text, score=1)], bundle_version="b")


class Watching(health.HealthServicer):
    """Health, with the metadata of who asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        self.metadata: dict[str, Any] = {}

    def Check(self, request: Any, context: Any) -> Any:
        self.metadata = dict(context.invocation_metadata())
        if self.metadata.get("authorization") == "Bearer wrong":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown token")
        return super().Check(request, context)


def serving(
    servicer: Refusing,
    credentials: grpc.ServerCredentials | None = None,
    watching: Watching | None = None,
    socket: str | None = None,
) -> AbstractContextManager[str]:
    """A server for as long as the block lasts; its address.

    It also listens at `socket`, such as `unix:/path`.
    """

    def add(server: grpc.Server) -> None:
        retrieval_pb2_grpc.add_RetrievalServicer_to_server(servicer, server)
        catalogue_pb2_grpc.add_CatalogueServicer_to_server(servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(watching or Watching(), server)
        if socket:
            server.add_insecure_port(socket)

    return grpc_server(add, credentials=credentials)
