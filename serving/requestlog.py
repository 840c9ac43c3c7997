"""One line of JSON for a request, at a sampled rate.

    requests = RequestLog(rate=0.01, worker=slot)  # in each worker
    if requests.wants(code):
        requests.write(Call(...))

A line never holds a query's text, its history or a token. Texts are there only where the log was made with
`texts=True`, which is for finding a fault and not for every day: they may be personal data.
"""

import json
import sys
import threading
from datetime import UTC, datetime
from random import random
from typing import Any, TextIO

from serving import cells
from serving.call import Call

# The service's own faults, which are always told.
FAULTS = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS"})
LONGEST_NAME, LONGEST_TEXT, MOST_TEXTS = 128, 500, 16


class RequestLog:
    """Writes the lines of one worker; safe to use from several threads.

    Args:
        rate: the part of all requests that gets a line, 0 to 1; faults get theirs at any rate.
        worker: slot of the worker that writes.
        texts: whether the texts of queries are written too, the first 16 of a request.
        stream: to write to, standard error if not given.

    Raises:
        ValueError: `rate` is not between 0 and 1.
    """

    def __init__(
        self, rate: float, worker: int = 0, texts: bool = False, stream: TextIO | None = None
    ) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate: expected 0 to 1, got {rate}")
        self.texts = texts
        self._rate = rate
        self._worker = worker
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()

    def wants(self, code: str) -> bool:
        """Whether this request gets a line; asked once, when its status is known."""
        return random() < self._rate or code in FAULTS

    def write(self, call: Call, trace_id: str = "") -> None:
        """Write the line of a request; one that cannot be written is lost, and the request is not.

        Args:
            call: the request.
            trace_id: of its trace, where there is one.
        """
        line = json.dumps(self._line(call, trace_id)) + "\n"
        with self._lock:
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads any more, or the stream is closed
                return

    def _line(self, call: Call, trace_id: str) -> dict[str, Any]:
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
            **{f"{stage}_us": _stage_us(call, stage) for stage in cells.STAGES},
            "bundle_version": call.bundle_version,
            "worker": self._worker,
        }
        if trace_id:
            line["trace_id"] = trace_id
        if self.texts:
            line["texts"] = [text[:LONGEST_TEXT] for text in call.texts[:MOST_TEXTS]]
        return line


def _stage_us(call: Call, stage: str) -> int:
    """Microseconds in a stage, 0 where the request did not come to it."""
    return sum(end - start for name, start, end in call.stages if name == stage) // 1000
