"""The request log: one line of JSON for a call, at a sampled rate.

A line holds no token and no history, and no text of a query unless the log was opened with `texts=True`.
Texts may be personal data: that option is for finding a fault, not for permanent use.
"""

import json
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from random import random
from typing import Any, TextIO

from serving.engine.call_record import CallRecord
from serving.flag_types import number_up_to, option
from serving.observability.metrics import STAGES
from serving.observability.sinks import RequestSink, SinkOptions

# Status codes of the service's own faults, which are always logged.
FAULTS = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS"})
LONGEST_NAME, LONGEST_TEXT, MAX_TEXTS = 128, 500, 16


class RequestLog(RequestSink):
    """Writes the lines of one worker; safe to use from several threads.

    Args:
        rate: share of the calls that is logged, 0 to 1; the service's own faults are always logged.
        worker: slot of the worker that writes.
        texts: whether the texts of queries are written too, the first 16 of a call.
        stream: to write to, standard error if not given.

    Raises:
        ValueError: `rate` is not between 0 and 1.
    """

    def __init__(
        self, rate: float, worker: int = 0, texts: bool = False, stream: TextIO | None = None
    ) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate: expected 0 to 1, got {rate}")
        self.needs_texts = texts
        self._rate = rate
        self._worker = worker
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()

    def wants_call(self, code: str) -> bool:
        """Whether a call is logged; called once a call, when its status is known."""
        return random() < self._rate or code in FAULTS

    def record_call(self, call: CallRecord, trace_id: str = "") -> None:
        """Write the line of a call; a line that cannot be written is dropped.

        Args:
            call: that has ended.
            trace_id: of its trace, if it is traced.
        """
        line = json.dumps(self._line(call, trace_id)) + "\n"
        with self._lock:
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError):  # the stream is closed, at either end
                return

    def _line(self, call: CallRecord, trace_id: str) -> dict[str, Any]:
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": call.request_id,
            "method": call.method,
            "code": call.code,
            "caller": call.caller[:LONGEST_NAME],
            "k": call.k,
            "queries": call.queries,
            "batch": call.batch,
            "total_us": (call.ended - call.arrived) // 1000,
            **{f"{stage}_us": _stage_us(call, stage) for stage in STAGES},
            "bundle_version": call.bundle_version,
            "worker": self._worker,
        }
        if trace_id:
            line["trace_id"] = trace_id
        if self.needs_texts:
            line["texts"] = [text[:LONGEST_TEXT] for text in call.texts[:MAX_TEXTS]]
        return line


def _stage_us(call: CallRecord, stage: str) -> int:
    """Microseconds in a stage, 0 if the call did not reach it."""
    return sum(end - start for name, start, end in call.stages if name == stage) // 1000


@dataclass(frozen=True)
class RequestLogOptions(SinkOptions):
    """Flags of the request log."""

    log_rate: float = option(0.0, "share of the requests that is logged, 0 to 1", number_up_to(1))
    log_queries: bool = option(False, "log the texts of queries too")

    def check(self) -> None:
        """As `SinkOptions.check`."""
        self.open(0)

    def open(self, worker: int) -> RequestLog:
        """As `SinkOptions.open`."""
        return RequestLog(self.log_rate, worker, self.log_queries)
