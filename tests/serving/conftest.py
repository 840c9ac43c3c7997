"""Tiny bundles, real servers on them, and where stores may be made."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.helpers.tiny import tiny_bundle, watched_bundle
from tests.helpers.tiny_towers import FULL, TinyTower
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

if TYPE_CHECKING:
    from tests.helpers.milvus import RunningMilvus
    from tests.helpers.serving.following import Scene
    from tests.helpers.serving.world import World

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of 300 items whose queries are texts."""
    return tiny_bundle(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose queries have a feature of every kind."""
    return tiny_bundle(tmp_path_factory.mktemp("full"), query_tower=TinyTower(FULL))


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose queries are histories, and the country that somebody is in."""
    return watched_bundle(tmp_path_factory.mktemp("watched"))


@pytest.fixture(scope="session")
def retriever(plain: Path) -> Retriever:
    """The plain bundle at work, without a transport."""
    return Retriever.load(plain)


@pytest.fixture(scope="session")
def full_retriever(full: Path) -> Retriever:
    """The full bundle at work, without a transport."""
    return Retriever.load(full)


@pytest.fixture(scope="session")
def server(retriever: Retriever) -> Iterator[RetrievalServer]:
    """A server on the plain bundle, in this process, on a port of its own."""
    with RetrievalServer(retriever) as server:
        yield server


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator["RunningMilvus"]:
    """The server of the wheel `milvus`, for tests that do not end it.

    Each module starts one and ends it: a server that idles for a minute costs as much processor time as a
    start.
    """
    from tests.helpers.milvus import milvus_server

    with milvus_server(tmp_path_factory) as server:
        yield server


@pytest.fixture
def client(server: RetrievalServer) -> Iterator[RetrievalClient]:
    """A client of `server`."""
    with RetrievalClient(server.address) as client:
        client.wait_ready()
        yield client


@pytest.fixture
def channel(server: RetrievalServer) -> Iterator[grpc.Channel]:
    """A bare connection, for what the typed client would never send."""
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="session")
def full_client(full_retriever: Retriever) -> Iterator[RetrievalClient]:
    """A client of a server on the full bundle."""
    with RetrievalServer(full_retriever) as server, RetrievalClient(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator["World"]:
    """A service that follows an alias of a registry of its own, for faults to be injected."""
    from tests.helpers.serving.world import World  # which takes MLflow

    made = World(tmp_path_factory.mktemp("faults"), empty_store)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def four_bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four bundles that differ."""
    parent = tmp_path_factory.mktemp("versions")
    return [tiny_bundle(parent, 20, report=f'{{"n": {n}}}\n') for n in range(4)]


@pytest.fixture
def make(four_bundles: list[Path], tmp_path: Path) -> Callable[..., "Scene"]:
    """A follower among all that it deals with; arguments are those of `FollowConfig`."""
    from tests.helpers.serving.following import CHAMPION, Scene, Shelf
    from twinspire.serving.rollout.follower import FollowConfig

    return lambda **follow: Scene(
        tmp_path, Shelf(*four_bundles), FollowConfig(CHAMPION, cache=tmp_path, **follow)
    )


@pytest.fixture
def scene(make: Callable[..., "Scene"]) -> "Scene":
    """A follower of the champion alone."""
    return make()


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """A PostgreSQL cluster."""
    from tests.helpers.postgres import postgres, without_postgres

    if why := without_postgres():
        pytest.skip(why)
    with postgres() as uri:
        yield uri


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.exhaustive)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a store may be made."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/live/items.db"
        return
    import sqlalchemy as sa

    cluster = request.getfixturevalue("cluster")
    name = f"store_{random.SystemRandom().getrandbits(40)}"
    engine = sa.create_engine(
        cluster.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    yield cluster.replace("/postgres?", f"/{name}?")


Start = Callable[..., tuple["subprocess.Popen[str]", str]]


@pytest.fixture
def start_server(plain: Path, tmp_path: Path) -> Iterator[Start]:
    """Start `python -m twinspire.serving serve` on the plain bundle; gives the process and its address.

    `descriptors` is the soft limit with which it starts.
    """
    processes: list[subprocess.Popen[str]] = []

    def start(*flags: str, descriptors: int = 0) -> tuple["subprocess.Popen[str]", str]:
        port_file = tmp_path / f"port-{len(processes)}"
        arguments = ["--bundle", str(plain), "--port", "0", "--port-file", str(port_file), *flags]
        limit = ["sh", "-c", f'ulimit -S -n {descriptors} && exec "$@"', "sh"] if descriptors else []
        process = subprocess.Popen(
            [*limit, sys.executable, "-m", "twinspire.serving", "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        processes.append(process)
        until = time.monotonic() + 30
        while not port_file.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.02)
        return process, f"127.0.0.1:{port_file.read_text().strip()}"

    yield start
    for process in processes:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
