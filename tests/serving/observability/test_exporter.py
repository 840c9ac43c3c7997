"""Scrapes over HTTP: what the official parsers make of them, and that workers may die in between."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from prometheus_client.openmetrics import parser as openmetrics

from tests.helpers.serving.counting import CALLS
from tests.helpers.serving.guarded import code_of
from tests.helpers.serving.scraping import Scrape
from tests.serving.conftest import ROOT
from twinspire.protos import bundle, retrieval_pb2_grpc
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import Unavailable
from twinspire.serving.observability import metrics
from twinspire.serving.observability.exporter import serve_metrics
from twinspire.serving.observability.worker_metrics import SharedMetrics
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer
from twinspire.serving.service_status import bundle_readings, drift_readings, index_bytes


@pytest.fixture
def program() -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """The program `counting.py` with two workers that have counted, and the port of its metrics."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.serving.counting"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    said = dict(process.stdout.readline().split(maxsplit=1) for _ in range(3))
    yield process, int(said["port"])
    process.communicate(timeout=30)
    assert process.returncode == 0


def tell(process: "subprocess.Popen[str]", command: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{command}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def check_counts(scrape: Scrape, calls: int) -> None:
    """Every counter of the program, after so many calls in all of its workers."""
    scrape.check_histograms()
    assert scrape.get("requests_total", method="SearchBatch", code="OK") == calls * 4 // 5
    assert scrape.get("requests_total", method="SearchBatch", code="DEADLINE_EXCEEDED") == calls // 5
    assert scrape.get("queries_total", method="SearchBatch") == 2 * calls
    assert scrape.get("request_seconds_count", method="SearchBatch") == calls
    assert scrape.get("request_seconds_sum", method="SearchBatch") == pytest.approx(0.004 * calls)
    assert scrape.get("request_seconds_bucket", method="SearchBatch", le="0.002") == 0
    assert scrape.get("request_seconds_bucket", method="SearchBatch", le="0.005") == calls
    for stage, count, seconds in (
        ("queue", calls, 0.0001),
        ("encode", 2 * calls, 0.001),
        ("search", 2 * calls, 0.002),
        ("serialise", 2 * calls, 0.00005),
    ):
        assert scrape.get("stage_seconds_count", stage=stage) == count
        assert scrape.get("stage_seconds_sum", stage=stage) == pytest.approx(seconds * count)
    assert scrape["batch_size_count"] == calls
    assert scrape["batch_size_sum"] == 2 * calls


def test_workers_are_added_up_and_a_killed_one_loses_nothing(
    program: tuple["subprocess.Popen[str]", int],
) -> None:
    process, port = program
    before = Scrape(port)
    check_counts(before, 2 * CALLS)
    for worker in "01":
        assert before.get("worker_up", worker=worker) == 1
        assert before.get("in_flight", worker=worker) == 1
        assert before.get("queue_depth", worker=worker) == 3
        assert before.get("process_resident_bytes", process=f"worker-{worker}") > 1 << 20
    assert before.has("process_resident_bytes", process="supervisor")
    assert before.has("process_cpu_seconds_total", process="metrics")

    assert tell(process, "kill 0") == "ended 0"
    dead = Scrape(port)
    check_counts(dead, 2 * CALLS)
    assert dead.get("worker_up", worker="0") == 0
    assert dead.get("in_flight", worker="0") == 0
    assert dead.get("queue_depth", worker="0") == 0
    assert not dead.has("process_resident_bytes", process="worker-0")
    assert dead.get("in_flight", worker="1") == 1

    assert tell(process, "start 0").startswith("counted 0")
    after = Scrape(port)
    check_counts(after, 3 * CALLS)
    assert after.get("worker_up", worker="0") == 1
    assert after.get("in_flight", worker="0") == 1
    assert [after.get("worker_restarts_total", worker=worker) for worker in "01"] == [1, 0]
    started = [after.get("worker_start_time_seconds", worker=worker) for worker in "01"]
    assert started[1] < started[0] <= time.time()


@pytest.fixture
def shared() -> SharedMetrics:
    return SharedMetrics(workers=1)


def test_all_names_are_ours_and_all_figures_are_there_from_the_start(shared: SharedMetrics) -> None:
    shared.worker(0)
    facts = partial(bundle_readings, "pydocs", "3f2a", 300, 4096, time.time() - 60)
    with serve_metrics(shared, collect=facts) as port:
        scrape = Scrape(port)
    scrape.check_histograms()
    assert all(family.name.startswith("twinspire_") for family in scrape.families)
    assert all(family.documentation for family in scrape.families)
    for method in ("Search", "SearchBatch", "SearchStream", "Encode", "Info"):
        assert scrape.get("requests_total", method=method, code="INTERNAL") == 0
    assert scrape.get("refused_total", reason="no_room") == 0
    assert scrape.get("bundle_info", name="pydocs", version="3f2a") == 1
    assert 60 <= scrape["bundle_age_seconds"] < 90
    assert (scrape["index_items"], scrape["index_bytes"]) == (300, 4096)


def test_methods_beside_the_service_show_once_they_are_called(shared: SharedMetrics) -> None:
    mine = shared.worker(0)
    with serve_metrics(shared) as port:
        assert "Upsert" not in Scrape(port).text
        mine.began()
        mine.finished("Upsert", "OK", 0.001)
        assert Scrape(port).get("requests_total", method="Upsert", code="OK") == 1


def test_a_scraper_may_ask_for_openmetrics(shared: SharedMetrics) -> None:
    shared.worker(0).waited(1, 1000)
    facts = partial(bundle_readings, 'a "name"\n', "3f2a", 300, 4096, time.time())
    with serve_metrics(shared, collect=facts) as port:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=accept)
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            text = response.read().decode()
    parsed = openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parsed}
    assert families["twinspire_stage_seconds"].type == "histogram"
    assert families["twinspire_bundle_info"].samples[0].labels == {"name": 'a "name"\n', "version": "3f2a"}


def test_the_size_of_an_index_is_that_of_its_files(plain: Path) -> None:
    manifest = bundle.read(plain)
    sizes = [(plain / name).stat().st_size for name in (bundle.LINKS, bundle.VECTORS)]
    assert index_bytes(manifest) == sum(sizes)
    remote = replace(manifest.index, exact=False, kind="remote")
    assert index_bytes(replace(manifest, index=remote)) == sizes[1]


def test_the_figures_of_this_process_are_the_systems(shared: SharedMetrics) -> None:
    shared.worker(0)
    with serve_metrics(shared) as port:
        scrape = Scrape(port)
    mine = psutil.Process(os.getpid())
    resident = scrape.get("process_resident_bytes", process="worker-0")
    assert resident == pytest.approx(mine.memory_info().rss, rel=0.2)
    assert scrape.get("process_open_fds", process="worker-0") > 2
    assert 0 < scrape.get("process_cpu_seconds_total", process="worker-0") <= sum(mine.cpu_times()[:2])
    assert not scrape.has("process_resident_bytes", process="supervisor")  # which is this worker
    if sys.platform == "linux":
        assert 0 < scrape.get("process_proportional_bytes", process="worker-0") <= resident


def test_what_a_server_answers_is_what_a_scrape_shows(retriever: Retriever) -> None:
    shared = SharedMetrics(workers=1)
    one = wire.SearchRequest(query={"text": "bavuti"}, k=3)
    bad = wire.SearchRequest(query={"item_id": "item-999"})
    many = wire.SearchBatchRequest(queries=[one.query] * 5)
    with (
        RetrievalServer(retriever, metrics=shared) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub: Any = retrieval_pb2_grpc.RetrievalStub(channel)
        for _ in range(7):
            stub.Search(one, timeout=5)
        for _ in range(2):
            stub.SearchBatch(many, timeout=5)
            assert code_of(stub.Search, bad)[0] is grpc.StatusCode.NOT_FOUND
        stub.Encode(wire.EncodeRequest(queries=[one.query] * 4), timeout=5)
        assert len(list(stub.SearchStream(iter([one] * 6), timeout=5))) == 6
        stub.Info(wire.InfoRequest(), timeout=5)
        assert (
            code_of(channel.unary_unary("/retrieval.v1.Retrieval/Drop", None, None), b"")[0].name
            == "UNIMPLEMENTED"
        )
    with serve_metrics(shared) as port:
        scrape = Scrape(port)
    scrape.check_histograms()
    requests = {("Search", "OK"): 7, ("Search", "NOT_FOUND"): 2, ("SearchBatch", "OK"): 2}
    requests |= {(method, "OK"): 1 for method in ("Encode", "SearchStream", "Info")}
    requests["other", "UNIMPLEMENTED"] = 1
    for (method, code), count in requests.items():
        assert scrape.get("requests_total", method=method, code=code) == count, (method, code)
        if method != "other":
            ended = sum(each for (name, _), each in requests.items() if name == method)
            assert scrape.get("request_seconds_count", method=method) == ended
    queries = {"Search": 7, "SearchBatch": 10, "SearchStream": 6, "Encode": 4, "Info": 0}
    for method, count in queries.items():
        assert scrape.get("queries_total", method=method) == count
    for stage, count in (("queue", 27), ("encode", 27), ("search", 23), ("serialise", 27)):
        assert scrape.get("stage_seconds_count", stage=stage) == count, stage
        assert 0 < scrape.get("stage_seconds_sum", stage=stage) < 5
    assert scrape["batch_size_sum"] == 27
    assert 5 <= scrape["batch_size_count"] <= 16
    for gauge in ("in_flight", "queue_depth", "streams"):
        assert scrape.get(gauge, worker="0") == 0


def test_a_port_in_use_is_said_and_a_stopped_one_is_free(shared: SharedMetrics) -> None:
    with (
        serve_metrics(shared) as port,
        pytest.raises(Unavailable, match=f"127.0.0.1:{port}"),
        serve_metrics(shared, port=port),
    ):
        pass
    with serve_metrics(shared, port=port) as again:
        assert Scrape(again)["batch_size_count"] == 0


FEATURE = {"psi": 0.25, "p": 1e-9, "effect": None, "drifted": True}
DOCUMENT: dict[str, Any] = {
    "bundle": "abc",
    "computed": 1.7e9,
    "features": {"device": FEATURE, "text.length": {**FEATURE, "psi": 0.01, "drifted": False}},
}


def test_the_newest_result_of_the_champion_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "drift.json"
    assert [*drift_readings(path, "abc")] == []
    path.write_text(json.dumps(DOCUMENT))
    found = dict(drift_readings(path, "abc"))
    assert found[metrics.DRIFT_PSI] == [(["device"], 0.25), (["text.length"], 0.01)]
    assert found[metrics.DRIFT_DETECTED] == [(["device"], 1.0), (["text.length"], 0.0)]
    assert found[metrics.DRIFT_TIME] == [([], 1.7e9)]
    assert [*drift_readings(path, "another")] == []


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", "[" * 100, json.dumps({**DOCUMENT, "features": {"device": {}}})),
        *(json.dumps({**DOCUMENT, "features": []}), json.dumps({**DOCUMENT, "computed": "now"})),
    ],
)
def test_a_document_that_cannot_be_read_shows_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "drift.json"
    path.write_text(content)
    assert [*drift_readings(path, "abc")] == []
