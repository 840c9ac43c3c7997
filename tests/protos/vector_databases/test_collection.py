"""The collection of a bundle: written whole or not at all, and refused if it is not the bundle's."""

import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.milvus import needs_lite
from tests.helpers.tiny import FILTERS, tiny_bundle
from tests.helpers.vector_databases import ENGINES, NOWHERE, NOWHERE_HOST, PGVECTOR, Engine
from twinspire.protos import bundle
from twinspire.protos.errors import BundleDamaged, BundleError, ConfigError, DataError, Unavailable
from twinspire.protos.filters import column_values, read_filters
from twinspire.protos.vector_databases.collection import write_collection
from twinspire.protos.vector_databases.database import (
    VectorDatabase,
    bundle_of,
    check_collection,
    collection_name,
    database_of,
    draft_name,
    draft_seconds,
    uri_variable,
)
from twinspire.protos.vector_databases.items import CollectionItems, Limits

LIMITS = Limits(
    "Milvus", 30, 65_535, 65_535, 4096, 1 << 20, re.compile(r"[\x00-\x08\x0e-\x1f]"), "control characters"
)
ONE = np.ones((1, 2000), np.float32)
on_all = pytest.mark.parametrize("engine", ENGINES, indirect=True)
on_pgvector = pytest.mark.parametrize("engine", [PGVECTOR], indirect=True)


@pytest.fixture
def connected(engine: Engine) -> Iterator[VectorDatabase]:
    with closing(engine.connect()) as made:
        yield made


def written_bundle(
    folder: Path, engine: Engine, count: int = 22, report: str = "", **others: Any
) -> tuple[Path, Any]:
    made = tiny_bundle(folder, count, index=engine.index("HNSW"), report=f'"{report}"', **others)
    return made, bundle.read(made)


@on_all
def test_a_collection_holds_the_items_of_its_bundle(
    engine: Engine, connected: VectorDatabase, tmp_path: Path
) -> None:
    folder, manifest = written_bundle(tmp_path, engine, 60, filters=FILTERS)
    name = write_collection(connected, folder, manifest)
    assert name == f"twinspire_{manifest.bundle_version}" == collection_name(manifest.bundle_version)
    ids, kinds = [f"item-{n:03}" for n in range(60)], [each for _, each in sorted(manifest.filters.items())]
    rows = connected.read(name, [*ids, "nothing", "nul\x00", "\ud800"], kinds)
    assert [*sorted(rows)] == ids
    np.testing.assert_array_equal([rows[each][1] for each in ids], np.load(folder / bundle.VECTORS))
    fields = json.loads((folder / bundle.ITEMS).read_text())["fields"]
    for n, each in enumerate(ids):
        shown = {name: texts[n] for name, texts in fields.items() if texts[n] is not None}
        assert json.loads(rows[each][0].display) == shown
    columns = sorted(read_filters(folder, manifest).items())
    assert len(columns) == len(FILTERS)
    for n, (field, column) in enumerate(columns):
        expected: list[Any] = column_values(column, 60)
        if manifest.filters[field] == "string":
            expected = [each and each[0] for each in expected]
        held = [rows[each][0].values[n] for each in ids]
        assert held == [list(each) if isinstance(each, tuple) else each for each in expected]
    assert write_collection(connected, folder, manifest) == name  # nothing is written twice
    assert (bundle_of(name), draft_seconds(name)) == (manifest.bundle_version, None)
    assert connected.names() == [name]


@on_all
@pytest.mark.parametrize("step", ["rows", "describe", "read", "rename"])
def test_an_interrupted_export_leaves_no_collection(
    engine: Engine, connected: VectorDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder, manifest = written_bundle(tmp_path, engine)

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    def rows_until(items: CollectionItems) -> Any:
        yield from map(items.row, range(15))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if step == "rows":
            patched.setattr(CollectionItems, "rows", rows_until)
        else:
            patched.setattr(connected, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_collection(connected, folder, manifest)
    assert engine.names() == []
    with pytest.raises(BundleDamaged, match=r"there is no collection twinspire_"):
        check_collection(connected, collection_name(manifest.bundle_version), manifest)
    write_collection(connected, folder, manifest)


@on_all
def test_what_a_killed_export_has_left_is_dropped_by_the_next(
    engine: Engine, connected: VectorDatabase, tmp_path: Path
) -> None:
    folder, manifest = written_bundle(tmp_path, engine)
    left, items = draft_name(manifest.bundle_version), CollectionItems.of(folder, manifest, connected.limits)
    connected.create(left, items, manifest.index, manifest.bundle_version)
    assert abs((draft_seconds(left) or 0) - time.time()) < 600
    assert connected.names() == [left]
    assert write_collection(connected, folder, manifest) == engine.names()[0]
    assert len(connected.names()) == 1


@on_all
@pytest.mark.parametrize("wrong", ["count", "vector", "id", "title", "fields", "missing", "bundle"])
def test_a_collection_of_other_items_is_refused(
    engine: Engine, connected: VectorDatabase, tmp_path: Path, wrong: str
) -> None:
    filters = FILTERS if wrong == "fields" else {}
    folder, manifest = written_bundle(tmp_path, engine, filters=filters)
    vectors, ids = np.load(folder / bundle.VECTORS), [f"item-{n:03}" for n in range(22)]
    fields = json.loads((folder / bundle.ITEMS).read_text())["fields"]
    name, version = collection_name(manifest.bundle_version), manifest.bundle_version
    text = f"there is no collection {name} in "
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
    elif wrong == "bundle":
        if engine.kind == "milvus":
            pytest.skip("milvus-lite keeps no description; the server is tested in test_milvus_service.py")
        text, version = "written for another bundle than", 64 * "0"
    if wrong != "missing":
        items = CollectionItems(connected.limits, vectors, [], ids, fields, [])
        connected.create(name, items, manifest.index, version)
    with pytest.raises(BundleDamaged, match=text):
        if wrong in ("missing", "bundle"):
            check_collection(connected, name, manifest)
        write_collection(connected, folder, manifest)


@pytest.mark.parametrize("kind", [pytest.param("milvus", marks=needs_lite()), "pgvector"])
def test_a_server_that_is_not_there_is_named_by_its_variable_alone(
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("psycopg")
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TWINSPIRE_MILVUS_TOKEN", "root:Sesame-77")
    monkeypatch.setenv(
        uri_variable(kind), NOWHERE[kind].replace("postgresql://", "postgresql://me:Sesame-77@")
    )
    with pytest.raises(Unavailable, match=rf"\({uri_variable(kind)}\) does not answer") as caught:
        database_of(kind)().describe("twinspire_none", 0.5)
    said = str(caught.value) + caplog.text + "".join(capfd.readouterr())
    assert "Sesame" not in said and NOWHERE_HOST not in said


def test_a_kind_that_is_no_vector_database_is_refused() -> None:
    with pytest.raises(BundleError, match=r"index\.kind: expected one of milvus, pgvector, got 'hnsw'"):
        database_of("hnsw")


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
        CollectionItems(LIMITS, ONE, kinds, ids, {"title": [title]}, [[value]] * len(kinds)).row(0)
    CollectionItems(LIMITS, ONE, ["strings"], ["a"], {"title": ["x"]}, [[("x" * 1000,) * 1000]]).row(0)


@on_pgvector
def test_the_longest_strings_and_the_largest_graphs_of_postgresql(
    engine: Engine, connected: VectorDatabase
) -> None:
    most, draw = connected.limits.string_bytes, np.random.default_rng(0)
    long = bytes(draw.integers(33, 127, most, np.uint8)).decode()  # which no compression makes shorter
    name, rows = (
        draft_name("index"),
        CollectionItems(
            connected.limits,
            ONE,
            ["strings", "string"],
            [long],
            {"title": ["\x00"]},
            [[(long, "%s {} '\\")], [(long,)]],
        ),
    )
    connected.create(name, rows, engine.index("HNSW"), "")
    (held, vector) = connected.read(name, [long], rows.kinds)[long]
    assert held == rows.row(0) and np.array_equal(vector, ONE[0])
    for bad in (long + "x", "nul\x00", "\ud800"):
        with pytest.raises(DataError, match="expected an id of at most 2600 bytes without NUL"):
            CollectionItems(connected.limits, ONE, [], [bad], {}, [])
    wide = np.ones((1, 2001), np.float32)
    items = CollectionItems(connected.limits, wide, [], ["a"], {}, [])
    with pytest.raises(DataError, match=r"at most 2000 dimensions.* of pgvector, got 2001, 8 and 64"):
        connected.create(draft_name("index"), items, engine.index("HNSW"), "")
    connected.create(name := draft_name("index"), items, engine.index("FLAT"), "")
    assert connected.search(name, wide, 3, 64) == [[("a", "{}", 2001.0)]]


@on_pgvector
def test_a_limit_of_statements_does_not_end_the_writing_of_a_collection(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = os.environ[engine.variable] + "&options=-c%20statement_timeout%3D300"
    monkeypatch.setenv(engine.variable, limited)
    folder, manifest = written_bundle(tmp_path, engine)
    rows = CollectionItems.rows

    def slow(items: CollectionItems) -> Iterator[Any]:
        for row in rows(items):
            time.sleep(0.03)
            yield row

    monkeypatch.setattr(CollectionItems, "rows", slow)
    with closing(engine.connect()) as database:
        assert database.names() == []
        assert write_collection(database, folder, manifest) == engine.names()[0]


@on_pgvector
def test_a_lost_answer_repeats_what_reads_within_its_time_and_never_a_rename(
    engine: Engine, connected: VectorDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    from twinspire.protos.vector_databases.postgres import Connection, Connections

    items = CollectionItems(connected.limits, np.eye(3, dtype=np.float32), [], ["a", "b", "c"], {}, [])
    connected.create(name := draft_name("index"), items, engine.index("FLAT"), "")
    assert connected.count(name) == 3  # and its connection stays
    pipeline, connect, waits, lost = Connection.pipeline, Connections.connect, list[float](), [1]

    @contextmanager
    def losing(self: Connection) -> Iterator[Any]:
        with pipeline(self) as made:
            yield made
        if lost:
            time.sleep(lost.pop())
            self.close()
            raise psycopg.OperationalError("the connection is lost")

    def timed(self: Connections, seconds: float) -> Connection:
        waits.append(seconds)
        return connect(self, seconds)

    monkeypatch.setattr(Connection, "pipeline", losing)
    monkeypatch.setattr(Connections, "connect", timed)
    assert connected.count(name, "", 3.0) == 3
    assert len(waits) == 1 and waits[0] <= 2.0
    lost.append(0)
    final = collection_name("0" * 64)
    with pytest.raises(Unavailable, match="does not answer: OperationalError"):
        connected.rename(name, final)
    assert connected.count(final) == 3


@on_pgvector
def test_a_table_that_is_not_ours_is_left_alone(engine: Engine, connected: VectorDatabase) -> None:
    import psycopg

    with psycopg.connect(os.environ[engine.variable], autocommit=True) as other:
        other.execute("CREATE TABLE twinspire_meta (id int)")
        other.execute("CREATE TABLE theirs (id int)")
        other.execute(f"COMMENT ON TABLE theirs IS '{'ab' * 32}'")
    assert connected.names() == []


@pytest.mark.parametrize(
    "uri", ["", "db", "host=db password=Sesame", "postgresql://me:Sesame@db:x y/", "http://db"]
)
def test_an_address_that_is_no_uri_is_refused_without_being_shown(uri: str) -> None:
    pytest.importorskip("psycopg")
    variable = uri_variable("pgvector")
    with pytest.raises(ConfigError, match=rf"^{variable}: ") as caught:
        database_of("pgvector")({variable: uri})
    assert "Sesame" not in str(caught.value) and "db" not in str(caught.value)
