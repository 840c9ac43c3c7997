"""The store of live items, read and compacted by a process of another stage."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from twinspire.protos.errors import ConfigError, MissingStage, Unavailable
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.serving.catalogue import backup, compact, restore, snapshot
from twinspire.serving.live.encoded_items import LOCK, EncodedItemsWriter, EncodedOrigin, folder_of
from twinspire.serving.live.store.records import ItemWrite, WriteRequest
from twinspire.serving.live.store.store import Store

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
            assert [found.sequence for found in copy.page(1, 9).changes] in (
                [],
                [each["sequence"] - 1, each["sequence"]],
            )
    assert not [*tmp_path.glob(".*")]


def leave_log(url: str, folder: Path, name: str) -> str:
    """Write an item to a store, and copy it as a service that is killed leaves it; returns the copy's URL."""
    folder.mkdir()
    with closing(Store.open(url)) as store:
        store.write([WriteRequest([ItemWrite(name)])])
        for path in folder.parent.glob("items.db*"):
            shutil.copy(path, folder)
    return f"sqlite:///{folder}/items.db"


def fail_at_the_store(path: Path, target: Path) -> Path:
    """As `Path.replace`, where the disk fails when the store is replaced."""
    if target.name == "items.db" and not target.parent.name.startswith("."):
        raise OSError("the disk fails")
    path.rename(target)
    return target


def test_a_restored_store_is_that_of_the_copy_with_a_new_id(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_id = write(url, ItemWrite("a"))
    copy = tmp_path / "copy.db"
    assert backup(url, copy) == {"store": store_id, "sequence": 1}
    with closing(Store.open(url)) as store:
        store.write([WriteRequest([ItemWrite("b")])])
        with pytest.raises(ConfigError, match="database is locked; stop the services that use it"):
            restore(url, copy)
    url = leave_log(url, tmp_path / "killed", "c")
    (tmp_path / "killed" / "items.db").chmod(0o600)
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "killed" / "items.db")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail_at_the_store)
        with pytest.raises(OSError, match="the disk fails"):
            restore(f"sqlite:///{link}", copy)
    with closing(Store.open(url)) as store:
        assert [*store.get(["a", "b", "c"])] == ["a", "b", "c"]
    found = restore(f"sqlite:///{link}", copy)
    assert found["sequence"] == 1
    assert link.is_symlink()
    assert link.stat().st_mode & 0o777 == 0o600
    with closing(Store.open(f"{url}.before-restore")) as before:
        assert [*before.get(["a", "b", "c"])] == ["a", "b", "c"]
    with closing(Store.open(url, check=True)) as store:
        assert (store.store_id, [*store.get(["a", "b"])]) == (found["store"], ["a"])
        assert store.store_id != store_id
    with closing(Store.open(f"sqlite:///{copy}")) as kept:
        assert kept.store_id == store_id
    again = restore(url, None)
    assert again["store"] not in (store_id, found["store"])
    assert not [*tmp_path.glob(".*")]


@pytest.mark.parametrize("damage", [b"x", b"\0"])
def test_a_damaged_store_is_set_aside_with_its_log(url: str, tmp_path: Path, damage: bytes) -> None:
    write(url, ItemWrite("a"))
    copy = tmp_path / "copy.db"
    backup(url, copy)
    folder = tmp_path / "killed"
    url = leave_log(url, folder, "b")
    (folder / "items.db").write_bytes(damage * 5000)
    log = (folder / "items.db-wal").read_bytes()
    (folder / "items.db-wal").write_bytes(damage * len(log))
    assert restore(url, copy)["sequence"] == 1
    assert (folder / "items.db.before-restore").read_bytes() == damage * 5000
    with closing(Store.open(url, check=True)) as store:
        assert [*store.get(["a", "b"])] == ["a"]


def test_a_copy_that_is_none_takes_nothings_place(url: str, tmp_path: Path) -> None:
    write(url, ItemWrite("a"))
    before = (tmp_path / "items.db").read_bytes()
    (tmp_path / "notes").write_text("these are my notes\n" * 100)
    (tmp_path / "empty").touch()
    backup(url, tmp_path / "later")
    with closing(sqlite3.connect(tmp_path / "later")) as other:
        other.execute("UPDATE twinspire_meta SET schema_version = 9")
        other.commit()
    for name in ("missing", "notes", "empty", "later"):
        with pytest.raises((MissingStage, ConfigError), match=f"^{tmp_path / name}: "):
            restore(url, tmp_path / name)
    with pytest.raises(ConfigError, match="expected a file of SQLite, got postgresql"):
        restore("postgresql://host/items", tmp_path / "items.db")
    assert (tmp_path / "items.db").read_bytes() == before


def test_compaction_keeps_the_items_of_some_bundles_and_all_while_a_service_uses_them(
    url: str, tmp_path: Path
) -> None:
    store_id = write(url, ItemWrite("a"))
    for version in ("kept", "old"):
        origin = EncodedOrigin(version, store_id, 4)
        EncodedItemsWriter(folder_of(tmp_path, origin), origin).close()
    with exclusive_lock(tmp_path / store_id / LOCK):
        assert compact(url, tmp_path, ["kept"]) == {"answers_forgotten": 0, "bundles_removed": 0}
    assert compact(url, tmp_path, ["kept"]) == {"answers_forgotten": 0, "bundles_removed": 1}
    assert {path.name for path in (tmp_path / store_id).iterdir()} == {"kept", LOCK}


def test_the_command_prints_json_or_an_error(url: str, tmp_path: Path) -> None:
    write(url, ItemWrite("a"))

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "twinspire.serving.catalogue", *arguments],
            cwd=ROOT,
            env={**os.environ, "TWINSPIRE_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )

    done = run("snapshot", str(tmp_path / "a"), "--catalogue", url)
    assert (done.returncode, json.loads(done.stdout)["sequence"]) == (0, 1)
    assert run("compact").stdout == "null\n"  # the service has made no store here
    copy = str(tmp_path / "copy.db")
    assert run("backup", copy, "--catalogue", url).returncode == 0
    assert json.loads(run("restore", copy).stdout)["sequence"] == 1
    assert (tmp_path / "cache" / "live" / "items.db").exists()
    done = run("compact", "--catalogue", f"sqlite:///{tmp_path}/none.db")
    assert done.returncode == 1
    assert done.stderr.startswith("error: catalogue: there is no store at this URL")


def test_a_backup_has_the_mode_of_the_store_and_does_not_replace_it(url: str, tmp_path: Path) -> None:
    write(url, ItemWrite("a"))
    path = tmp_path / "items.db"
    path.chmod(0o600)
    backup(url, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link.db").symlink_to(path)
    for each in (path, tmp_path / "link.db"):
        with pytest.raises(ConfigError, match="is the store itself; name another file"):
            backup(url, each)
