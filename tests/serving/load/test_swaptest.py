"""The swap test: it counts what fails and what is mixed, and a short one runs from the command on."""

import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.scores import Hits, difference
from tests.helpers.serving import http2
from tests.helpers.serving.http2 import ConnectionPool
from tests.helpers.serving.shown import shown
from tests.helpers.tiny import item_names, tiny_bundle
from tests.load import measure_swap
from tests.load.cli.swaptest import pair
from tests.load.measure_swap import MIXED, Swap, SwapClients, SwapRun, Versions, expecting
from tests.load.plan import missed
from tests.load.workload import Workload, expected_answers
from tests.serving.cli.test_commands import Capture
from tests.serving.conftest import ROOT
from tests.serving.load.commands import failure, misuse
from twinspire.protos import bundle
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import Unavailable
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer
from twinspire.serving.wire.converters import RequestLimits

pytestmark = [pytest.mark.exhaustive, pytest.mark.quiet]

FIRST, SECOND = "a" * 64, "b" * 64
EXPECTED: list[list[Hits]] = [
    [[("one", 0.9), ("two", 0.8)], [("same", 0.5)]],
    [[("two", 0.7), ("three", 0.6)], [("same", 0.5)]],
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Bundles of one model, of 300 and of 200 items."""
    parent = tmp_path_factory.mktemp("swaptest")
    return tiny_bundle(parent, 300), tiny_bundle(parent, 200)


def answer(version: str, hits: Hits, queue_us: int = 7) -> bytes:
    message = wire.SearchResponse(
        hits=[wire.Hit(id=name, score=score) for name, score in hits],
        bundle_version=version,
        timing=wire.Timing(queue_us=queue_us, encode_us=300),
    )
    return http2.message(message.SerializeToString())


def test_each_answer_is_of_one_bundle_or_mixed() -> None:
    versions = Versions([FIRST, SECOND], [*map(expecting, EXPECTED)])
    for queue_us in (7, 900, 0):  # the second time by its bytes
        assert versions.of(0, answer(FIRST, EXPECTED[0][0], queue_us)) == 0
        assert versions.of(0, answer(SECOND, EXPECTED[1][0], queue_us)) == 1
    assert versions.mixed == 0
    mixed = [
        answer(SECOND, EXPECTED[0][0]),
        answer(FIRST, EXPECTED[1][0]),
        answer("c" * 64, EXPECTED[0][0]),
        answer(FIRST, EXPECTED[0][0][:1]),
        answer(FIRST, []),
        # What has been seen, and then one hit more, or another version.
        answer(FIRST, EXPECTED[0][0]) + wire.SearchResponse(hits=[wire.Hit(id="x")]).SerializeToString(),
        answer(FIRST, EXPECTED[0][0]) + wire.SearchResponse(bundle_version=SECOND).SerializeToString(),
    ]
    assert [versions.of(0, each) for each in mixed] == [MIXED] * len(mixed)
    assert versions.mixed == len(mixed)
    assert versions.first.startswith("query 0: bundle bbbbbbbbbbbb with [('one', 0.")


def test_what_a_server_answers_is_recognised(folders: tuple[Path, Path]) -> None:
    """And where the bundles are taken for each other, each answer is mixed."""
    retriever = Retriever.load(folders[0])
    asked = [Query(name) for name in item_names(40)]
    answers = [expected_answers(each, asked, 10) for each in (retriever, Retriever.load(folders[1]))]
    telling = [n for n in range(40) if difference(answers[0][n], answers[1][n])]
    assert len(telling) > 20
    asked = [asked[n] for n in telling]
    own, other = ([each[n] for n in telling] for each in answers)
    names = [bundle.read_manifest(each).bundle_version for each in folders]
    requests = Workload(asked, 10, None).searches()
    for expected, right in (([own, other], True), ([other, own], False)):
        versions = Versions(names, [*map(expecting, expected)])
        clients = SwapClients(requests, versions, 3)
        with RetrievalServer(retriever) as server:
            seen = drive(server.address, clients, answers=400)
        assert not seen.failed
        if right:
            assert (versions.mixed, set(seen.versions), set(clients.latest)) == (0, {0}, {0})
            assert len(seen.ends) == seen.requests
        else:
            assert (versions.mixed, len(seen.ends)) == (seen.requests, 0)


def drive(address: str, clients: SwapClients, answers: int) -> SwapRun:
    """Ask until so many calls have ended."""
    with ConnectionPool(address, len(clients.latest), clients.finished) as clients.pool:
        until = time.monotonic() + 30
        while clients.run.requests < answers:
            assert time.monotonic() < until, clients.failures()
            clients.poll(0.05)
        clients.stop()
    return clients.run


def test_what_fails_is_counted(retriever: Retriever) -> None:
    asked = [Query("a" * 50)]
    versions = Versions([FIRST, SECOND], [expecting([[]])] * 2)
    clients = SwapClients(Workload(asked, 10, None).searches(), versions, 2)
    with RetrievalServer(retriever, RequestLimits(max_text_length=20)) as server:
        seen = drive(server.address, clients, answers=10)
    assert seen.failed.total() == seen.requests >= 10
    assert clients.failures().startswith(f"{seen.requests} x INVALID_ARGUMENT: query.text")
    assert not seen.ends


def test_a_connection_that_breaks_is_a_failure_and_is_made_anew() -> None:
    asked = [Query(name) for name in item_names(10)]
    versions = Versions([FIRST, SECOND], [expecting([[]] * 10)] * 2)
    clients = SwapClients(Workload(asked, 10, None).searches(), versions, 2)
    sent = threading.Event()

    def break_once_sent() -> None:  # a server that takes requests and answers none
        with ExitStack() as open_sockets:
            for _ in range(2):
                peer = open_sockets.enter_context(listener.accept()[0])
                peer.sendall(http2.settings([]))
            sent.wait(30)
            listener.close()  # first, so that no new connection waits in its queue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=break_once_sent, daemon=True)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with ConnectionPool(address, 2, clients.finished) as clients.pool:
            clients.poll(0.05)
            sent.set()
            thread.join(30)
            until = time.monotonic() + 30
            while not any("cannot connect" in text for text in clients.run.failed):
                assert time.monotonic() < until, clients.failures()
                clients.poll(0.05)
            clients.stop()
    broken = sum(count for text, count in clients.run.failed.items() if text.startswith("UNAVAILABLE"))
    assert broken == clients.run.requests == 2


def test_a_service_that_does_not_come_back_ends_the_test(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.load.measure_swap.SILENCE_SECONDS", 0.3)
    clients = SwapClients(
        Workload([Query("a")], 10, None).searches(), Versions([FIRST], [expecting([[]])]), 2
    )
    with (
        RetrievalServer(retriever) as server,
        ConnectionPool(server.address, 2, clients.finished) as clients.pool,
    ):
        clients.poll(0.05)
        server.stop(0.0)
        with pytest.raises(Unavailable, match=r"has not answered for 0\.3 s: .* x "):
            while True:
                clients.poll(0.05)


def test_a_request_that_overlaps_a_window_is_during() -> None:
    done = SwapRun([Swap(1, 10.0, 11.0), Swap(0, 20.0, 20.5)], start=2.0, stop=30.0)
    for end, latency, version in (
        (2.5, 1.0, 0),  # of the warm-up
        (9.0, 0.010, 0),
        (10.1, 0.2, 0),  # began before the window
        (10.8, 0.030, 0),
        (11.2, 0.4, 1),  # ended after it
        (15.0, 0.020, 1),
        (20.3, 0.050, 0),
        (21.0, 0.030, 0),
    ):
        done.ends.append(end)
        done.latencies.append(latency)
        done.versions.append(version)
    figures = measure_swap.latency_figures(done)
    assert (figures["requests_during"], figures["requests_between"]) == (4, 3)
    assert figures["p50_between_ms"] == pytest.approx(20)
    assert figures["p50_during_ms"] == pytest.approx(125)
    between, during = np.percentile([10, 20, 30], 99), np.percentile([200, 30, 400, 50], 99)
    assert figures["p99_ratio"] == pytest.approx(during / between, rel=1e-4)
    seconds = measure_swap.swap_figures(done)
    assert (seconds["swap_seconds_median"], seconds["swap_seconds_max"]) == (0.4, 0.8)  # 0.8 and 0
    assert (seconds["window_seconds_median"], seconds["window_seconds_max"]) == (0.75, 1.0)


def test_without_requests_there_is_no_ratio() -> None:
    figures = measure_swap.latency_figures(SwapRun(stop=1.0))
    assert (figures["p99_ratio"], figures["p99_during_ms"]) == (None, None)
    assert missed(
        measure_swap.TARGETS, {"failed": 0, "mixed": 1, "p99_ratio": None, "memory_ratio": 1.1}
    ) == [
        "mixed",
        "p99_ratio",
    ]


def test_a_second_bundle_is_found_beside_the_first(folders: tuple[Path, Path], tmp_path: Path) -> None:
    parent = folders[0].parent
    assert {*pair(parent, None)} == {*folders}
    assert pair(folders[0], None) == folders
    assert pair(folders[1], folders[0]) == (folders[1], folders[0])
    first = tiny_bundle(tmp_path, 20)
    tiny_bundle(tmp_path, 30, name="another")
    with pytest.raises(Exception, match=r"holds one bundle of tiny; for a second train again, .* --other"):
        pair(first, None)


def test_misuse_is_told_apart(capsys: Capture, folders: tuple[Path, Path], tmp_path: Path) -> None:
    first = str(folders[0])
    assert "--other: is the same bundle" in misuse(capsys, "swaptest", "--bundle", first, "--other", first)
    assert "from 1 to 256, got '257'" in misuse(capsys, "swaptest", "--clients", "257")
    assert "from 1 to 1000, got '0'" in misuse(capsys, "swaptest", "--swaps", "0")
    assert "holds no bundle" in failure(capsys, "swaptest", "--bundle", str(tmp_path))


def test_bundles_that_answer_alike_cannot_be_told_apart(capsys: Capture, tmp_path: Path) -> None:
    for report in ("{}\n", "{} \n"):
        tiny_bundle(tmp_path, 50, report=report)
    assert "both bundles give the same answers to all queries" in failure(
        capsys, "swaptest", "--bundle", str(tmp_path)
    )


@pytest.fixture(scope="module")
def done(folders: tuple[Path, Path]) -> "subprocess.CompletedProcess[str]":
    """A short swap test: a registry, a service that follows it, clients, and memory."""
    flags = ["--clients", "6", "--seconds", "2", "--swaps", "3", "--workers", "2"]
    files = ["--bundle", str(folders[0]), "--other", str(folders[1])]
    command = [sys.executable, "-m", "tests.load", "swaptest", "--json", *files, *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.timeout(300)
def test_no_request_fails_and_no_answer_is_mixed(
    done: "subprocess.CompletedProcess[str]", folders: tuple[Path, Path]
) -> None:
    assert done.returncode == 0, done.stderr
    report: Any = json.loads(done.stdout)
    assert (report["failed"], report["mixed"], report["errors"]) == (0, 0, {})
    assert report["swaps"] == 3
    assert report["versions"] == [bundle.read_manifest(each).bundle_version for each in folders]
    assert (report["workers"], report["clients"]) == (2, 6)
    assert 0 < report["telling_queries"] <= report["distinct_queries"]
    assert report["requests"] >= report["requests_during"] + report["requests_between"]
    assert min(report["requests_during"], report["requests_between"]) > 0
    assert 0 < report["swap_seconds_median"] <= report["swap_seconds_max"] <= report["window_seconds_max"]
    assert 0 < report["p50_during_ms"] <= report["p99_during_ms"]
    assert 0 < report["p50_between_ms"] <= report["p99_between_ms"]
    ratio = report["memory_end_mib"] / report["memory_start_mib"]
    assert report["memory_ratio"] == pytest.approx(ratio, rel=0.01)
    assert report["memory_start_mib"] > 20
    assert report["targets_missed"] == missed(measure_swap.TARGETS, report)
    assert f"{report['requests']:,} answers, all compared; 3 swaps" in shown(measure_swap.show, report)
