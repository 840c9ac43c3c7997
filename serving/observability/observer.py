"""Records each call: in the metrics and in traces."""

import time

from twinspire.protos.errors import AccessDenied, Overloaded, RateLimited
from twinspire.serving.engine.batching import Job
from twinspire.serving.engine.call import Call
from twinspire.serving.observability.layout import (
    HEARTBEAT,
    INTERLEAVED,
    PLANS,
    QUERIES,
    REFUSED,
    REQUESTS,
    STAGE_SECONDS,
)
from twinspire.serving.observability.metrics import OTHER, SECONDS
from twinspire.serving.observability.tracing import Tracing
from twinspire.serving.observability.worker_metrics import WorkerMetrics
from twinspire.serving.wire.status import ClientGone, Code

NAMES: dict[int, str] = {code.value: code.name for code in Code}
SERIALISE = STAGE_SECONDS["serialise"]


class Observer:
    """Records every call of a worker: the `CallObserver` of its event loop.

    Args:
        tracing: of calls, if they are traced.
    """

    def __init__(self, metrics: WorkerMetrics, tracing: Tracing | None = None) -> None:
        self.metrics = metrics
        self.heartbeat = metrics.row, HEARTBEAT
        self.began = metrics.began
        self.streams = metrics.streams
        self._tracing = tracing

    def turned_away(self, name: str, code: Code, error: Exception | None) -> None:
        """A call was refused before its message was read; `error` is None if there is no such method.

        Its time is not counted: many quick refusals would make the service look fast.
        """
        self.metrics.add(REQUESTS[name if name in REQUESTS else OTHER][code.name])
        self.metrics.add(REFUSED[_reason(error)])

    def failed(self, call: Call, error: Exception) -> None:
        """A call ends with an error."""
        if isinstance(error, ClientGone | Overloaded):
            # Earlier queries of a stream have been answered.
            self.metrics.add(REFUSED[_reason(error)], 1 if call.is_stream else max(1, call.queries))

    def answered(self, call: Call, job: Job) -> None:
        """A job's response has been serialised and sent."""
        started, made = call.serialised or (0, 0)
        name, queries = call.method.name, len(job.prepared)
        self.metrics.add(QUERIES[name if name in QUERIES else OTHER], queries)
        self.metrics.observe(SERIALISE, SECONDS, (made - started) / 1e9, queries)
        if job.rival is not None:
            self.metrics.add(INTERLEAVED["champion" if job.found[0].interleaved is None else "both"])
        if job.options.filter is not None:
            for found in job.found:
                self.metrics.add(PLANS[found.plan])

    def ended(self, call: Call, code: int) -> None:
        """A call has ended with this status code."""
        name = NAMES[code]
        ended = time.perf_counter_ns()
        seconds = (ended - call.arrived) / 1e9
        self.metrics.finished(call.method.name, name, seconds)
        if call.bundle is not None:
            self.metrics.versioned(call.bundle.cell, name, seconds)
        if self._tracing is not None and self._tracing.wants(call.metadata):
            self._tracing.record(call, name, ended)


def _reason(error: Exception | None) -> str:
    """The reason among `metrics.REASONS` for which a call was refused."""
    if isinstance(error, ClientGone):
        return "deadline" if error.code is Code.DEADLINE_EXCEEDED else "cancelled"
    if isinstance(error, RateLimited):
        return "rate_limit"
    if isinstance(error, AccessDenied):
        return "access"
    return "no_room" if isinstance(error, Overloaded) else "other"
