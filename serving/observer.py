"""What becomes of calls, told to whoever wants to know: metrics, the request log, traces."""

import time
from collections.abc import Sequence

import grpc

from protos.errors import AccessDenied, Overloaded, RateLimited
from serving.batching import Job
from serving.call import Call
from serving.counters import WorkerMetrics
from serving.guard import caller
from serving.requestlog import RequestLog
from serving.rpc import Rpc
from serving.status import NobodyWaits
from serving.stream_rpc import StreamRpc
from serving.tracing import Tracing

NAMES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}


class Observer:
    """Is told of every call by the reactor.

    Args:
        metrics: of this worker.
        log: of requests, if there is one.
        tracing: of requests, if there is any.
    """

    def __init__(
        self,
        metrics: WorkerMetrics,
        log: RequestLog | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.metrics = metrics
        self.began = metrics.began
        self.streams = metrics.streams
        self._log, self._tracing = log, tracing

    def turned_away(self, name: str, code: grpc.StatusCode, error: Exception | None) -> None:
        """A call was refused before its message was read; without an error where there is no such method."""
        self.metrics.turned_away(name, code.name, _reason(error))

    def failed(self, rpc: Rpc, error: Exception) -> None:
        """A call ends with an error."""
        if isinstance(error, NobodyWaits | Overloaded):
            one_of_many = isinstance(rpc, StreamRpc)  # and those before it have been answered
            self.metrics.refused(_reason(error), 1 if one_of_many else max(1, rpc.queries))

    def answered(self, rpc: Rpc, job: Job) -> None:
        """A job's answer has been made and sent."""
        started, made = rpc.serialised or (0, 0)
        self.metrics.answered(rpc.method.name, (made - started) / 1e9, len(job.prepared))

    def ended(self, rpc: Rpc, code: int) -> None:
        """A call is over, with this code."""
        name = NAMES[code]
        ended = time.perf_counter_ns()
        seconds = (ended - rpc.arrived) / 1e9
        self.metrics.finished(rpc.method.name, name, seconds)
        if rpc.served is not None:
            self.metrics.versioned(rpc.served.cell, name, seconds)
        traced = self._tracing is not None and self._tracing.wants(rpc.metadata)
        if traced or (self._log is not None and self._log.wants(name)):
            self._tell(rpc, name, ended, traced)

    def _tell(self, rpc: Rpc, code: str, ended: int, traced: bool) -> None:
        """Write a line and make spans, as either is wanted."""
        logged = self._log is not None and (not traced or self._log.wants(code))
        job = rpc.job
        call = Call(
            rpc.method.name,
            code,
            rpc.metadata,
            rpc.arrived,
            ended,
            () if isinstance(rpc, StreamRpc) else _stages(rpc),
            caller(rpc),
            k=0 if job is None else job.wanted.k,
            queries=rpc.queries,
            batch=0 if job is None else job.batch,
            bundle_version="" if rpc.served is None else rpc.served.version,
            texts=_texts(job) if job is not None and self._log is not None and self._log.texts else (),
        )
        trace_id = self._tracing.record(call) if traced and self._tracing is not None else ""
        if logged and self._log is not None:
            self._log.write(call, trace_id)


def _stages(rpc: Rpc) -> list[tuple[str, int, int]]:
    """Name, start and end of the stages that a call has been through."""
    job = rpc.job
    if job is None or not job.encode_started:
        return []
    encoded, found = job.encode_us * 1000, job.search_us * 1000
    stages = [
        ("queue", rpc.arrived, job.encode_started),
        ("encode", job.encode_started, job.encode_started + encoded),
    ]
    if job.wanted.k:
        stages.append(("search", job.search_started, job.search_started + found))
    if rpc.serialised is not None:
        stages.append(("serialise", *rpc.serialised))
    return stages


def _texts(job: Job) -> Sequence[str]:
    values = [value for each in job.prepared for value in (each.values or {}).values()]
    return [value for value in values if isinstance(value, str)]


def _reason(error: Exception | None) -> str:
    if isinstance(error, NobodyWaits):
        return "deadline" if error.code is grpc.StatusCode.DEADLINE_EXCEEDED else "cancelled"
    if isinstance(error, RateLimited):
        return "rate_limit"
    if isinstance(error, AccessDenied):
        return "access"
    return "no_room" if isinstance(error, Overloaded) else "other"
