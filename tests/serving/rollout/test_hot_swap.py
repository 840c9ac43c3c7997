"""A bundle is swapped under load: nobody's request fails, and no answer mixes two bundles."""

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.helpers.answers import hits_of
from tests.helpers.scores import Hits, difference
from tests.helpers.serving.reacting import soon
from tests.helpers.serving.scraping import Scrape
from tests.helpers.serving.swapping import Load, Swapping
from tests.helpers.tiny import item_names, tiny_bundle
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc as stubs
from twinspire.serving.client import RetrievalClient
from twinspire.serving.observability import layout
from twinspire.serving.observability.exporter import serve_metrics
from twinspire.serving.observability.worker_metrics import SharedMetrics, sum_by_version
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.service_status import ServiceStatus
from twinspire.serving.shared_state import NEXT


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Bundles of 300 and of 200 items, whose ids say nothing of which they are."""
    parent = tmp_path_factory.mktemp("swap")
    return tiny_bundle(parent, 300), tiny_bundle(parent, 200)


@pytest.fixture
def swapping(bundles: tuple[Path, Path]) -> Iterator[Swapping]:
    made = Swapping(bundles)
    with made.server:
        made.swapper.start()
        yield made
        made.swapper.stop()


@pytest.fixture(scope="module")
def expected(bundles: tuple[Path, Path]) -> dict[str, dict[str, Hits]]:
    """Bundle version -> query -> the ids that answer it, with their scores."""
    found = {}
    for folder in bundles:
        retriever = Retriever.load(folder)
        answers = retriever.search([Query(name) for name in item_names(300)], k=10)
        hits = {name: hits_of(answer) for name, answer in zip(item_names(300), answers, strict=True)}
        found[retriever.manifest.bundle_version] = hits
    first, second = found.values()
    assert any(difference(first[name], second[name]) for name in first)
    return found


def test_no_request_fails_and_no_answer_mixes_two_bundles(
    swapping: Swapping, expected: dict[str, dict[str, Hits]]
) -> None:
    names = item_names(300)
    with RetrievalClient(swapping.server.address, retries=False) as client:

        def ask(n: int) -> tuple[str, str, Hits]:
            name = names[n % len(names)]
            answer = client.search(name, k=10)
            return name, answer.bundle_version, hits_of(answer)

        load = Load(ask, clients=8)
        for champion in "212121":
            swapping.aim(champion)
            swapping.swapped()
            before = len(load.answers)
            while len(load.answers) < before + 50 and not load.errors:
                time.sleep(0.01)
        load.stop()
    assert load.errors == []
    assert {version for _, version, _ in load.answers} == set(expected)
    wrong = [
        (name, version, text)
        for name, version, hits in load.answers
        if (text := difference(expected[version][name], hits))
    ]
    assert wrong == []


def test_a_stream_goes_on_through_a_swap(swapping: Swapping, expected: dict[str, dict[str, Hits]]) -> None:
    names = item_names(300)
    asked = threading.Semaphore(16)

    def requests() -> Iterator[wire.SearchRequest]:
        for name in names:
            asked.acquire()
            yield wire.SearchRequest(query=wire.Query(text=name), k=10)

    versions = []
    with grpc.insecure_channel(swapping.server.address) as channel:
        answers = stubs.RetrievalStub(channel).SearchStream(requests(), timeout=60)
        for n, (name, answer) in enumerate(zip(names, answers, strict=True)):
            assert difference(expected[answer.bundle_version][name], hits_of(answer)) == ""
            versions.append(answer.bundle_version)
            if n == 100:
                swapping.aim("2")
                swapping.swapped()
            asked.release()
    assert [version for version, _ in itertools.groupby(versions)] == list(expected)


def test_the_old_bundle_is_let_go(swapping: Swapping) -> None:
    assert swapping.first() is not None
    with RetrievalClient(swapping.server.address) as client:
        client.search("bavuti")
        swapping.aim("2")
        swapping.swapped()
        client.search("bavuti")  # or the reactor still holds its last call
        until = time.monotonic() + 10
        while swapping.first() is not None:
            assert time.monotonic() < until, "somebody still holds it"
            time.sleep(0.05)


def test_a_bundle_that_cannot_be_loaded_leaves_the_one_before(
    swapping: Swapping, bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    swapping.bundles["3"] = tmp_path / "not there"
    swapping.aim("3")
    note = swapping.note(failed=2)
    assert note["serial"] == 1
    assert "manifest.json: missing" in note["error"]
    with RetrievalClient(swapping.server.address) as client:
        assert client.search("bavuti").bundle_version.startswith(bundles[0].name)
        swapping.aim("2")
        swapping.swapped()
        assert client.search("bavuti").bundle_version.startswith(bundles[1].name)


def test_what_comes_next_is_made_ready_and_served_only_when_it_is_the_target(swapping: Swapping) -> None:
    with RetrievalClient(swapping.server.address) as client:
        before = client.search("bavuti").bundle_version
        swapping.announce("2")
        swapping.note(ready=2)
        assert swapping.loaded == ["2"]
        assert client.search("bavuti").bundle_version == before
        swapping.aim("2")
        swapping.swapped()
        assert client.search("bavuti").bundle_version != before
    assert swapping.loaded == ["2"]
    assert swapping.note(ready=0)["serial"] == 2


def test_what_comes_no_more_is_let_go(swapping: Swapping) -> None:
    swapping.announce("2", who="worker 1")
    time.sleep(0.3)
    assert swapping.loaded == []  # it is not this worker's turn
    swapping.announce("2")
    swapping.note(ready=2)
    swapping.shared_state.write(NEXT, {"serial": 2})
    swapping.note(ready=0, serial=1)
    with RetrievalClient(swapping.server.address) as client:
        assert client.search("bavuti").bundle_version == swapping.one("1")["bundle_version"]


def test_towers_and_what_info_tells_are_swapped_too(swapping: Swapping, bundles: tuple[Path, Path]) -> None:
    query, item = (
        wire.Query(text="bavuti"),
        wire.UnseenItem(features={"text": wire.FeatureValue(text="bavuti")}),
    )
    requests = wire.EncodeRequest(queries=[query]), wire.EncodeRequest(items=[item])
    with (
        RetrievalClient(swapping.server.address) as client,
        grpc.insecure_channel(swapping.server.address) as channel,
    ):
        stub = stubs.RetrievalStub(channel)
        for champion, folder in zip("21", reversed(bundles), strict=True):
            swapping.aim(champion)
            swapping.swapped()
            info = client.info()
            assert info.bundle_version[:12] == folder.name
            assert info.item_count == (300 if champion == "1" else 200)
            for request in requests:
                assert stub.Encode(request, timeout=10).bundle_version[:12] == folder.name


@pytest.mark.exhaustive
def test_a_canary_answers_its_share_and_keeps_to_its_keys(
    swapping: Swapping, bundles: tuple[Path, Path]
) -> None:
    swapping.aim("1", canary="2", share=0.3)
    swapping.swapped()
    with grpc.insecure_channel(swapping.server.address) as channel:
        stub = stubs.RetrievalStub(channel)
        answered: dict[str, set[str]] = {}
        for n in range(400):
            key = f"user-{n % 200}"
            request = wire.SearchRequest(query=wire.Query(text=item_names(300)[n % 7]), k=1)
            answer = stub.Search(request, timeout=10, metadata=[("x-request-key", key)])
            answered.setdefault(key, set()).add(answer.bundle_version[:12])
        assert all(len(versions) == 1 for versions in answered.values())
        canary = sum(versions == {bundles[1].name} for versions in answered.values())
        assert 30 < canary < 95
        state = stub.Info(wire.InfoRequest()).state
    roles = {each.role: each for each in state.bundles}
    assert roles["canary"].requests == 2 * canary
    assert roles["champion"].requests == 400 - 2 * canary
    assert (roles["canary"].share, roles["champion"].share) == (pytest.approx(0.3), pytest.approx(0.7))
    assert (roles["canary"].model_version, roles["canary"].errors) == ("2", 0)


def test_a_query_without_a_key_is_its_own_key(swapping: Swapping) -> None:
    swapping.aim("1", canary="2")
    swapping.swapped()
    with RetrievalClient(swapping.server.address) as client:
        versions = {
            name: {client.search(name).bundle_version for _ in range(3)} for name in item_names(300)[:40]
        }
        (batch,) = {answer.bundle_version for answer in client.search_batch(list(versions))}
    assert all(len(each) == 1 for each in versions.values())
    assert {batch} < set.union(*versions.values())


def test_what_each_bundle_answered_is_counted_by_its_version(
    swapping: Swapping, bundles: tuple[Path, Path]
) -> None:
    with RetrievalClient(swapping.server.address) as client:
        for _ in range(3):
            client.search("bavuti")
        swapping.aim("2")
        swapping.swapped()
        client.search("bavuti")
        with pytest.raises(Exception, match="holds no item"):
            client.search(Query(item_id="nothing"))
    ok, absent = (layout.VERSION_REQUESTS[code] for code in ("OK", "NOT_FOUND"))

    def counts() -> tuple[float, ...]:
        counted = sum_by_version(swapping.metrics.read())
        first, second = (counted[folder.name] for folder in bundles)
        return first[ok], second[ok], second[absent]

    assert soon(lambda: counts() == (3, 1, 1)), counts()  # a client may be told before it is counted
    (champion,) = swapping.status.state()["bundles"]
    assert (champion.requests, champion.errors, champion.failures) == (2, 1, 0)
    broken = SharedMetrics(1)
    row = broken.worker(0)
    row.shows([champion.bundle_version])
    for code in ("OK", "INTERNAL", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE"):
        row.versioned(layout.version_cell(champion.bundle_version), code, 0.001)
    (champion,) = ServiceStatus(swapping.shared_state, broken).state()["bundles"]
    assert (champion.requests, champion.errors, champion.failures) == (5, 4, 2)
    with serve_metrics(swapping.metrics, collect=swapping.status.metrics) as port:
        scrape = Scrape(port)
    assert scrape.get("bundle_requests_total", version=bundles[1].name, code="NOT_FOUND") == 1
    assert scrape.get("bundle_request_seconds_count", version=bundles[0].name) == 3
    labels = {"role": "champion", "version": bundles[1].name, "model_version": "2"}
    assert scrape.get("bundle_share", **labels) == 1
