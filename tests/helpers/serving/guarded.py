"""A real server with tokens and TLS, which records who its callers are."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from tests.helpers.serving.token_files import Metadata
from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.engine.call import Call
from twinspire.serving.observability.worker_metrics import NAMES, Observer
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.security.auth import Access, caller
from twinspire.serving.server import RetrievalServer

SERVICE = "retrieval.v1.Retrieval"
REQUEST = wire.SearchRequest(query=wire.Query(text="bavuti"), k=2)


class Ended:
    """The calls of a server that have ended, each as soon as it has."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def put(self, call: dict[str, Any]) -> None:
        self._calls.put(call)

    def next(self) -> dict[str, Any]:
        """The next call: method, code, caller, request id; it may end after its answer has been sent."""
        return self._calls.get(timeout=10)


@contextmanager
def recorded() -> Iterator[Ended]:
    """Record the calls of servers that are made in the block."""
    ended = Ended()

    class Recording(Observer):
        """Records the calls besides."""

        def ended(self, call: Call, code: int) -> None:
            super().ended(call, code)
            found = {"method": call.method.name, "code": NAMES[code], "caller": caller(call)}
            ended.put({**found, "request_id": dict(call.metadata).get("x-request-id", "")})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twinspire.serving.server.Observer", Recording)
        yield ended


@contextmanager
def guarded(retriever: Retriever, access: Access) -> Iterator[tuple[str, Ended]]:
    """Serve in this process; gives the address and the calls."""
    with recorded() as ended, RetrievalServer(retriever, access=access) as server:
        yield server.address, ended


def name_of(ended: Ended, call: Any, request: Any, metadata: Metadata = ()) -> str:
    """Who the service believes to be asked by."""
    call(request, metadata=metadata, timeout=10)
    return str(ended.next()["caller"])


def code_of(call: Any, request: Any, **arguments: Any) -> tuple[grpc.StatusCode, str]:
    """How a unary call ends: code and text."""
    try:
        call(request, timeout=10, **arguments)
    except grpc.RpcError as failure:
        return failure.code(), failure.details() or ""
    return grpc.StatusCode.OK, ""
