"""What a Milvus server alone needs: its address, its package, and its inserts in parts."""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.milvus import needs_lite
from tests.helpers.tiny import tiny_bundle
from twinspire.protos import bundle
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.errors import BundleDamaged, ConfigError, PackageMissing
from twinspire.protos.vector_databases.collection import write_collection
from twinspire.protos.vector_databases.database import (
    check_collection,
    collection_name,
    database_of,
    uri_variable,
)
from twinspire.protos.vector_databases.items import CollectionItems

MODULE, URI = "twinspire.protos.vector_databases.milvus", uri_variable("milvus")
PARAMETERS = IndexParameters("ip", 8, 64, 64, kind="milvus", options={"type": "HNSW"})
SECRET = "root:Sesame-77"


@needs_lite()
@pytest.mark.parametrize(
    "uri", ["", "127.0.0.1:19530", f"http://{SECRET}@db:19530", "http://db:19530/?token=x", "ftp://db"]
)
def test_an_address_that_is_none_is_refused_without_being_shown(uri: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{URI}: ") as caught:
        database_of("milvus")({URI: uri})
    assert "Sesame" not in str(caught.value) and "db" not in str(caught.value).replace(".db", "")


@needs_lite()
def test_what_holds_the_credentials_passes_them_on_and_does_not_show_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(f"{MODULE}.MilvusClient", lambda uri, **others: given.update(others, uri=uri))
    variables = {"TWINSPIRE_MILVUS_TOKEN": SECRET, "TWINSPIRE_MILVUS_DATABASE": "inner"}
    database: Any = database_of("milvus")({URI: "https://db:19530", **variables})
    database.client()
    assert (given["uri"], given["token"], given["db_name"]) == ("https://db:19530", SECRET, "inner")
    assert "Sesame" not in repr(database) and "db:" not in repr(database)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    with pytest.raises(PackageMissing, match=r"needs pymilvus: pip install \.\[milvus\]"):
        database_of("milvus")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = database_of("milvus")({URI: str(tmp_path_factory.mktemp("lite") / "lite.db")})
    yield made
    made.close()


@needs_lite()
@pytest.mark.parametrize("step", ["insert", "flush", "create_index", "load_collection", "rename_collection"])
def test_an_interrupted_export_leaves_no_collection(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = tiny_bundle(tmp_path, 20, report=f'"{step}"', index=PARAMETERS)
    manifest = bundle.read(folder)
    before = {*database.names()}

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(database.client(), step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_collection(database, folder, manifest)
    assert {*database.names()} == before
    with pytest.raises(BundleDamaged, match=r"there is no collection twinspire_"):
        check_collection(database, collection_name(manifest.bundle_version), manifest)


@needs_lite()
def test_an_insert_is_bounded_in_rows_and_in_bytes(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inserts: list[tuple[int, int]] = []
    insert = database.client().insert

    def counted(name: str, rows: Any, **others: Any) -> Any:
        inserts.append((len(rows), sum(len(each["id"]) for each in rows)))
        return insert(name, rows, **others)

    monkeypatch.setattr(database.client(), "insert", counted)
    monkeypatch.setattr(f"{MODULE}.INSERT_ROWS", 40)
    monkeypatch.setattr(f"{MODULE}.INSERT_BYTES", 100_000)
    ids = [f"{n:010}" * (1 if n < 100 else 3000) for n in range(120)]
    name = collection_name("de" * 32)
    items = CollectionItems(database.limits, np.eye(120, 8, dtype=np.float32), [], ids, {}, [])
    database.create(name, items, PARAMETERS, "")
    assert database.count(name) == 120 == sum(rows for rows, _ in inserts)
    assert inserts[:2] == [(40, 400), (40, 400)]
    assert all(rows <= 40 and size < 100_000 + 30_000 for rows, size in inserts)
    database.drop(name)


class SlowClient:
    """A client of pymilvus, each of whose questions takes 0.1 s; only the first timestamp is given."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.searches: list[dict[str, Any]] = []

    def _wait(self, seconds: float) -> Any:
        time.sleep(0.1)
        self.seconds.append(seconds)
        return {"fields": []}

    def has_collection(self, name: str, timeout: float) -> Any:
        return self._wait(timeout)

    describe_collection = load_collection = has_collection

    def _get_connection(self) -> Any:
        return self

    def alloc_timestamp(self, timeout: float) -> int:
        self._wait(timeout)
        if len(self.seconds) > 4:
            raise OSError
        return 7

    def search(self, name: str, **options: Any) -> Any:
        self.searches.append(options)
        future: Future[Any] = Future()
        future.set_result([[]])
        return future


@needs_lite()
def test_a_description_takes_its_time_at_most_and_its_timestamp_holds_until_the_next() -> None:
    database, client = database_of("milvus")({URI: "http://127.0.0.1:1"}), SlowClient()
    database._client = client  # type: ignore[attr-defined]
    for expected in ("Customized", "Strong"):
        database.describe("twinspire_x", 1.0)
        assert database.search("twinspire_x", np.ones((1, 4), np.float32), 1, 8) == [[]]
        assert client.searches[-1]["consistency_level"] == expected
    assert "guarantee_timestamp" not in client.searches[-1]
    assert len(client.seconds) == 8
    for first in (0, 4):
        for n, seconds in enumerate(client.seconds[first : first + 4]):
            assert seconds <= 1.0 - 0.1 * n
