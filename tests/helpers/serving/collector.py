"""A collector of traces, as OpenTelemetry's protocol (OTLP) has it."""

import queue
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: queue.SimpleQueue[otlp.ExportTraceServiceRequest] = queue.SimpleQueue()
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(
        self, request: otlp.ExportTraceServiceRequest, context: Any
    ) -> otlp.ExportTraceServiceResponse:
        self.requests.put(request)
        return otlp.ExportTraceServiceResponse()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def calls(self) -> list[Span]:
        """The span of each call that has arrived, without those of its stages."""
        found = []
        while not self.requests.empty():
            found += [span for span in spans_of(self.requests.get()) if span.kind == Span.SPAN_KIND_SERVER]
        return found


def spans_of(request: otlp.ExportTraceServiceRequest) -> list[Span]:
    return [
        each for resource in request.resource_spans for scope in resource.scope_spans for each in scope.spans
    ]


def attributes(span: Span) -> dict[str, str | int]:
    """The attributes of a span: texts and whole numbers."""
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}
