"""The collection of a bundle: written whole or not at all, and refused if it is not the bundle's."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.milvus import needs_lite
from tests.helpers.tiny import FILTERS, tiny_bundle
from twinspire.protos import bundle
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.errors import BundleDamaged, ConfigError, DataError, PackageMissing, Unavailable
from twinspire.protos.filters import column_values, read_filters
from twinspire.protos.vector_databases import milvus, milvus_collection
from twinspire.protos.vector_databases.milvus import (
    DATABASE,
    DISPLAY,
    ID,
    TOKEN,
    URI,
    VECTOR,
    MilvusServer,
    check_collection,
    collection_name,
)
from twinspire.protos.vector_databases.milvus_collection import (
    CollectionItems,
    draft_name,
    fill,
    write_collection,
)

PARAMETERS = IndexParameters("ip", 8, 64, 64, kind="milvus", options={"type": "HNSW"})
SECRET = "root:Sesame-77"


@pytest.mark.parametrize(
    "uri", ["", "127.0.0.1:19530", f"http://{SECRET}@db:19530", "http://db:19530/?token=x", "ftp://db"]
)
def test_an_address_that_is_none_is_refused_without_being_shown(uri: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{URI}: ") as caught:
        MilvusServer.from_environment({URI: uri})
    assert "Sesame" not in str(caught.value) and "db" not in str(caught.value).replace(".db", "")


def test_what_holds_the_credentials_does_not_show_them() -> None:
    server = MilvusServer.from_environment({URI: "https://db:19530", TOKEN: SECRET, DATABASE: "inner"})
    assert (server.uri, server.token, server.database) == ("https://db:19530", SECRET, "inner")
    assert repr(server) == "MilvusServer()"


@needs_lite()
def test_a_server_that_is_not_there_is_named_by_its_variable_alone(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    server = MilvusServer.from_environment({URI: "http://127.0.0.1:1", TOKEN: SECRET})
    with pytest.raises(Unavailable, match=rf"^Milvus \({URI}\) does not answer") as caught:
        server.connect(0.5)
    said = str(caught.value) + caplog.text + "".join(capfd.readouterr())
    assert "Sesame" not in said and "127.0.0.1" not in said


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pymilvus", None)
    with pytest.raises(PackageMissing, match=r"pip install \.\[milvus\]"):
        MilvusServer("http://127.0.0.1:1").connect()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = MilvusServer(str(tmp_path_factory.mktemp("lite") / "lite.db")).connect()
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("milvus"), 60, filters=FILTERS, index=PARAMETERS)


@needs_lite()
def test_a_collection_holds_the_items_of_its_bundle(client: Any, folder: Path) -> None:
    manifest = bundle.read(folder)
    name = write_collection(client, folder, manifest)
    assert name == f"twinspire_{manifest.bundle_version}" == collection_name(manifest.bundle_version)
    rows = client.query(name, filter="", output_fields=["*"], limit=100)
    rows.sort(key=lambda each: each[ID])
    np.testing.assert_array_equal([each[VECTOR] for each in rows], np.load(folder / bundle.VECTORS))
    assert [each[ID] for each in rows] == [f"item-{n:03}" for n in range(60)]
    fields = json.loads((folder / bundle.ITEMS).read_text())["fields"]
    for n, each in enumerate(rows):
        shown = {name: texts[n] for name, texts in fields.items() if texts[n] is not None}
        assert json.loads(each[DISPLAY]) == shown
    columns = sorted(read_filters(folder, manifest).items())
    assert len(columns) == len(FILTERS)
    for n, (field, column) in enumerate(columns):
        held = [each[f"f{n}"] if each[f"has{n}"] else None for each in rows]
        expected: list[Any] = column_values(column, 60)
        if manifest.filters[field] == "string":
            expected = [each and each[0] for each in expected]
        assert held == [list(each) if isinstance(each, tuple) else each for each in expected]
    assert write_collection(client, folder, manifest) == name  # nothing is written twice
    assert milvus.bundle_of(name) == manifest.bundle_version
    assert milvus.draft_seconds(name) is None


@needs_lite()
@pytest.mark.parametrize("step", ["insert", "flush", "create_index", "load_collection", "rename_collection"])
def test_an_interrupted_export_leaves_no_collection(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = tiny_bundle(tmp_path, 20, report=f'"{step}"', index=PARAMETERS)
    manifest = bundle.read(folder)
    before = {*client.list_collections()}

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(client, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_collection(client, folder, manifest)
    assert {*client.list_collections()} == before
    with pytest.raises(BundleDamaged, match=r"there is no collection twinspire_"):
        check_collection(client, collection_name(manifest.bundle_version), manifest)


def items_of(ids: list[str], texts: list[str | None] | None = None) -> CollectionItems:
    return CollectionItems([], ids, {"title": texts or [None] * len(ids)}, [])


@needs_lite()
def test_an_insert_is_bounded_in_rows_and_in_bytes(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inserts: list[tuple[int, int]] = []
    insert = client.insert

    def counted(name: str, rows: Any, **others: Any) -> Any:
        inserts.append((len(rows), sum(len(each[ID]) for each in rows)))
        return insert(name, rows, **others)

    monkeypatch.setattr(client, "insert", counted)
    monkeypatch.setattr(milvus_collection, "INSERT_ROWS", 40)
    monkeypatch.setattr(milvus_collection, "INSERT_BYTES", 100_000)
    ids = [f"{n:010}" * (1 if n < 100 else 3000) for n in range(120)]
    name = collection_name("de" * 32)
    fill(client, name, np.eye(120, 8, dtype=np.float32), PARAMETERS, items_of(ids))
    assert (
        sum(rows for rows, _ in inserts)
        == 120
        == client.query(name, output_fields=["count(*)"])[0]["count(*)"]
    )
    assert inserts[:2] == [(40, 400), (40, 400)]
    assert all(rows <= 40 and size < 100_000 + 30_000 for rows, size in inserts)
    client.drop_collection(name)


@pytest.mark.parametrize(
    ("kinds", "ids", "title", "value", "text"),
    [
        (["number"] * 31, ["a"], None, None, "filter.fields: expected at most 30 for Milvus, got 31"),
        ([], ["nul\x00"], None, None, r"items, row 0: expected an id of at most 65535 bytes without control"),
        ([], ["x" * 65_536], None, None, "row 0: expected an id of at most 65535 bytes"),
        ([], ["a"], "x" * 65_536, None, "row 0: expected display fields of at most 65535 bytes"),
        (["string"], ["a"], None, ("bell\x07",), "row 0: expected a string of a filter field of at most"),
        (["strings"], ["a"], None, ("x",) * 4097, "row 0: expected at most 4096 strings and 1048576 bytes"),
        (["strings"], ["a"], None, ("x" * 1100,) * 1000, "row 0: expected at most 4096 strings"),
    ],
)
def test_what_a_collection_cannot_hold_is_refused(
    kinds: list[str], ids: list[str], title: str | None, value: Any, text: str
) -> None:
    with pytest.raises(DataError, match=text):
        CollectionItems(kinds, ids, {"title": [title]}, [[value]] * len(kinds)).row(0)
    CollectionItems(["strings"], ["a"], {"title": ["x"]}, [[("x" * 1000,) * 1000]]).row(0)


@needs_lite()
def test_what_a_killed_export_has_left_is_dropped_by_the_next(client: Any, tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path, 21, index=PARAMETERS)
    manifest = bundle.read(folder)
    left = draft_name(manifest.bundle_version)
    fill(client, left, np.load(folder / bundle.VECTORS), PARAMETERS, CollectionItems.of(folder, manifest))
    assert abs((milvus.draft_seconds(left) or 0) - time.time()) < 600
    name = write_collection(client, folder, manifest)
    found = client.list_collections()
    assert name in found and left not in found


@needs_lite()
@pytest.mark.parametrize("wrong", ["count", "vector", "id", "title", "fields", "missing"])
def test_a_collection_of_other_items_is_refused(client: Any, tmp_path: Path, wrong: str) -> None:
    filters = FILTERS if wrong == "fields" else {}
    folder = tiny_bundle(tmp_path, 22, report=f'"{wrong}"', index=PARAMETERS, filters=filters)
    manifest = bundle.read(folder)
    vectors, ids = np.load(folder / bundle.VECTORS), [f"item-{n:03}" for n in range(22)]
    fields = json.loads((folder / bundle.ITEMS).read_text())["fields"]
    text = f"there is no collection {collection_name(manifest.bundle_version)} in Milvus"
    if wrong == "count":
        vectors, ids, text = vectors[1:], ids[1:], "holds 21 items, but bundle"
        fields = {name: texts[1:] for name, texts in fields.items()}
    elif wrong == "vector":
        vectors = -vectors
        text = "holds another vector of item 0"
    elif wrong == "id":
        ids[0], text = "another", "holds another item 0"
    elif wrong == "title":
        fields["name"][0], text = "another", "holds another item 0"
    elif wrong == "fields":
        text = "which another version of this program has written: drop it, and register the bundle again"
    name = collection_name(manifest.bundle_version)
    if wrong != "missing":
        items = CollectionItems([], ids, fields, [])
        fill(client, name, vectors, PARAMETERS, items, manifest.bundle_version)
    with pytest.raises(BundleDamaged, match=text):
        if wrong == "missing":
            check_collection(client, name, manifest)
        write_collection(client, folder, manifest)
