"""OpenTelemetry traces: a span for each request, and within it one for each stage. The extra `tracing`.

    prepare("http://127.0.0.1:4317", ratio=0.01)  # in the supervisor; raises configuration errors
    tracing = Tracing("http://127.0.0.1:4317", ratio=0.01, worker=slot)  # in each worker, after the fork
    if tracing and tracing.wants(metadata):
        tracing.record(call, "OK", ended)
    tracing.stop()

The spans of a call are made when it has ended, from times that were taken meanwhile. So a server without
traces only evaluates one condition. A client that sends a W3C `traceparent` in the metadata, as
OpenTelemetry's instrumentation of gRPC clients does, decides whether its call is traced; of the other calls
the share `ratio` is traced. Names and attributes are those of OpenTelemetry's semantic conventions for RPC;
none holds a query, an item or the client's name. Spans are sent in batches over OTLP. If the collector is
too slow or down, spans are dropped, and requests are not affected. OTEL_EXPORTER_OTLP_HEADERS sets headers
for the collector.
"""

import os
import re
import socket
import time
from random import random
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from twinspire.protos.errors import MissingStage
from twinspire.serving.engine.call import Call
from twinspire.serving.engine.front import Metadata
from twinspire.serving.observability.metrics import ERRORS

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

EXPORT_SECONDS = 3.0  # timeout of sending a batch
DELAY_SECONDS = 1.0  # that a span waits for its batch to fill
# Spans that are queued, and that are sent together; so `stop` sends two batches at most.
MAX_SPANS, BATCH = 4096, 2048

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-([0-9a-f]{2})")


class Tracing:
    """Makes and sends the spans of one worker; safe to use from several threads.

    It opens a gRPC channel and starts a thread: make it after the fork.

    Args:
        endpoint: of an OTLP collector that speaks gRPC, `http://host:port`, or https for TLS.
        ratio: share of the calls without a `traceparent` that is traced, 0 to 1.
        worker: slot of the worker.
    """

    def __init__(self, endpoint: str, ratio: float, worker: int = 0) -> None:
        self._ratio = ratio
        self._provider = _provider(endpoint, worker)
        self._tracer = self._provider.get_tracer("twinspire.serving")

    def wants(self, metadata: Metadata) -> bool:
        """Whether a call is traced, by its metadata; called once a call."""
        for key, value in metadata:
            if key == "traceparent" and (sent := _TRACEPARENT.match(str(value))):
                return bool(int(sent[1], 16) & 1)  # the flag "sampled"
        return random() < self._ratio

    def record(self, call: Call, code: str, ended: int) -> None:
        """Make the spans of a call that is traced.

        Args:
            code: name of its status.
            ended: when it ended, in `time.perf_counter_ns()`.
        """
        from opentelemetry import trace

        # Spans have wall-clock times. The offset is computed for each call, because that clock may be set.
        offset = time.time_ns() - time.perf_counter_ns()
        stages = [] if call.is_stream else _stages(call)
        arrived = min([call.arrived, *(start for _, start, _ in stages)])
        span = self._tracer.start_span(
            call.method.path[1:], _parent(call.metadata), trace.SpanKind.SERVER, start_time=arrived + offset
        )
        span.set_attributes(_attributes(call, code))
        if code in ERRORS:
            span.set_status(trace.StatusCode.ERROR)
        within = trace.set_span_in_context(span)
        for name, start, end in stages:
            self._tracer.start_span(name, within, start_time=start + offset).end(end + offset)
        span.end(ended + offset)

    def stop(self) -> None:
        """Send the remaining spans."""
        self._provider.shutdown()


def prepare(endpoint: str, ratio: float) -> None:
    """Import the libraries of traces before workers are forked; nothing is connected yet.

    The arguments are those of `Tracing`.

    Raises:
        MissingStage: the extra `tracing` is not installed.
        ValueError: `endpoint` is not such a URL, or `ratio` is not between 0 and 1.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"endpoint: expected http://host:port or https://host:port, got {endpoint!r}")
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio: expected 0 to 1, got {ratio}")
    try:
        import opentelemetry.exporter.otlp.proto.grpc.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401
    except ImportError as error:
        text = f"traces need the extra: pip install 'twinspire[tracing]' ({error})"
        raise MissingStage(text) from error


def _provider(endpoint: str, worker: int) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    resource = Resource.create(
        {
            "service.name": "twinspire",
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            "twinspire.worker": worker,
        }
    )
    # `wants` has decided; a sampler of OpenTelemetry would take 10 us for each call that is not traced.
    provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
    processor = BatchSpanProcessor(
        exporter,
        max_queue_size=MAX_SPANS,
        max_export_batch_size=BATCH,
        schedule_delay_millis=DELAY_SECONDS * 1000,
    )
    provider.add_span_processor(processor)
    return provider


def _parent(metadata: Metadata) -> "Context":
    """The context that the client sent; empty if there is none, or it cannot be read."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {key: value for key, value in metadata if key in ("traceparent", "tracestate")}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _stages(call: Call) -> list[tuple[str, int, int]]:
    """Name, start and end of the stages that a call has been through, in `time.perf_counter_ns()`."""
    job = call.job
    if job is None or not job.encode_started:
        return []
    encode_ns, search_ns = job.encode_us * 1000, job.search_us * 1000
    stages = [
        ("queue", call.arrived, job.encode_started),
        ("encode", job.encode_started, job.encode_started + encode_ns),
    ]
    if job.options.k:
        stages.append(("search", job.search_started, job.search_started + search_ns))
    if call.serialised is not None:
        stages.append(("serialise", *call.serialised))
    return stages


def _attributes(call: Call, code: str) -> dict[str, "AttributeValue"]:
    job = call.job
    attributes: dict[str, AttributeValue] = {
        "rpc.system.name": "grpc",
        "rpc.method": call.method.path[1:],  # as gRPC names it: `retrieval.v1.Retrieval/Search`
        "rpc.response.status_code": code,
        "twinspire.request_id": call.request_id,
        "twinspire.k": 0 if job is None else job.options.k,
        "twinspire.queries": call.queries,
        "twinspire.batch": 0 if job is None else job.batch,
        "twinspire.bundle_version": "" if call.bundle is None else call.bundle.version,
    }
    if code in ERRORS:
        attributes["error.type"] = code
    return attributes
