"""Counting in the workers, at the cost of a few additions for each request.

    shared = SharedMetrics(workers=2)  # in the supervisor, before it forks
    metrics = shared.worker(slot)             # in each worker, after the fork
    metrics.began()
    metrics.finished("Search", "OK", seconds=0.0012)
    shared.snapshot()                         # in any process: totals over all workers

The multiprocess mode of the official Prometheus client keeps values in files, a set of files for every
process that ever ran, and takes 17 us for a request on AMD EPYC, nine times as much as this module. So only
the exposition is the official client's (`exporter.py`). The values are 64-bit floats in anonymous shared
memory that is allocated before the fork, a row for each worker slot (`layout.py`). A worker writes only its
own row, so processes need no lock; an aligned cell of 8 bytes is read and written whole, so a scrape needs
none either. A worker that is killed leaves its row behind, and the next worker of the slot continues from
there: counters never fall. A `memoryview` of doubles is what Python adds to fastest: in 50 to 80 ns, where an
element of a NumPy array takes 200 ns.

`Observer` records each call of a worker, in these metrics and in traces.
"""

import mmap
import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, TypeAlias

from twinspire.protos.errors import AccessDenied, Overloaded, RateLimited
from twinspire.serving.engine.batching import Job
from twinspire.serving.engine.call import Call
from twinspire.serving.observability import layout
from twinspire.serving.observability.layout import (
    HEARTBEAT,
    IN_FLIGHT,
    INTERLEAVED,
    PLANS,
    QUERIES,
    QUEUE_DEPTH,
    REFUSED,
    REQUEST_SECONDS,
    REQUESTS,
    STAGE_SECONDS,
    STREAMS,
    VERSION_REQUESTS,
    VERSION_SECONDS,
    VERSION_WIDTH,
)
from twinspire.serving.observability.metrics import CODES, METHODS, OTHER, SECONDS, SIZES, STAGES
from twinspire.serving.observability.tracing import Tracing
from twinspire.serving.wire.status import ClientGone, Code

_QUEUE, _ENCODE, _SEARCH, _ = (layout.STAGE_SECONDS[stage] for stage in STAGES)

Row: TypeAlias = "memoryview[float]"
NAMES: dict[int, str] = {code.value: code.name for code in Code}
SERIALISE = STAGE_SECONDS["serialise"]


class WorkerMetrics:
    """The metrics of one worker. Made by `SharedMetrics.worker`; for one thread.

    Queries are counted as floats, because the cells are floats.
    """

    __slots__ = ("_cells", "_versions")

    def __init__(self, row: Row) -> None:
        self._cells = row
        # Where the block of each version starts, the version that was set last at the end.
        self._versions = {row[start]: start for start in layout.VERSION_STARTS if row[start]}

    @property
    def row(self) -> Row:
        """The cells. The event loop adds to `HEARTBEAT` at each turn: a call would take twice as long."""
        return self._cells

    def add(self, cell: int, amount: float = 1.0) -> None:
        """Add to a counter; `layout.cell` and `layout.cells` give its cell."""
        self._cells[cell] += amount

    def set(self, cell: int, value: float) -> None:
        """Set a gauge."""
        self._cells[cell] = value

    def observe(self, cell: int, bounds: Sequence[float], value: float, times: float = 1.0) -> None:
        """Count a value in a histogram.

        Args:
            cell: the first of the histogram's cells.
            bounds: upper bounds of its buckets.
            times: how often the value occurred.
        """
        row = self._cells
        row[cell + bisect_left(bounds, value)] += times
        row[cell + len(bounds) + 1] += value * times

    def shows(self, versions: Sequence[str]) -> None:
        """Set the bundle versions that are being served; `versioned` counts no others.

        Raises:
            ValueError: there are more versions than `layout.VERSIONS`.
        """
        if len(versions) > layout.VERSIONS:
            raise ValueError(f"expected at most {layout.VERSIONS} versions, got {len(versions)}")
        named = [layout.version_cell(version) for version in versions]
        for name in named:
            start = self._versions.pop(name, None)
            if start is None:
                start = self._free_block(named)
                self._cells[start : start + VERSION_WIDTH] = array("d", bytes(8 * VERSION_WIDTH))
                self._cells[start] = name  # last: a reader must not take another version's counts for these
            self._versions[name] = start

    def _free_block(self, needed: Sequence[float]) -> int:
        """The start of a free block, or of the block of the version that was not set for longest."""
        free = [start for start in layout.VERSION_STARTS if start not in self._versions.values()]
        if free:
            return free[0]
        return self._versions.pop(next(name for name in self._versions if name not in needed))

    def versioned(self, version: float, code: str, seconds: float) -> None:
        """Count an ended call for the bundle that answered or refused it; called beside `finished`.

        Args:
            version: of the bundle, as `layout.version_cell` writes it.
            code: name of the call's gRPC status.
            seconds: as in `finished`.
        """
        count = VERSION_REQUESTS[code]
        start = self._versions.get(version)
        if start is not None:
            self._cells[start + count] += 1.0
            self.observe(start + VERSION_SECONDS, SECONDS, seconds)

    def began(self) -> None:
        """Count a call that has come in; `finished` must follow."""
        self._cells[IN_FLIGHT] += 1.0

    def finished(self, method: str, code: str, seconds: float) -> None:
        """Count a call that has ended.

        Args:
            method: bare name; one that is not in `metrics.METHODS` counts as "other".
            code: name of its gRPC status.
            seconds: since `began`; of a stream, for as long as it was open.
        """
        if method not in REQUESTS:
            method = OTHER
        self._cells[REQUESTS[method][code]] += 1.0
        self.observe(REQUEST_SECONDS[method], SECONDS, seconds)
        self._cells[IN_FLIGHT] -= 1.0

    def streams(self, count: int) -> None:
        """Set the number of open streams."""
        self._cells[STREAMS] = count

    def queued(self, depth: int) -> None:
        """Set the number of queued queries."""
        self._cells[QUEUE_DEPTH] = depth

    def waited(self, queries: float, queue_us: int) -> None:
        """Count queries that have left the queue after `queue_us`, also those whose client has gone."""
        self.observe(_QUEUE, SECONDS, queue_us / 1e6, queries)

    def batch(self, queries: float, encode_us: int, search_us: int, searched: float | None = None) -> None:
        """Count a batch; each of its queries took as long as the batch.

        Args:
            queries: in the batch.
            encode_us: microseconds that the query tower took.
            search_us: microseconds that the index took.
            searched: number of the batch's queries that asked for items, not for vectors alone; all if not
                given.
        """
        self.observe(layout.BATCH_SIZE, SIZES, queries)
        self.observe(_ENCODE, SECONDS, encode_us / 1e6, queries)
        if searched := queries if searched is None else searched:
            self.observe(_SEARCH, SECONDS, search_us / 1e6, searched)


class SharedMetrics:
    """The metrics of all workers, at first zero. Make it before the workers are forked.

    Raises:
        ValueError: `workers` is below 1.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"workers: expected at least 1, got {workers}")
        everything: Row = memoryview(mmap.mmap(-1, workers * layout.ROW * layout.CELL_BYTES)).cast("d")
        self._rows = [everything[n * layout.ROW : (n + 1) * layout.ROW] for n in range(workers)]
        self._created = time.monotonic()
        self.supervisor = os.getpid()

    def worker(self, slot: int) -> WorkerMetrics:
        """Take over a slot; called in the worker, once.

        The slot's counters stay. Its gauges, such as calls in flight, are set to 0.
        """
        row = self._rows[slot]
        self.ended(slot)
        if row[layout.PID]:
            row[layout.RESTARTS] += 1.0
        row[layout.PID] = os.getpid()
        row[layout.STARTED] = time.time()
        row[layout.UP] = 1.0
        return WorkerMetrics(row)

    def ended(self, slot: int) -> None:
        """Reset the gauges of a slot whose worker has ended; called by the supervisor."""
        row = self._rows[slot]
        row[layout.HEARTBEAT] = 0.0
        for gauge in layout.GAUGES:
            row[gauge] = 0.0

    def heartbeat(self, slot: int) -> float:
        """A number that changes while the event loop of the slot's worker runs; 0 before it has started."""
        return self._rows[slot][layout.HEARTBEAT]

    def hung(self, slot: int) -> None:
        """Count a worker that is killed because its heartbeat stopped; called by the supervisor."""
        self._rows[slot][layout.HANGS] += 1.0

    def read(self) -> list[list[float]]:
        """The current cells of every slot."""
        return [list(row) for row in self._rows]

    def snapshot(self) -> dict[str, Any]:
        """Totals over all workers, for `Info`.

        Returns:
            `uptime_seconds` since it was made; `workers`, `workers_up`, `restarts`; `requests` by status code
            and `refused` by reason, without those that are 0; `queries` answered; the `interleaved` answers,
            and those of the champion alone; and the current `queue_depth`, `in_flight` and `streams`.
        """
        rows = self.read()
        total = [sum(each) for each in zip(*rows, strict=True)]
        requests = {code: sum(total[REQUESTS[m][code]] for m in METHODS) for code in CODES}
        refused = {reason: total[cell] for reason, cell in REFUSED.items()}
        return {
            "uptime_seconds": time.monotonic() - self._created,
            "workers": len(self._rows),
            "workers_up": int(total[layout.UP]),
            "restarts": int(total[layout.RESTARTS]),
            "requests": {code: int(count) for code, count in requests.items() if count},
            "refused": {reason: int(count) for reason, count in refused.items() if count},
            "queries": int(sum(total[cell] for cell in QUERIES.values())),
            "interleaved": {
                "answers": int(total[layout.INTERLEAVED["both"]]),
                "alone": int(total[layout.INTERLEAVED["champion"]]),
            },
            "queue_depth": int(total[QUEUE_DEPTH]),
            "in_flight": int(total[IN_FLIGHT]),
            "streams": int(total[STREAMS]),
        }


def sum_by_version(rows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """The cells of each bundle version, summed over all workers.

    Args:
        rows: the cells of every worker.

    Returns:
        First digits of the version -> the cells of its block.
    """
    found: dict[str, list[float]] = {}
    for row in rows:
        for start in layout.VERSION_STARTS:
            if row[start]:
                own = row[start : start + VERSION_WIDTH]
                name = layout.version_text(row[start])
                before = found.get(name, [0.0] * len(own))
                found[name] = [a + b for a, b in zip(before, own, strict=True)]
    return found


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
