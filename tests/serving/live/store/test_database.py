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

from tests.helpers.postgres import without_postgres
from tests.serving.live.store.test_store import one, upsert
from twinspire.protos.errors import ConfigError, Unavailable
from twinspire.serving.live.store import database
from twinspire.serving.live.store.database import CATALOGUE, detail, is_missing, operator_errors
from twinspire.serving.live.store.store import META, Store


def test_a_file_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE notes (text)")
        other.commit()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="is a database of another program"):
        Store.open(f"sqlite:///{path}")
    assert path.read_bytes() == before
    text = tmp_path / "notes.txt"
    text.write_text("these are my notes, and not a database\n" * 100)
    with pytest.raises(ConfigError, match="not a database"):
        Store.open(f"sqlite:///{text}")
    assert text.read_text().startswith("these are my notes")


def test_a_store_of_another_version_is_refused(url: str) -> None:
    with closing(Store.open(url)) as store, store._database.writing() as connection:
        connection.exec_driver_sql("UPDATE twinspire_meta SET schema_version = 9")
    with pytest.raises(ConfigError, match="version 9, this program expects 1"):
        Store.open(url)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("nonsense", "expected a URL such as"),
        ("mysql://host/db", "expected a URL of sqlite or postgresql, got one of mysql"),
        ("sqlite:///:memory:", "expected a file"),
        ("sqlite:///file:items.db?uri=true&mode=memory", "expected a file.* without host and parameters"),
        ("sqlite://host/items.db", "expected a file.* without host and parameters"),
        ("sqlite:///\udcff.db", "expected a URL such as"),
        ("sqlite+aiosqlite:///items.db", r"begins with sqlite://, got sqlite\+aiosqlite://"),
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
    url = f"postgresql://me:secret@/items?host={tmp_path}"
    with pytest.raises(Unavailable, match=r"the database does not answer$"):  # what clients may read
        Store.open(url)
    with (
        pytest.raises(Unavailable, match=r"me:.*connection to server") as caught,
        operator_errors(url, CATALOGUE),
    ):
        Store.open(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_damaged_is_found_before_the_service_begins(tmp_path: Path) -> None:
    path = tmp_path / "items.db"
    with closing(Store.open(f"sqlite:///{path}")) as store:
        one(store, upsert(*(f"item {n}" for n in range(2000))))
    whole = path.read_bytes()
    for start in range(8 * 4096, len(whole) - 4096, 16 * 4096):
        path.write_bytes(whole[:start] + os.urandom(4096) + whole[start + 4096 :])
        with pytest.raises(ConfigError, match=r"is damaged|cannot be opened"):
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


def test_a_folder_that_cannot_be_entered_is_an_error_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that saw no store there would go on without live items."""
    path = tmp_path / "items.db"
    url = f"sqlite:///{path}"
    assert is_missing(url)
    path.touch()
    assert not is_missing(url)
    stat = Path.stat

    def refuse(path: Path, **given: Any) -> Any:  # as for a user other than root, in a folder of mode 000
        if path.name == "items.db":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **given)

    monkeypatch.setattr(Path, "stat", refuse)
    for use in (Store.open, is_missing):
        with pytest.raises(ConfigError, match=r"^the catalogue's store cannot be opened: Permission denied$"):
            use(url)


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_clients_learn_no_user_of_postgresql(url: str) -> None:
    other = sa.make_url(url).set(username="nobody_knows").render_as_string(hide_password=False)
    with pytest.raises(Unavailable) as caught:
        Store.open(other)
    assert "nobody_knows" in detail(caught.value)
    assert "nobody_knows" not in str(caught.value)
    with closing(Store.open(url)) as store:
        with store._database.writing() as connection:
            connection.exec_driver_sql("ALTER TABLE twinspire_items RENAME TO hidden")
        with pytest.raises(Unavailable, match=r"cannot be read now: undefined table$"):
            store.page(0, 1)


@pytest.mark.parametrize(("suffix", "how"), [("", "replaced"), ("-wal", "moved")])
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
            with pytest.raises(Unavailable, match=r"^the catalogue's store was moved, removed or replaced"):
                call()
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
