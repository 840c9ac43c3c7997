"""A whole service that keeps a log of its answers: real processes, real files."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from tests.helpers.serving.cataloguing import ROOT
from tests.helpers.waiting import wait_until
from tests.serving.served_log.conftest import LoggingService, Serve
from twinspire.protos.errors import TwinspireError
from twinspire.serving.client import Event, Query

TEXT, USER = "a-text-that-no-file-may-have", "a-key-that-no-file-may-have"


def written(service: LoggingService, rows: int) -> bool:
    return state(service)[0] >= rows


def state(service: LoggingService) -> tuple[int, int]:
    """Answers in files, and dropped ones."""
    with service.service.client() as client:
        found = client.info().state["served_log"]
    return int(found["rows"]), int(found["dropped"])


def test_each_answer_is_a_row_with_the_id_that_the_client_got(serve: Serve, full: Path) -> None:
    service = serve(full)
    query = Query(TEXT, features={"country": "de", "age": 30.0, "tags": ["new", "old"]}, user=USER)
    with service.service.client() as client:
        answers = [client.search(query, k=5)]
        answers += [client.search(Query(item_id="item-003"), k=2)]
        answers += client.search_batch([TEXT, query, Query(item_id="item-004")], k=3)
        answers += client.search_stream(["a", "b"], k=4)
        wait_until(lambda: written(service, len(answers)))
    rows = service.rows()
    assert [row["request_id"] for row in rows] == [each.request_id for each in answers]
    for row, answer in zip(rows, answers, strict=True):
        assert row["item_ids"] == [hit.id for hit in answer.hits]
        assert row["scores"] == [hit.score for hit in answer.hits]
        assert row["bundle"] == answer.bundle_version
        assert row["propensities"] is None
        assert abs(row["time"] - datetime.now(UTC)).total_seconds() < 60
    assert [row["k"] for row in rows] == [5, 2, 3, 3, 3, 4, 4]
    users = [row["user"] for row in rows]
    assert [user is not None for user in users] == [True, False, False, True, False, False, False]
    assert users[0] == users[3]
    queries = [json.loads(row["query"]) for row in rows]
    assert queries[0] == queries[3] == {"country": "de", "age": 30.0, "tags": ["new", "old"]}
    assert queries[1] == {"item_id": "item-003"}
    service.service.stop()
    for path in service.folder.rglob("*"):
        if path.is_file():
            assert TEXT.encode() not in path.read_bytes(), path
            assert USER.encode() not in path.read_bytes(), path
    assert TEXT not in service.service.log
    assert USER not in service.service.log


def test_a_history_is_written_as_the_query_tower_read_it(serve: Serve, watched: Path) -> None:
    service = serve(watched, "--events-shown-hours", "1")
    with service.service.client() as client:
        client.record([Event(USER, f"item-{n:03}", time=1000.0 + n) for n in range(9)])
        query = Query(history=("item-050",), features={"country": "de"}, user=USER)
        client.search(query)
        client.search(query, exclude_shown=60)
    service.service.stop()
    row, other = service.rows()
    assert (row["comparable"], other["comparable"]) == (True, False)
    history = ["item-005", "item-006", "item-007", "item-008", "item-050"]
    assert json.loads(row["query"]) == {"history": history, "country": "de"}


def test_texts_and_keys_are_written_where_the_operator_says_so(serve: Serve, full: Path) -> None:
    service = serve(full, "--served-log-texts", "--served-log-users", "raw")
    with service.service.client() as client:
        client.search(Query(TEXT, user=USER), k=5)
    service.service.stop()  # what was answered before is flushed
    (row,) = service.rows()
    assert row["user"] == USER
    assert TEXT in row["query"]
    command = [sys.executable, "-m", "twinspire.serving.events", "delete", USER]
    command += ["--events", service.service.url, "--served-log", str(service.folder)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert json.loads(found.stdout)["answers_deleted"] == 1
    assert service.rows() == []


def test_explored_answers_say_so_and_are_in_the_log_as_they_were(serve: Serve, full: Path) -> None:
    service = serve(full, "--explore-share", "0.5", "--explore-top", "8", "--explore-temperature", "0.5")
    with service.service.client() as client:
        answers = [client.search("a red lamp", k=5, exclude=["item-001"]) for _ in range(40)]
        answers += client.search_batch(["a red lamp", "a"] * 20, k=12)
    service.service.stop()
    rows = {row["request_id"]: row for row in service.rows()}
    assert 15 <= sum(each.explored for each in answers) <= 65
    for answer in answers:
        row = rows[answer.request_id]
        assert row["item_ids"] == [hit.id for hit in answer.hits]
        assert len(answer.hits) == row["k"]
        if not answer.explored:
            assert answer.propensities == ()
            assert row["propensities"] is row["candidate_ids"] is row["temperature"] is None
            continue
        assert tuple(row["propensities"]) == answer.propensities
        assert row["temperature"] == 0.5
        assert len(row["candidate_ids"]) == len(row["candidate_scores"]) == 8


def test_the_share_of_answers_is_that_of_the_flag(serve: Serve, full: Path) -> None:
    service = serve(full, "--served-log-share", "0.2")
    with service.service.client() as client:
        for _ in range(4):
            client.search_batch(["a"] * 200, k=1)
    service.service.stop()
    assert 100 <= len(service.rows()) <= 220


def test_a_folder_has_one_service(serve: Serve, full: Path) -> None:
    service = serve(full)
    command = [sys.executable, "-m", "twinspire.serving", "serve", "--bundle", str(full), "--port", "0"]
    command += ["--served-log", str(service.folder)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "another service writes its log there" in found.stderr


@pytest.mark.exhaustive
@pytest.mark.quiet  # it occupies a processor
@pytest.mark.skipif(sys.platform != "linux", reason="there is no SCHED_IDLE")
def test_answers_are_logged_though_the_processor_is_busy(serve: Serve, full: Path) -> None:
    service = serve(full)
    idle = psutil.Process(service.pid())
    wait_until(lambda: os.sched_getscheduler(idle.pid) == os.SCHED_IDLE)
    core = min(os.sched_getaffinity(0))
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    for pid in (busy.pid, *(each.id for each in idle.threads())):
        os.sched_setaffinity(pid, {core})
    try:
        with service.service.client() as client:
            client.search_batch(["a"] * 64, k=3)
            wait_until(lambda: os.sched_getscheduler(idle.pid) == os.SCHED_OTHER, 30)
            wait_until(lambda: written(service, 64), 60)
    finally:
        busy.kill()
        busy.wait()
    wait_until(lambda: os.sched_getscheduler(idle.pid) == os.SCHED_IDLE)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed")
def test_a_user_without_the_right_may_not_leave_the_idle_policy() -> None:
    code = "import os; from twinspire.serving.served_log.process import _may_leave_idle; os.setuid(65534)"
    shown = f"{code}; print(_may_leave_idle(), os.sched_getscheduler(0))"
    command = [sys.executable, "-c", shown]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", str(os.SCHED_OTHER)]


@pytest.mark.exhaustive
@pytest.mark.quiet  # it kills processes
def test_what_was_flushed_can_be_read_whatever_is_killed(serve: Serve, full: Path) -> None:
    service = serve(full)
    answered: list[tuple[float, str]] = []
    stop = threading.Event()

    def search() -> None:
        with service.service.client() as client:
            while not stop.is_set():
                try:
                    answer = client.search("a", k=3, timeout=5.0)
                    answered.append((time.time(), answer.request_id))
                except TwinspireError:
                    pass
                stop.wait(0.005)  # the three would otherwise leave the log's process no time

    def more() -> None:
        before = len(answered)
        wait_until(lambda: len(answered) > before + 200)

    def flush(rows: int) -> None:
        wait_until(lambda: state(service)[0] > rows, 60)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert service.service.process is not None
    try:
        for victim in (min(service.service.worker_pids()), service.pid(), None):
            more()
            process = psutil.Process(victim or service.pid())
            process.send_signal(signal.SIGKILL)
            process.wait(20)
        flush(state(service)[0] + 300)  # the log's process is back
        dropped, begun = state(service)[1], time.time()
        answered_before = len(answered)
        more()
        for _ in range(3):  # what was answered before is in the first or the second of these flushes
            rows, dropped_since = state(service)[0], state(service)[1] - dropped
            flush(rows)
        for pid in [child.pid for child in psutil.Process(service.service.process.pid).children()]:
            os.kill(pid, signal.SIGKILL)
        service.service.process.send_signal(signal.SIGKILL)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    service.service.process.wait(20)
    logged = service.rows()  # each file can be read
    kept = {row["request_id"] for row in logged}
    assert len(kept) == len(logged), "none is there twice"
    since = {each for moment, each in answered[:answered_before] if moment > begun}
    assert len(since - kept) <= dropped_since


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="there is no prlimit")
def test_on_a_full_disk_answers_are_dropped_and_counted_and_searches_go_on(serve: Serve, full: Path) -> None:
    service = serve(full)
    with service.service.client() as client:
        client.search("a", k=3)
        wait_until(lambda: written(service, 1))
        pid = service.pid()
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        for _ in range(5):
            assert len(client.search("a", k=3).hits) == 3
        wait_until(lambda: client.info().state["served_log"]["dropped"] == 5)
        state = client.info().state["served_log"]
        assert (state["rows"], state["last_error"]) == (1, "File too large")
        assert (state["share"], state["explore_share"]) == (1.0, 0.0)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        client.search("a", k=3)
        wait_until(lambda: written(service, 2))
        state = client.info().state["served_log"]
        assert (state["dropped"], state["last_error"]) == (5, "")
        assert state["bytes"] == sum(path.stat().st_size for path in service.folder.glob("*T*/*.parquet"))
    assert service.service.stop() == 0
    assert len(service.rows()) == 2
