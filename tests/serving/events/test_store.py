"""The store of events, on files of SQLite and, where it is installed, on PostgreSQL."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from twinspire.protos.errors import ConfigError, InvalidInput, Unavailable
from twinspire.protos.events_pb2 import Event, RecordRequest, RecordResponse
from twinspire.serving.events import store as stores
from twinspire.serving.events.store import EventStore
from twinspire.serving.events.user_histories import EventTable
from twinspire.serving.live.store.database import EVENTS, detail, file_of
from twinspire.serving.live.store.store import Store
from twinspire.serving.retrieval.event_reading import EventRow


@pytest.fixture
def store(url: str) -> Iterator[EventStore]:
    with closing(EventStore.open(url)) as store:
        yield store


def clicks(user: str, *ids: str, request_id: str = "", **fields: Any) -> RecordRequest:
    events = [Event(user=user, item_id=each, **{"type": "click", **fields}) for each in ids]
    return RecordRequest(events=events, request_id=request_id)


def count(store: EventStore) -> int:
    with store.all() as parts:
        return sum(map(len, parts))


def latest(url: str, user: str, most: int = 100) -> list[str]:
    return [row[0] for row in rows(url, user, most)]


def rows(url: str, user: str, most: int = 100) -> Sequence[EventRow]:
    with closing(EventTable(url)) as table:
        return table.latest(user, most)


def test_the_latest_events_of_a_user_come_first_whenever_they_were_recorded(
    store: EventStore, url: str
) -> None:
    store.record([clicks("u", "b", "c", time=20), clicks("v", "x"), clicks("u", "a", time=10.5)])
    store.record([clicks("u", "d", type="rated", value=4.5)])
    now = time.time()
    (newest, *others) = rows(url, "u")
    assert (newest[0], *newest[2:]) == ("d", "rated", 4.5)
    assert newest[1] is not None
    assert abs(newest[1] - now) < 60
    assert others == [("c", 20.0, "click", None), ("b", 20.0, "click", None), ("a", 10.5, "click", None)]
    assert latest(url, "u", 2) == ["d", "c"]
    assert latest(url, "unknown") == []
    with closing(EventStore.open(url, create=False)) as again:
        assert latest(url, "v") == ["x"]
        assert count(again) == 5


def test_a_request_that_comes_again_is_stored_once(store: EventStore, url: str) -> None:
    request = clicks("u", "a", "b", request_id="one")
    (first, second, other, free) = store.record(
        [request, request, clicks("u", "c", request_id="one"), clicks("u", "d")]
    )
    assert (first, second) == (RecordResponse(stored=2), RecordResponse(stored=2, repeated_request=True))
    assert isinstance(other, InvalidInput)
    assert free == RecordResponse(stored=1)
    assert store.record([request]) == [RecordResponse(stored=2, repeated_request=True)]
    assert isinstance(store.record([clicks("u", "c", request_id="one")])[0], InvalidInput)
    assert latest(url, "u") == ["d", "b", "a"]


def test_what_is_too_old_or_too_much_is_deleted_from_the_oldest_on(
    store: EventStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "MOST_DELETED", 3)
    monkeypatch.setattr(stores, "KEEP_REQUESTS", 0)
    for n in range(10):
        store.record([clicks("u", str(n), request_id=f"r{n}")])
    assert [store.prune(days=1, most=10) for _ in range(5)] == [3, 3, 3, 1, 0]  # requests alone
    assert [store.prune(days=1, most=5) for _ in range(3)] == [3, 2, 0]
    assert store.prune(days=10**6, most=10) == 0
    assert (latest(url, "u"), count(store)) == (["9", "8", "7", "6", "5"], 5)
    assert store.record([clicks("u", "again", request_id="r0")])[0] == RecordResponse(stored=1)  # forgotten
    assert [store.prune(days=0, most=100) for _ in range(3)] == [4, 3, 0]
    assert (latest(url, "u"), count(store)) == ([], 0)


def test_no_error_shows_a_user(store: EventStore, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one of PostgreSQL, which names the values of a row that is there already."""
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    store.record([clicks("a-secret", "a", time=1)])
    with closing(EventStore.open(url)) as other, pytest.raises(Unavailable) as caught:
        other.record([clicks("a-secret", "a", time=1)])
    assert "a-secret" not in str(caught.value) + detail(caught.value)
    assert len(rows(url, "a-secret")) == 1


def test_a_deleted_user_leaves_no_row_and_in_sqlite_no_byte(
    store: EventStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "a-key-that-must-go"
    monkeypatch.setattr(stores, "MOST_DELETED", 20)
    store.record([clicks(secret, *map(str, range(50)), request_id="one"), clicks("other", "a")])
    assert store.delete_user(secret) == 50
    assert store.delete_user(secret) == 0
    assert store.shorten_log()
    assert (latest(url, secret), latest(url, "other"), count(store)) == ([], ["a"], 1)
    store.record([clicks(secret, *map(str, range(10)))])
    assert store.prune(days=0, most=100) == 11
    assert store.shorten_log()
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        for each in path.parent.iterdir():
            assert secret.encode() not in each.read_bytes(), each


def test_a_log_that_another_process_reads_is_not_emptied(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with closing(EventStore.open(f"sqlite:///{path}")) as store:
        store.record([clicks("u", "a")])
        with closing(sqlite3.connect(path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM twinspire_events").fetchall()
            assert store.delete_user("u") == 1
            assert not store.shorten_log()
        assert store.shorten_log()


def test_a_database_without_events_is_left_as_it_is(url: str) -> None:
    Store.open(url).close()
    with pytest.raises(ConfigError, match="the store of events is missing in this database"):
        EventStore.open(url, create=False)
    EventStore.open(url).close()
    EventStore.open(url, create=False).close()


def test_a_table_is_read_again_after_it_was_closed_or_was_no_database(store: EventStore, url: str) -> None:
    store.record([clicks("u", "a")])
    with closing(EventTable(url)) as table:
        assert [row[0] for row in table.latest("u", 5)] == ["a"]
        with pytest.raises(Unavailable, match="the store of events cannot be read now"):
            table.latest("u", 5, "no_such_column")
        assert [row[0] for row in table.latest("u", 5)] == ["a"]


def test_an_error_says_events_and_a_store_of_another_version_is_refused(store: EventStore, url: str) -> None:
    with pytest.raises(ConfigError, match="events: expected a URL of sqlite or postgresql, got one of mysql"):
        EventStore.open("mysql://host/database")
    with pytest.raises(ConfigError, match="events: expected a file of SQLite, got postgresql"):
        file_of("postgresql://host/database", EVENTS)
    with store._database.writing() as connection:
        connection.exec_driver_sql("UPDATE twinspire_events_meta SET schema_version = 2")
    with pytest.raises(ConfigError, match="version 2, this program expects 1"):
        EventStore.open(url)
