"""The process of the served log, without a service: when it writes, and what it does after faults."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.serving.served_log.test_log_folder import row
from twinspire.protos.files.served_log import SUFFIX
from twinspire.serving.observability.worker_metrics import SharedMetrics
from twinspire.serving.served_log import process
from twinspire.serving.served_log.columns import Row
from twinspire.serving.served_log.config import ServedLogConfig
from twinspire.serving.served_log.log_folder import LogFolder
from twinspire.serving.served_log.process import LogWriter
from twinspire.serving.served_log.shared_queue import SharedQueues
from twinspire.serving.shared_state import SERVED_LOG, SharedState

Start = Callable[[], LogWriter]


@pytest.fixture
def state() -> SharedState:
    state = SharedState((SERVED_LOG,))
    state.write(SERVED_LOG, {"rows": 0, "lost": 0, "bytes": 0, "last_error": ""})
    return state


@pytest.fixture
def start(tmp_path: Path, state: SharedState, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Makes the process's object, for which each content is one row, and which is not due to write."""
    config = ServedLogConfig(tmp_path, served_log_flush_seconds=3600.0)
    monkeypatch.setattr(process, "decoded", lambda _: [row(1)])
    with closing(SharedQueues(1)) as queues:

        def made() -> LogWriter:
            queues.put(0, b"a row")
            return LogWriter(config, queues, state, SharedMetrics(workers=1), 1.0)

        yield made


def files(folder: Path) -> Sequence[Path]:
    return [*folder.glob(f"*T*/*{SUFFIX}")]


def finish(log: LogWriter) -> None:
    log._thread.shutdown()  # after what it writes


def test_rows_of_too_many_bytes_are_written_at_once(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = start()
    log.step()
    assert log._rows == 1
    monkeypatch.setattr(process, "MOST_BYTES", log._bytes)
    log.step(0.0)
    finish(log)
    assert (log._rows, log._bytes, len(files(tmp_path))) == (0, 0, 1)


def test_a_fault_of_pruning_is_named_and_rows_are_written(
    start: Start,
    tmp_path: Path,
    state: SharedState,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def prune(folder: LogFolder, days: float, most: int) -> int:
        raise OverflowError("date value out of range")

    monkeypatch.setattr(LogFolder, "prune", prune)
    monkeypatch.setattr(process, "MOST_ROWS", 1)
    log = start()
    log.step()
    finish(log)
    assert len(files(tmp_path)) == 1
    assert "old files could not be deleted: date value out of range" in caplog.text
    assert state.read(SERVED_LOG)["last_error"] == "OverflowError"
    assert state.read(SERVED_LOG)["lost"] == 0


def test_what_waits_at_the_end_is_written_and_what_takes_too_long_is_counted(
    start: Start, state: SharedState
) -> None:
    log = start()
    for _ in range(99):
        log._queues.put(0, b"a row")
    log._drain(time.monotonic() + 60)
    assert log._rows == 100
    for _ in range(50):
        log._queues.put(0, b"a row")
    log._drain(time.monotonic() - 1)
    log._flush()
    finish(log)
    assert state.read(SERVED_LOG)["rows"] == 100
    assert state.read(SERVED_LOG)["lost"] == 50


def test_what_cannot_be_read_is_counted_and_other_rows_are_written(
    start: Start, state: SharedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(content: bytes) -> list[Row]:
        if content == b"damaged":
            raise ValueError("bad marshal data")
        return [row(1)]

    log = start()
    monkeypatch.setattr(process, "decoded", decoded)
    log._queues.put(0, b"damaged")
    log._queues.put(0, b"a row")
    log.step(0.0)
    log._flush()
    finish(log)
    assert state.read(SERVED_LOG)["rows"] == 2
    assert state.read(SERVED_LOG)["lost"] == 1
