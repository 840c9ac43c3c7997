"""Databases that cannot be a store, or fail while they are one, and what errors say of them."""

import errno
import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.helpers.mlflow_servers import without_postgres
from tests.serving.live.store.test_store import one, upsert
from twinspire.protos.errors import ConfigError, Unavailable
from twinspire.serving.live.store import database
from twinspire.serving.live.store.database import is_missing, public_text
from twinspire.serving.live.store.history import META
from twinspire.serving.live.store.store import Store


def test_a_file_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE notes (text)")
        other.commit()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"other\.db: is a database of another program"):
        Store.open(f"sqlite:///{path}")
    assert path.read_bytes() == before
    text = tmp_path / "notes.txt"
    text.write_text("these are my notes, and not a database\n" * 100)
    with pytest.raises(ConfigError, match=r"notes\.txt: .*not a database"):
        Store.open(f"sqlite:///{text}")
    assert text.read_text().startswith("these are my notes")


def test_a_table_of_the_same_name_that_is_not_ours_is_refused(url: str) -> None:
    Store.open(url).close()
    engine = sa.create_engine(database.parsed_url(url))
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE twinspire_meta SET schema_version = 9")
    with pytest.raises(ConfigError, match="version 9, this program expects 1"):
        Store.open(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM twinspire_meta")
    with pytest.raises(ConfigError, match="is empty"):
        Store.open(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE twinspire_meta DROP COLUMN bounds")
    with pytest.raises(ConfigError, match="not the table of a catalogue"):
        Store.open(url)
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("nonsense", "expected a URL such as"),
        ("mysql://host/db", "expected a URL of sqlite or postgresql, got one of mysql"),
        ("sqlite://", "expected a file"),
        ("sqlite:///:memory:", "expected a file"),
        ("sqlite:///file:items.db?uri=true&mode=memory", "expected a file.* without host and parameters"),
        ("sqlite:///items.db?timeout=long", "expected a file.* without host and parameters"),
        ("sqlite://host/items.db", "expected a file.* without host and parameters"),
        ("sqlite:///a\0b", "expected a URL such as"),
        ("sqlite:///\udcff.db", "expected a URL such as"),
        ("sqlite+aiosqlite:///items.db", r"begins with sqlite://, got sqlite\+aiosqlite://"),
        ("sqlite+nonsense:///items.db", r"begins with sqlite://, got sqlite\+nonsense://"),
        ("postgresql+asyncpg://host/db", r"begins with postgresql://, got postgresql\+asyncpg://"),
        ("postgresql://host:port/db", "expected a URL such as"),
        ("postgresql:///db?host=/nowhere&port=x", "non-integer port"),
    ],
)
def test_a_url_that_names_no_store_is_refused(url: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        Store.open(url)


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    if why := without_postgres():
        pytest.skip(why)
    with pytest.raises(Unavailable, match="cannot be opened as a catalogue") as caught:
        Store.open(f"postgresql://me:secret@/items?host={tmp_path}")
    assert "secret" not in str(caught.value)


def test_a_file_that_is_damaged_is_found_before_the_service_begins(tmp_path: Path) -> None:
    path = tmp_path / "items.db"
    with closing(Store.open(f"sqlite:///{path}")) as store:
        one(store, upsert(*(f"item {n}" for n in range(2000))))
    whole = path.read_bytes()
    for start in range(8 * 4096, len(whole) - 4096, 16 * 4096):
        path.write_bytes(whole[:start] + os.urandom(4096) + whole[start + 4096 :])
        with pytest.raises(ConfigError, match=r"items\.db: is damaged|cannot be opened"):
            Store.open(f"sqlite:///{path}", check=True)
    path.write_bytes(whole)
    Store.open(f"sqlite:///{path}", check=True).close()


def test_a_store_that_breaks_while_it_is_used_says_so_and_goes_on_when_it_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "items.db"
    with closing(Store.open(f"sqlite:///{path}")) as store:
        one(store, upsert("a"))
        with closing(sqlite3.connect(path)) as other:
            other.execute("ALTER TABLE twinspire_items RENAME TO hidden")
            other.commit()
            with pytest.raises(Unavailable, match="cannot be read now: no such table"):
                store.page(0, 1)
            with pytest.raises(Unavailable, match="cannot be written now: no such table"):
                store.write([upsert("b")])
            other.execute("ALTER TABLE hidden RENAME TO twinspire_items")
            other.commit()
        assert one(store, upsert("b")).sequence == 2


def test_a_full_disk_refuses_writes_and_loses_none(tmp_path: Path) -> None:
    """SQLite's own bound on the size of the file has the same effect as a disk that is full."""
    path = tmp_path / "items.db"
    written = []
    with closing(Store.open(f"sqlite:///{path}")) as store:
        with store._database._engine.connect() as connection:  # the pool keeps this one connection
            connection.exec_driver_sql("PRAGMA max_page_count = 60")
        with pytest.raises(Unavailable, match="cannot be written now: database or disk is full"):
            for n in range(1000):
                one(store, upsert(f"item {n}", text="x" * 2000))
                written.append(f"item {n}")
        assert [each.item_id for each in store.page(0, 1000).changes] == written
        with store._database._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000")
        assert one(store, upsert("one more")).sequence == len(written) + 1
    assert len(written) > 20


def test_a_lock_that_another_process_keeps_ends_a_write_in_time(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 1)
    monkeypatch.setattr(database, "BUSY_SECONDS", 1.0)
    with closing(Store.open(url)) as store, closing(Store.open(url)) as other:
        one(store, upsert("a"))
        with other._database.writing() as connection:
            connection.execute(sa.select(META).with_for_update())
            started = time.monotonic()
            with pytest.raises(Unavailable, match=r"cannot be written now: (lock not available|.*locked)"):
                one(store, upsert("b"))
            assert 0.9 < time.monotonic() - started < 4
            assert store.sequence() == 1
        assert one(store, upsert("b")).sequence == 2


@pytest.mark.exhaustive
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_statement_that_takes_long_and_a_transaction_that_stands_still_are_ended(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STATEMENT_SECONDS", "IDLE_SECONDS"):
        monkeypatch.setattr(database, name, 1)
    with closing(Store.open(url)) as store:
        with (
            pytest.raises(Unavailable, match="cannot be read now: query canceled"),
            store._database.reading() as connection,
        ):
            connection.exec_driver_sql("SELECT pg_sleep(9)")
        with (
            pytest.raises(Unavailable, match="cannot be written now"),
            store._database.writing() as connection,
        ):
            connection.execute(sa.select(META).with_for_update())
            with closing(Store.open(url)) as other:
                time.sleep(1.5)  # as a process that is stopped
                assert one(other, upsert("a")).sequence == 1
            connection.execute(sa.select(META))
        assert store.sequence() == 1


def test_clients_learn_neither_where_a_store_is_nor_who_uses_it(tmp_path: Path) -> None:
    file = f"sqlite:///{tmp_path}/folder/items.db"
    with closing(Store.open(file)):
        path = tmp_path / "folder" / "items.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match=r"items\.db: cannot be opened") as caught:
        Store.open(file)
    assert public_text(caught.value, file) == (
        "the catalogue's store cannot be opened now: file is not a database"
    )
    path.unlink()
    path.parent.rmdir()
    path.parent.touch()
    with pytest.raises(ConfigError, match="cannot be made") as caught:
        Store.open(file)
    assert public_text(caught.value, file) == (
        "the folder of the catalogue's store: cannot be made for the catalogue: File exists"
    )


def test_a_folder_that_cannot_be_entered_is_an_error_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another error would end the catalogue's process, which would be started again and again."""
    file = f"sqlite:///{tmp_path}/items.db"
    stat = Path.stat

    def refuse(path: Path, **given: Any) -> Any:  # as for a user other than root, in a folder of mode 000
        if path.name == "items.db":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **given)

    monkeypatch.setattr(Path, "stat", refuse)
    for use in (Store.open, is_missing):
        with pytest.raises(ConfigError, match=r"items\.db: cannot be opened .*Permission denied") as caught:
            use(file)
        assert public_text(caught.value, file) == (
            "the catalogue's store: cannot be opened as a catalogue: Permission denied"
        )


@pytest.mark.skipif(bool(without_postgres()), reason="there is no PostgreSQL")
def test_clients_learn_no_host_of_postgresql() -> None:
    url = "postgresql://ada:secret@127.0.0.1:1/shop"
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1") as caught:
        Store.open(url)
    assert public_text(caught.value, url) == (
        "the catalogue's store cannot be opened now: the database does not answer"
    )


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_clients_learn_no_user_of_postgresql(url: str) -> None:
    other = sa.make_url(url).set(username="nobody_knows").render_as_string(hide_password=False)
    with pytest.raises(Unavailable, match="nobody_knows") as caught:
        Store.open(other)
    assert "nobody_knows" not in public_text(caught.value, other)
    with closing(Store.open(url)) as store:
        with store._database.writing() as connection:
            connection.exec_driver_sql("ALTER TABLE twinspire_items RENAME TO hidden")
        with pytest.raises(Unavailable, match=r"cannot be read now: undefined table$"):
            store.page(0, 1)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("how", ["moved", "replaced"])
def test_a_file_that_no_longer_is_where_it_was_takes_no_writes_until_it_is_back(
    tmp_path: Path, suffix: str, how: str
) -> None:
    """SQLite would go on with the file that it has open, and everything would be gone with it."""
    url, path = f"sqlite:///{tmp_path}/items.db", tmp_path / f"items.db{suffix}"
    with closing(Store.open(url)) as store:
        one(store, upsert("a"))
        path.rename(tmp_path / "kept")
        if how == "replaced":
            shutil.copy(tmp_path / "kept", path)
        for call in (lambda: one(store, upsert("b")), store.position, lambda: store.get(["a"])):
            with pytest.raises(
                Unavailable, match=rf"items\.db{suffix} was moved, removed or replaced"
            ) as caught:
                call()
            assert str(tmp_path) not in public_text(caught.value, url)
        (tmp_path / "kept").replace(path)
        assert one(store, upsert("b")).sequence == 2
    with closing(Store.open(url)) as store:
        assert store.get(["a", "b"]).keys() == {"a", "b"}


def test_a_file_that_is_moved_during_a_commit_acknowledges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "items.db"
    with closing(Store.open(f"sqlite:///{path}")) as store:
        save = store._save

        def moving(*arguments: Any) -> None:
            save(*arguments)
            path.rename(tmp_path / "aside")

        monkeypatch.setattr(store, "_save", moving)
        with pytest.raises(Unavailable, match="was moved, removed or replaced"):
            one(store, upsert("a"))
