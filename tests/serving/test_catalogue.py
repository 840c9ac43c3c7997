"""The store of live items, read and compacted by a process of another stage."""

import json
import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from protos.errors import ConfigError, MissingStage, Unavailable
from serving.catalogue import backup, compact, restore, snapshot
from serving.live.derived_records import RecordWriter
from serving.live.record_format import RecordOrigin, records_path
from serving.live.store.store import Store
from serving.live.store.write_rules import ItemWrite, WriteRequest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/items.db"


def write(url: str, *items: ItemWrite) -> str:
    with closing(Store.open(url)) as store:
        store.write([WriteRequest(items)])
        return store.store_id


def test_a_snapshot_has_its_state_first_and_then_the_changes(url: str, tmp_path: Path) -> None:
    store_id = write(url, ItemWrite("a", features='{"text": "x"}'), ItemWrite("b"), ItemWrite("a", True))
    with closing(Store.open(url)) as store:
        mark = store.position().mark
    head = snapshot(url, tmp_path / "changes.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "changes.jsonl").read_text().splitlines()]
    assert lines[0] == head == {"store": store_id, "sequence": 3, "mark": mark, "after": 0}
    assert [(each["sequence"], each["item_id"], each["deleted"]) for each in lines[1:]] == [
        (2, "b", False), (3, "a", True)
    ]  # fmt: skip
    assert snapshot(url, tmp_path / "b", 3, store_id, mark)["after"] == 3
    with pytest.raises(Unavailable, match="restored from a copy; start the service"):
        snapshot(url, tmp_path / "b", 3, store_id, mark + 1)
    with pytest.raises(Unavailable, match="sequence 50 is of another history"):  # of an older bundle
        snapshot(url, tmp_path / "b", 50, store_id)
    assert snapshot(url, tmp_path / "b", 2, store_id)["after"] == 2
    assert len((tmp_path / "b").read_text().splitlines()) == 2
    assert snapshot(url, tmp_path / "c", 2, "another store")["after"] == 0
    assert len((tmp_path / "c").read_text().splitlines()) == 3


def test_a_store_that_is_missing_is_not_made(url: str, tmp_path: Path) -> None:
    with pytest.raises(MissingStage, match="there is no store"):
        snapshot(url, tmp_path / "changes.jsonl")
    with pytest.raises(ConfigError, match="expected a URL of sqlite or postgresql"):
        snapshot("mysql://host/items", tmp_path / "changes.jsonl")
    assert not (tmp_path / "items.db").exists()


def test_a_backup_is_one_state_of_a_store_that_is_written_to(url: str, tmp_path: Path) -> None:
    write(url, ItemWrite("a"))
    stop = threading.Event()

    def go_on() -> None:
        with closing(Store.open(url)) as store:
            while not stop.is_set():
                store.write([WriteRequest([ItemWrite("b"), ItemWrite("c")])])

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        made = [backup(url, tmp_path / f"copy-{n}.db") for n in range(5)]
    finally:
        stop.set()
        thread.join()
    for n, each in enumerate(made):
        with closing(Store.open(f"sqlite:///{tmp_path}/copy-{n}.db", check=True)) as copy:
            assert copy.position().sequence == each["sequence"]
            assert [found.sequence for found in copy.changes(1, 9)] in (
                [],
                [each["sequence"] - 1, each["sequence"]],
            )
    assert not [*tmp_path.glob(".*")]


def test_a_restored_store_is_that_of_the_copy_with_a_new_id(url: str, tmp_path: Path) -> None:
    store_id = write(url, ItemWrite("a"))
    copy = tmp_path / "copy.db"
    assert backup(url, copy) == {"store": store_id, "sequence": 1}
    with closing(Store.open(url)) as store:  # as in a process that was killed, its log stays
        store.write([WriteRequest([ItemWrite("b")])])
        found = restore(url, copy)
        with pytest.raises(Unavailable, match="was moved, removed or replaced"):
            store.write([WriteRequest([ItemWrite("c")])])
    assert found["sequence"] == 1
    with closing(Store.open(url, check=True)) as store:
        assert (store.store_id, [*store.get(["a", "b"])]) == (found["store"], ["a"])
        assert store.store_id != store_id
    with closing(Store.open(f"sqlite:///{copy}")) as kept:
        assert kept.store_id == store_id
    again = restore(url, None)
    assert again["store"] not in (store_id, found["store"])
    assert not [*tmp_path.glob(".*")]


def test_a_copy_that_is_none_takes_nothings_place(url: str, tmp_path: Path) -> None:
    write(url, ItemWrite("a"))
    before = (tmp_path / "items.db").read_bytes()
    (tmp_path / "notes").write_text("these are my notes\n" * 100)
    (tmp_path / "empty").touch()
    for name in ("missing", "notes", "empty"):
        with pytest.raises((MissingStage, ConfigError)):
            restore(url, tmp_path / name)
    with pytest.raises(ConfigError, match="expected a file of SQLite, got postgresql"):
        restore("postgresql://host/items", tmp_path / "items.db")
    assert (tmp_path / "items.db").read_bytes() == before


def test_compaction_keeps_the_records_of_some_bundles_and_of_those_in_use(url: str, tmp_path: Path) -> None:
    store_id = write(url, ItemWrite("a"))
    writers = {}
    for version in ("kept", "used", "old"):
        origin = RecordOrigin(version, store_id, 4)
        path = records_path(tmp_path, origin)
        writers[version] = RecordWriter.open(path, origin)
        path.with_suffix(".1.graph").touch()
    for version in ("kept", "old"):
        writers[version].close()
    found = compact(url, tmp_path, ["kept"])
    assert found == {"answers_forgotten": 0, "records_removed": 1}
    names = {path.name for path in (tmp_path / store_id).iterdir() if not path.name.endswith(".lock")}
    assert names == {f"{version}{end}" for version in ("kept", "used") for end in (".records", ".1.graph")}
    writers["used"].close()


def test_the_command_prints_json_or_an_error(url: str, tmp_path: Path) -> None:
    write(url, ItemWrite("a"))

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "serving.catalogue", *arguments],
            cwd=ROOT,
            env={**os.environ, "TWINSPIRE_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )

    done = run("snapshot", str(tmp_path / "a"), "--catalogue", url)
    assert (done.returncode, json.loads(done.stdout)["sequence"]) == (0, 1)
    assert run("snapshot", str(tmp_path / "a")).stdout == "null\n"  # the service has made no store here
    done = run("compact", "--catalogue", f"sqlite:///{tmp_path}/none.db")
    assert done.returncode == 1
    assert done.stderr.startswith("error: catalogue: there is no store at this URL")
