"""A service whose items are on the server of a vector database: swapped, frozen, killed, restarted."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
from psycopg import sql

from tests.helpers.answers import hits_of
from tests.helpers.milvus import RunningMilvus, milvus_server, needs_server
from tests.helpers.postgres import RunningPostgres, needs_pgvector, pgvector_programs, running
from tests.helpers.scores import Hits, difference
from tests.helpers.serving.swapping import Load, Swapping
from tests.helpers.tiny import FILTERS, item_names, tiny_bundle
from tests.helpers.vector_databases import publish
from tests.helpers.waiting import wait_until
from twinspire.protos import bundle
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.errors import BundleDamaged, BundleError, TwinspireError, Unavailable
from twinspire.protos.vector_databases.database import collection_name, database_of, uri_variable
from twinspire.serving.client import RetrievalClient
from twinspire.serving.filters.expression import Filter
from twinspire.serving.live.live_items import LiveItems, LivePlace
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.rollout.bundle_validation import validate_bundle
from twinspire.train.paths import ROOT

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(300)]

ITEMS = 2000
NAMES = item_names(ITEMS)
Server = RunningMilvus | RunningPostgres
RECOVERY_SECONDS = (
    100.0  # a server of Milvus that was killed loads its collections again after its sessions have ended
)


@pytest.fixture(
    scope="module",
    params=[pytest.param("milvus", marks=needs_server()), pytest.param("pgvector", marks=needs_pgvector())],
)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def index(kind: str) -> IndexParameters:
    return IndexParameters("ip", 16, 100, 1024, kind=kind, options={"type": "HNSW"})


@pytest.fixture(scope="module")
def server(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this module alone, which is ended by tests."""
    programs = pgvector_programs() or Path()
    opened = milvus_server(tmp_path_factory) if kind == "milvus" else running(programs)
    with opened as made, pytest.MonkeyPatch.context() as patched:
        patched.setenv(uri_variable(kind), made.uri)
        yield made


@pytest.fixture(scope="module")
def folder(server: Server, index: IndexParameters, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with its collection, which has a graph."""
    made = tiny_bundle(tmp_path_factory.mktemp("bundle"), ITEMS, filters=FILTERS, index=index)
    with pytest.MonkeyPatch.context() as patched:
        if index.kind == "milvus":
            patched.setattr("twinspire.protos.vector_databases.milvus.SMALLEST_GRAPH", 0)
        publish(made, bundle.read(made))
    return made


@pytest.fixture(scope="module")
def near(index: IndexParameters, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    """The same items, compared exactly and here."""
    exact = replace(index, kind="", exact=True, options={})
    return Retriever.load(tiny_bundle(tmp_path_factory.mktemp("near"), ITEMS, filters=FILTERS, index=exact))


def wrong(near: Retriever, answer: object, name: str, k: int, filter: Filter | None = None) -> str:
    return difference(hits_of(near.search([Query(name)], k, filter=filter)[0]), hits_of(answer))


@pytest.mark.quiet
def test_a_swap_under_load_fails_no_request_and_mixes_no_answer(
    folder: Path, server: Server, index: IndexParameters, tmp_path: Path
) -> None:
    other = tiny_bundle(tmp_path, 600, filters=FILTERS, index=index)
    publish(other, bundle.read(other))
    exact = replace(index, kind="", exact=True, options={})
    expected: dict[str, dict[str, Hits]] = {}
    for each, count in ((folder, ITEMS), (other, 600)):
        beside = Retriever.load(tiny_bundle(tmp_path / f"{count}", count, filters=FILTERS, index=exact))
        answers = beside.search([Query(name) for name in NAMES[:100]], 10)
        version = bundle.read(each).bundle_version
        expected[version] = {n: hits_of(one) for n, one in zip(NAMES, answers, strict=False)}
    swapping = Swapping((folder, other))
    with swapping.server, RetrievalClient(swapping.server.address, retries=False) as client:
        swapping.swapper.start()

        def ask(n: int) -> tuple[str, str, Hits]:
            name = NAMES[n % 100]
            answer = client.search(name, k=10)
            return name, answer.bundle_version, hits_of(answer)

        load = Load(ask, clients=6)
        for champion in "212":
            swapping.aim(champion)
            swapping.swapped()
            before = len(load.answers)
            wait_until(lambda before=before: len(load.answers) > before + 50 or load.errors)  # type: ignore[misc]
        load.stop()
        swapping.swapper.stop()
    assert load.errors == []
    assert {version for _, version, _ in load.answers} == set(expected)
    assert [
        text for n, version, hits in load.answers if (text := difference(expected[version][n], hits))
    ] == []


def test_a_missing_collection_and_one_of_other_items_are_refused(
    folder: Path, index: IndexParameters, tmp_path: Path
) -> None:
    made = tiny_bundle(tmp_path, 30, index=index)
    manifest = bundle.read(made)
    with pytest.raises(BundleDamaged, match="there is no collection twinspire_"):
        validate_bundle(made)
    with closing(database_of(index.kind)()) as database:
        whole = publish(made, manifest)
        validate_bundle(made)
        delete(database, whole, "item-007")
        with pytest.raises(BundleDamaged, match="holds 29 items, but bundle"):
            search(made)
        database.drop(whole)
        # A collection of another bundle under this one's name.
        database.rename(collection_name(bundle.read(folder).bundle_version), whole)
        try:
            with pytest.raises(BundleDamaged, match="written for another bundle"):
                search(made)
            with pytest.raises(BundleDamaged, match="there is no collection"):
                search(folder)
        finally:
            database.rename(whole, collection_name(bundle.read(folder).bundle_version))


def delete(database: Any, name: str, item_id: str) -> None:
    """Delete an item, as no program of ours does."""
    if database.limits.engine == "Milvus":
        database.client().delete(name, ids=[item_id])
        return
    from twinspire.protos.vector_databases.pgvector import table

    found = sql.SQL("DELETE FROM {} WHERE id = %s").format(table(name))
    with psycopg.connect(os.environ[uri_variable("pgvector")], autocommit=True) as connection:
        connection.execute(found, [item_id])


def search(folder: Path) -> None:
    """Search with a new connection."""
    Retriever.load(folder).search([Query(NAMES[0])], 3)


def test_a_service_that_takes_writes_refuses_the_bundle(kind: str, folder: Path, tmp_path: Path) -> None:
    arguments = ["--bundle", str(folder), "--port", "0", "--catalogue", f"sqlite:///{tmp_path}/items.db"]
    command = [sys.executable, "-m", "twinspire.serving", "serve", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert f"--catalogue takes no writes for an index of kind {kind}, as that of" in done.stderr
    retriever = Retriever.load(folder)
    with pytest.raises(BundleError, match=f"--catalogue takes no writes for an index of kind {kind}"):
        LiveItems.open(retriever, LivePlace(tmp_path, lambda: {"store_id": "store", "sequence": 0}))


@pytest.mark.quiet
def test_a_server_that_hangs_or_dies_is_told_and_found_again(
    folder: Path, near: Retriever, server: Server, kind: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    port_file = tmp_path / "port"
    arguments = ["--bundle", str(folder), "--port", "0", "--port-file", str(port_file), "--workers", "2"]
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "twinspire.serving", "serve", *arguments],
            cwd=ROOT, env=os.environ, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        wait_until(lambda: port_file.exists() or process.poll() is not None, 90, log.read_text)
        assert process.poll() is None, log.read_text()
        address = f"127.0.0.1:{port_file.read_text().strip()}"
        with RetrievalClient(address, retries=False) as client, Outcomes(client, near) as asked:
            wait_until(lambda: asked.good > 50)
            server.stop()
            before = asked.refused
            wait_until(lambda: asked.refused > before + 3)
            started = time.monotonic()
            for name in NAMES[:20]:
                assert client.info().item_count == ITEMS
                assert client.encode([name]).shape[-1] == near.manifest.dimension
            assert time.monotonic() - started < 5.0
            server.resume()
            good = asked.good
            wait_until(lambda: asked.good > good + 50, RECOVERY_SECONDS)
            server.kill()
            before = asked.refused
            wait_until(lambda: asked.refused > before + 50)
            assert client.info().item_count == ITEMS
            server.start()
            good = asked.good
            wait_until(lambda: asked.good > good + 50, RECOVERY_SECONDS)
        assert asked.wrong == []
        assert {json.dumps(each) for each in asked.texts if uri_variable(kind) not in each} == set()
        assert asked.slowest < Outcomes.DEADLINE
        said = log.read_text() + " ".join(asked.texts)
        assert server.uri not in said and server.uri.rpartition("/")[2] not in said
    finally:
        process.terminate()
        process.wait(30)


class Outcomes:
    """Clients that ask all the time, and what became of their requests."""

    DEADLINE = 3.0

    def __init__(self, client: RetrievalClient, near: Retriever) -> None:
        self.good = self.refused = 0
        self.wrong: list[str] = []
        self.texts: set[str] = set()
        self.slowest = 0.0
        self._client, self._near, self._stopped = client, near, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(4)]
        for thread in self._threads:
            thread.start()

    def _run(self, start: int) -> None:
        for n in range(start * 50, 10**9):
            if self._stopped.is_set():
                return
            name = NAMES[n % 200]
            began = time.monotonic()
            try:
                answer = self._client.search(name, k=5, timeout=self.DEADLINE)
            except Unavailable as error:
                self.refused += 1
                self.texts.add(str(error))
                self.slowest = max(self.slowest, time.monotonic() - began)
                time.sleep(0.01)
            except TwinspireError as error:
                self.wrong.append(repr(error))
            else:
                self.good += 1
                if n < 400 and (text := wrong(self._near, answer, name, 5)):
                    self.wrong.append(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
