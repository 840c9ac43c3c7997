"""The process of the served log: takes the rows of all workers, and writes them as files.

It makes columns of the rows as they come, and writes these on another thread. What the workers send while it
is behind waits in shared memory, and what that does not hold is dropped and counted.
"""

import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import Any

import psutil
import pyarrow as pa

from twinspire.serving.observability import layout
from twinspire.serving.observability.worker_metrics import SharedMetrics
from twinspire.serving.served_log.columns import Row, to_table
from twinspire.serving.served_log.config import RAW, ServedLogConfig
from twinspire.serving.served_log.log_folder import DAY_LENGTH, HOUR_NANOSECONDS, LogFolder, hour_of
from twinspire.serving.served_log.sampling import decoded
from twinspire.serving.served_log.shared_queue import SharedQueues
from twinspire.serving.shared_state import SERVED_LOG, SharedState
from twinspire.serving.supervisor import NICE, WorkerHandle, run_when_idle

log = logging.getLogger(__name__)

STEP_SECONDS = 0.2  # for which it waits for a row
LATE_SECONDS = 3.0  # after which a flush no longer waits until nothing else needs the processor
DRAIN_SECONDS = 3.0  # after the workers' grace; the supervisor kills a process that takes longer
MOST_CONTENTS = 32  # of a worker, whose rows become columns at once
MOST_ROWS = 100_000  # in memory; at this number they are written before the flush is due
MOST_BYTES = 256 << 20  # of these rows
PRUNE_SECONDS = 60.0  # between two looks for files beyond the bounds

Tables = dict[str, list[pa.Table]]


class LogWriter:
    """Writes the rows of all workers; `run` is its process.

    Args:
        queues: from the workers.
        shared_state: with the entry `SERVED_LOG`.
        shared: metrics of the workers, which say whether these still run.
        grace: seconds for them to end when the service stops.
    """

    def __init__(
        self,
        config: ServedLogConfig,
        queues: SharedQueues,
        shared_state: SharedState,
        shared: SharedMetrics,
        grace: float,
    ) -> None:
        self._config, self._queues, self._shared_state = config, queues, shared_state
        self._shared, self._grace = shared, grace
        self._folder = LogFolder(config.folder)
        self._entry: dict[str, Any] = {**shared_state.read(SERVED_LOG), "pid": os.getpid(), "last_error": ""}
        self._tables: Tables = defaultdict(list)  # by hour
        self._rows = self._bytes = 0  # in these tables
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "served log")
        self._writing: Future[None] | None = None
        self._flush_due = time.monotonic() + config.served_log_flush_seconds
        self._prune_due = 0.0
        try:
            self._folder.delete_drafts(of_rewritten=False)
        except OSError as error:
            self._failed("drafts of a process that was killed could not be deleted", error)

    def run(self, handle: WorkerHandle) -> None:
        """Work until the service stops and the workers have ended."""
        stopped = handle.stop_event()
        if _may_leave_idle():
            threading.Thread(target=self._hurry_when_late, args=(stopped,), daemon=True).start()
            run_when_idle()  # without the two threads, which notice the stop on a busy machine, too
        else:
            os.nice(NICE)
        pa.set_cpu_count(1)
        handle.ready()
        while not stopped.is_set():
            self.step()
        until = time.monotonic() + self._grace + DRAIN_SECONDS
        while time.monotonic() < until and self._workers_run():
            self.step()
        self._drain(until)
        self._flush()
        self._thread.shutdown()

    def _hurry_when_late(self, stopped: threading.Event) -> None:
        """Let this process compete for the processor while a flush is late, and when the service stops."""
        spared = {each.native_id for each in threading.enumerate()} - {threading.main_thread().native_id}
        is_late = False
        while not stopped.wait(LATE_SECONDS):
            was_late, is_late = is_late, time.monotonic() > self._flush_due + LATE_SECONDS
            if is_late != was_late:
                _run_as(os.SCHED_OTHER if is_late else os.SCHED_IDLE, spared)
        _run_as(os.SCHED_OTHER, spared)

    def _drain(self, until: float) -> None:
        """Take the answers in the queues, up to a time by `time.monotonic()`; count the others as lost."""
        while self._queues.wait(0.0) and time.monotonic() < until:
            self.step(0.0)
        left = 0
        while contents := self._queues.take(MOST_CONTENTS):
            left += len(self._decoded(contents))
        if left:
            self._lose(left, TimeoutError("too many waited when the service stopped"))

    def step(self, seconds: float = STEP_SECONDS) -> None:
        """Take rows, and write what is due; wait up to `seconds` if there are none."""
        if self._queues.wait(seconds):
            self._take()
        if self._rows >= MOST_ROWS or self._bytes >= MOST_BYTES or time.monotonic() >= self._flush_due:
            self._flush()

    def _workers_run(self) -> bool:
        pids = [int(row[layout.PID]) for row in self._shared.read()]
        return any(psutil.pid_exists(pid) for pid in pids if pid)

    def _take(self) -> None:
        """Make columns of rows that wait."""
        rows = self._decoded(self._queues.take(MOST_CONTENTS))
        for hour, in_hour in groupby(rows, lambda row: row[0].time // HOUR_NANOSECONDS):
            self._add(hour_of(hour * HOUR_NANOSECONDS), [*in_hour])

    def _decoded(self, contents: Sequence[bytes]) -> list[Row]:
        """The rows in these contents; content that cannot be read counts as one that is lost."""
        rows: list[Row] = []
        for content in contents:
            try:
                rows += decoded(content)
            except Exception as error:  # of any kind: other rows go on
                self._lose(1, error)
        return rows

    def _add(self, hour: str, rows: Sequence[Row]) -> None:
        """Make columns of the rows of an hour."""
        try:
            table = to_table(rows, self._written(hour[:DAY_LENGTH]))
            self._tables[hour].append(table)
            self._rows += len(table)
            self._bytes += table.nbytes
        except Exception as error:  # of any kind: other rows go on
            self._lose(len(rows), error)

    def _written(self, day: str) -> Callable[[str], str]:
        """Key of a user -> how it is written on a day."""
        if self._config.served_log_users == RAW:
            return str
        return partial(self._folder.digest, day=day)

    def _flush(self) -> None:
        """Write what has come, on another thread, after what was to be written before."""
        if self._writing is not None:
            self._writing.result()
        tables, self._tables = self._tables, defaultdict(list)
        self._rows = self._bytes = 0
        self._writing = self._thread.submit(self._write, tables)
        self._flush_due = time.monotonic() + self._config.served_log_flush_seconds

    def _write(self, tables: Tables) -> None:
        """Write a file for each hour, delete what is beyond the bounds, and publish the entry."""
        for hour, parts in tables.items():
            table = pa.concat_tables(parts)
            try:
                path = self._folder.write(table, hour, table["time"][0].value * 1000)
                size = self._entry["bytes"] + path.stat().st_size
                self._entry |= {"rows": self._entry["rows"] + len(table), "bytes": size, "last_error": ""}
            except Exception as error:  # of any kind: later rows go on
                self._lose(len(table), error)
        if time.monotonic() >= self._prune_due:
            self._prune()
        self._shared_state.write(SERVED_LOG, self._entry)

    def _prune(self) -> None:
        config = self._config
        self._prune_due = time.monotonic() + PRUNE_SECONDS
        try:
            self._entry["bytes"] = self._folder.prune(config.served_log_max_days, config.served_log_max_bytes)
        except Exception as error:  # of any kind: rows are written nevertheless
            self._failed("old files could not be deleted", error)

    def _lose(self, rows: int, error: Exception) -> None:
        """Count rows that are in no file, and log why."""
        self._failed(f"{rows} answers could not be logged", error)
        with self._lock:
            self._entry["lost"] += rows

    def _failed(self, what: str, error: Exception) -> None:
        """Log what has failed and why, unless it is the reason of before."""
        reason = error.strerror or str(error) if isinstance(error, OSError) else type(error).__name__
        if reason != self._entry["last_error"]:
            log.error("%s: %s", what, error, exc_info=not isinstance(error, OSError))
        self._entry["last_error"] = reason


def _run_as(policy: int, spared: Container[int | None]) -> None:
    """Let the threads of this process, without some, compete for the processor by a policy of the kernel."""
    for thread in psutil.Process().threads():
        if thread.id not in spared:
            with suppress(OSError):  # it has ended
                os.sched_setscheduler(thread.id, policy, os.sched_param(0))


def _may_leave_idle() -> bool:
    """Whether the kernel lets a thread of this process return from `SCHED_IDLE`; tried on a new one."""

    def attempt() -> bool:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        return True

    with suppress(AttributeError, OSError), ThreadPoolExecutor(1) as thread:  # not Linux, or not allowed
        return thread.submit(attempt).result()
    return False
