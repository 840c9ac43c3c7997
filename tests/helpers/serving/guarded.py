"""A real server with tokens and TLS, whose log tells who its callers are."""

import io
import json
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from protos import retrieval_pb2 as wire
from serving.observability.request_log import RequestLog
from serving.observability.sinks import RequestSinks
from serving.retrieval.retriever import Retriever
from serving.security.access import Access
from serving.server import RetrievalServer
from tests.helpers.serving.token_files import Metadata

SERVICE = "retrieval.v1.Retrieval"
REQUEST = wire.SearchRequest(query=wire.Query(text="bavuti"), k=2)


class Lines(io.StringIO):
    """The lines of a request log, each as soon as it has been written."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def write(self, line: str) -> int:
        self._lines.put(json.loads(line))
        return len(line)

    def next(self) -> dict[str, Any]:
        """The next line; a call's may be written after its answer has been sent."""
        return self._lines.get(timeout=10)


@contextmanager
def guarded(retriever: Retriever, access: Access) -> Iterator[tuple[str, Lines]]:
    """Serve in this process; gives the address and the log."""
    lines = Lines()
    with RetrievalServer(
        retriever, access=access, sinks=RequestSinks([RequestLog(1.0, stream=lines)])
    ) as server:
        yield server.address, lines


def name_of(lines: Lines, call: Any, request: Any, metadata: Metadata = ()) -> str:
    """Who the service believes to be asked by."""
    call(request, metadata=metadata, timeout=10)
    return str(lines.next()["caller"])


def code_of(call: Any, request: Any, **arguments: Any) -> tuple[grpc.StatusCode, str]:
    """How a unary call ends: code and text."""
    try:
        call(request, timeout=10, **arguments)
    except grpc.RpcError as failure:
        return failure.code(), failure.details() or ""
    return grpc.StatusCode.OK, ""
