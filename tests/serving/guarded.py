"""A real server with interceptors and credentials, which answers every call with the name of its caller."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from protos import retrieval_pb2 as wire
from protos import retrieval_pb2_grpc
from serving.auth import caller

THREADS = 8
SERVICE = "retrieval.v1.Retrieval"
REQUEST = wire.SearchRequest(query=wire.Query(text="bavuti"), k=2)


class WhoIsCalling(retrieval_pb2_grpc.RetrievalServicer):
    """Puts the caller where the service puts the version of its bundle."""

    def Search(self, request: wire.SearchRequest, context: grpc.ServicerContext) -> wire.SearchResponse:
        return wire.SearchResponse(bundle_version=caller(context))

    def SearchStream(
        self, requests: Iterator[wire.SearchRequest], context: grpc.ServicerContext
    ) -> Iterator[wire.SearchResponse]:
        for request in requests:
            yield self.Search(request, context)

    def Encode(self, request: wire.EncodeRequest, context: grpc.ServicerContext) -> wire.EncodeResponse:
        return wire.EncodeResponse(bundle_version=caller(context))


@contextmanager
def guarded(
    interceptors: "Sequence[grpc.ServerInterceptor[Any, Any]]" = (),
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[str]:
    """Serve in this process; gives the address."""
    with ThreadPoolExecutor(THREADS) as pool:
        server = grpc.server(pool, interceptors=list(interceptors), options=[("grpc.so_reuseport", 0)])
        retrieval_pb2_grpc.add_RetrievalServicer_to_server(WhoIsCalling(), server)
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
        reflection.enable_server_reflection((SERVICE, reflection.SERVICE_NAME), server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(2).wait()


def code_of(call: Any, request: Any, **arguments: Any) -> tuple[grpc.StatusCode, str]:
    """How a unary call ends: code and text."""
    try:
        call(request, timeout=10, **arguments)
    except grpc.RpcError as failure:
        return failure.code(), failure.details() or ""
    return grpc.StatusCode.OK, ""
