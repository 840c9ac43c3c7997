"""Every vector database that can run here, each empty, for the tests that all of them pass.

@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_...(engine: Engine) -> None: ...
"""

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.milvus import needs_lite, needs_server
from tests.helpers.postgres import needs_pgvector
from twinspire.protos.bundle import IndexParameters, Manifest
from twinspire.protos.vector_databases.collection import write_collection
from twinspire.protos.vector_databases.database import VectorDatabase, database_of, uri_variable

LITE, PGVECTOR = (
    pytest.param("milvus-lite", marks=needs_lite()),
    pytest.param("pgvector", marks=needs_pgvector()),
)
ENGINES = [LITE, PGVECTOR]
SERVERS = [*ENGINES, pytest.param("milvus", marks=[needs_server(), pytest.mark.exhaustive])]
# No other server has this host: gRPC may print the addresses of earlier connections at any time.
NOWHERE_HOST = "127.0.0.9"
NOWHERE = {"milvus": f"http://{NOWHERE_HOST}:1", "pgvector": f"postgresql://{NOWHERE_HOST}:1/none"}


@dataclass(frozen=True)
class Engine:
    """A vector database that the environment names.

    Args:
        kind: of the index.
    """

    kind: str

    @property
    def variable(self) -> str:
        return uri_variable(self.kind)

    def index(self, kind: str = "FLAT") -> IndexParameters:
        """Parameters of an index there."""
        return IndexParameters("ip", 8, 64, 64, kind=self.kind, options={"type": kind})

    def connect(self) -> VectorDatabase:
        return database_of(self.kind)()

    def names(self) -> list[str]:
        """All collections of ours."""
        with closing(self.connect()) as database:
            return database.names()


def publish(folder: Path, manifest: Manifest) -> str:
    """Write the collection of a bundle to the server of the environment."""
    with closing(database_of(manifest.index.kind)()) as database:
        return write_collection(database, folder, manifest)


@contextmanager
def database_in(cluster: str) -> Iterator[str]:
    """The URI of a database of its own in a cluster, within the block."""
    import psycopg

    name = f"items_{secrets.token_hex(5)}"
    with psycopg.connect(cluster, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield cluster.replace("/postgres?", f"/{name}?")
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def empty_engine(name: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Engine]:
    """An engine of `SERVERS`, without collections unless it is a server of Milvus, within the block."""
    kind = name.partition("-")[0]
    with pytest.MonkeyPatch.context() as patched:
        for each in NOWHERE:
            patched.delenv(uri_variable(each), raising=False)
        if name == "pgvector":
            with database_in(request.getfixturevalue("pgvector_cluster")) as uri:
                patched.setenv(uri_variable(kind), uri)
                yield Engine(kind)
            return
        uri = f"{folder}/lite.db" if name == "milvus-lite" else request.getfixturevalue("milvus").uri
        patched.setenv(uri_variable(kind), uri)
        yield Engine(kind)
