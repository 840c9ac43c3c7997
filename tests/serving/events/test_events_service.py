"""A whole service that records events: real processes, real stores."""

import io
import json
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import grpc
import pyarrow.parquet
import pytest

from tests.helpers.answers import differences
from tests.helpers.serving.cataloguing import ROOT, CatalogueService, catalogue_service
from tests.load.loop.kills import kills
from twinspire.protos.errors import DataError, InvalidInput, MissingStage, TwinspireError, Unavailable
from twinspire.protos.events_pb2 import Event as WireEvent
from twinspire.protos.events_pb2 import RecordRequest
from twinspire.protos.events_pb2_grpc import EventsStub
from twinspire.serving.cli.client_commands import record_file
from twinspire.serving.client import Event, Query, RetrievalClient
from twinspire.serving.client.events import Recorded, record_request
from twinspire.serving.events import __main__ as events_command
from twinspire.serving.events.store import EventStore
from twinspire.serving.events.user_histories import EventTable

SECRET = "user-key-that-no-log-may-have"


def both_workers(service: CatalogueService) -> tuple[RetrievalClient, RetrievalClient]:
    """Clients of both workers of a service."""
    one, other = service.client(), service.client()
    while one.info().state["worker_pid"] == other.info().state["worker_pid"]:
        other.close()
        other = service.client()
    return one, other


def stored(service: CatalogueService) -> int:
    """Number of events in the store of a service."""
    with closing(EventStore.open(service.url, create=False)) as store, store.all() as parts:
        return sum(map(len, parts))


def test_an_event_is_in_the_history_of_its_user_at_once_for_each_worker_and_host(
    service: CatalogueService, clicked: Path, url: str, tmp_path: Path
) -> None:
    one, other = both_workers(service)
    with (
        catalogue_service(clicked, url, tmp_path / "host", store="--events") as host,
        host.client() as far,
        one,
        other,
    ):
        ids = ["item-007", "item-100", "item-031", "item-007"]
        for n, item_id in enumerate(ids):
            assert one.record([Event(SECRET, item_id, time=1000.0 + n)]).stored == 1
            for client in (one, other, far):
                expected = client.search(Query(history=tuple(ids[: n + 1])), k=20)
                found = client.search(Query(user=SECRET), k=20)
                assert differences([found], [expected]) == []
        assert far.record([Event(SECRET, "item-200", "purchase")]).stored == 1
        longer = Query(history=(*ids, "item-200", "item-055"))
        found = one.search(Query(history=("item-055",), user=SECRET), k=20)  # its own history comes last
        assert differences([found], [one.search(longer, k=20)]) == []
        named = one.search(Query(features={"history": ("item-055",)}, user=SECRET), k=20)
        assert differences([named], [found]) == []
        assert differences([one.search(Query(user="another"), k=20)], [one.search(Query(), k=20)]) == []
        assert host.stop() == 0
    assert service.stop() == 0
    assert "Traceback" not in service.log
    assert SECRET not in service.log


@pytest.fixture(scope="module")
def shared(clicked: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CatalogueService]:
    """A service for several tests, each with users of its own."""
    folder = tmp_path_factory.mktemp("shared")
    with catalogue_service(clicked, f"sqlite:///{folder}/events.db", folder, store="--events") as service:
        yield service
        assert SECRET not in service.log


def test_the_events_of_a_user_are_listed_the_newest_first(shared: CatalogueService) -> None:
    one, other = both_workers(shared)
    given = [
        Event("listed", "item-1", "click", time=1000.0, request_id="r-1", position=2),
        Event("listed", "item-2", "dislike", value=-1.5, time=2000.0),
        Event("listed", "item-3", "seen", value=0.0, time=1500.0),
    ]
    with one, other:
        one.record([*given, Event("another", "item-4")])
        for client in (one, other):
            assert client.list_events("listed") == [given[1], given[2], given[0]]
        assert one.list_events("listed", limit=1) == [given[1]]
        assert one.list_events("unknown") == []
        assert one.info().state["events"]["last_error"] == ""
        for user, limit, field in (("u" * 257, 1, "user"), ("u", 1001, "limit")):
            with pytest.raises(InvalidInput) as wrong:
                one.list_events(user, limit)
            assert wrong.value.field == field


def test_what_a_user_dislikes_or_has_had_is_left_out(shared: CatalogueService) -> None:
    with shared.client() as client:
        first = client.search(Query(user="d"), k=300)
        ids = [hit.id for hit in first.hits]
        assert len(ids) == 300
        client.record(
            [Event("d", ids[0], "dislike"), Event("d", ids[5], "click"), Event("d", ids[9], "seen")]
        )
        client.record([Event("other", ids[3], "dislike")])
        (answer,) = client.search_batch([Query(user="d")], k=300)
        found = {hit.id for hit in answer.hits}
        assert {*ids} - found == {ids[0]}  # a dislike counts in any case, and another type never
        kept = client.search(Query(user="d"), k=300, exclude_history=True)
        assert {*ids} - {hit.id for hit in kept.hits} == {ids[0], ids[5]}
        (others,) = client.search_batch([Query(user="other")], k=300)
        assert {*ids} - {hit.id for hit in others.hits} == {ids[3]}
        like = client.search(Query(item_id=ids[0], user="d"), k=300, exclude_history=True)
        assert {*ids} - {hit.id for hit in like.hits} == {ids[0], ids[5]}
        scored = client.score(Query(user="d"), [ids[0]]).items
        expected = client.score(Query(history=(ids[5],)), [ids[0]]).items
        assert scored[0][1] == pytest.approx(expected[0][1], abs=1e-4)
        vectors = client.encode([Query(user="d"), Query(history=(ids[5],))])
        assert vectors[0] == pytest.approx(vectors[1], abs=1e-4)


def test_a_repeated_request_is_stored_once_by_whichever_worker(shared: CatalogueService) -> None:
    one, other = both_workers(shared)
    with one, other:
        events = [Event("r", "item-001"), Event("r", "item-002")]
        assert one.record(events, request_id="twice") == Recorded(2)
        assert other.record(events, request_id="twice") == Recorded(2, repeated=True)
        with pytest.raises(InvalidInput, match="request_id: another request was sent with this id"):
            other.record(events[:1], request_id="twice")
        batches = [[Event("r", f"item-{n:03}")] * 3 for n in range(3, 8)]
        requests = [record_request(each, f"base/{n}") for n, each in enumerate(batches)]
        for repeated in (False, True):
            with grpc.insecure_channel(shared.address) as channel:
                answers = [*EventsStub(channel).RecordStream(iter(requests), timeout=20)]
            assert [(each.stored, each.repeated_request) for each in answers] == [(3, repeated)] * 5
        with closing(EventTable(shared.url)) as table:
            found = table.latest("r", 100)
            assert (len(found), found[0][0]) == (17, "item-007")


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (Event("", "a"), r"events\[1\].user: expected 1 to 256 bytes without NUL, got 0"),
        (Event(SECRET, ""), r"events\[1\].item_id: expected 1 to 1024 bytes"),
        (Event(SECRET, "a\0"), r"events\[1\].item_id"),
        (Event(SECRET, "a", value=float("inf")), r"events\[1\].value: expected a finite number, got inf"),
        (Event(SECRET, "a", time=1.7e12), r"events\[1\].time: expected seconds since 1970, at most 1e12"),
        (Event(SECRET, "a", position=1), r"events\[1\].position: expected 1 or more, and a request_id"),
        (Event(SECRET, "\ud800"), r"events\[1\]: expected Unicode"),
    ],
)
def test_an_invalid_event_is_named_and_nothing_of_its_request_is_stored(
    shared: CatalogueService, event: Event, error: str
) -> None:
    before = stored(shared)
    with shared.client() as client:
        with pytest.raises(InvalidInput, match=error) as caught:
            client.record([Event("u", "item-001"), event])
        assert SECRET not in str(caught.value)
        with pytest.raises(InvalidInput, match="events: expected 1 to 1000 events, got 0"):
            client.record([])
        with pytest.raises(InvalidInput, match=r"query.user: expected 1 to 256 bytes"):
            client.search(Query(user=""))
    assert stored(shared) == before


def test_a_service_without_events_says_how_to_have_them(client: RetrievalClient) -> None:
    with pytest.raises(MissingStage, match="records no events; start it with --events"):
        client.record([Event("u", "a")])
    with pytest.raises(InvalidInput, match=r"query.user: .* started with --events"):
        client.search(Query("bavuti", user="u"))


def test_each_answer_has_an_id_that_its_events_give_back(small: CatalogueService) -> None:
    with small.client() as client:
        chosen = client.search(Query(), k=3, metadata=[("x-request-id", "mine")])
        assert chosen.request_id == "mine"
        ids = {client.search(Query(), k=3).request_id for _ in range(5)}
        assert len(ids) == 5
        batch = client.search_batch([Query(), Query()], k=3, metadata=[("x-request-id", "b")])
        assert [each.request_id for each in batch] == ["b/0", "b/1"]
        stream = client.search_stream([Query()] * 3, k=3, metadata=[("x-request-id", "s")])
        assert [each.request_id for each in stream] == ["s/0", "s/1", "s/2"]
        client.record([Event("u", chosen.hits[1].id, request_id=chosen.request_id, position=2)])
    output = Path(small.folder) / "events.parquet"
    export = [sys.executable, "-m", "twinspire.serving.events", "export", str(output), "--events", small.url]
    done = subprocess.run(export, cwd=ROOT, capture_output=True, check=True)
    assert json.loads(done.stdout) == {"output": str(output), "events": 1}
    (row,) = pyarrow.parquet.read_table(output).to_pylist()
    assert (row["user_id"], row["request_id"], row["position"], row["value"]) == ("u", "mine", 2, None)
    assert abs(row["recorded"].timestamp() - row["time"]) < 60
    told = command("delete", "u", "unknown", "--events", small.url)
    assert told == {"users": 2, "events_deleted": 1, "log_emptied": True}


def command(*arguments: str, given: bytes = b"") -> Any:
    """What `python -m twinspire.serving.events` prints; errors are raised."""
    with mock.patch.object(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given))):
        return events_command._run(events_command._parser().parse_args(arguments))


def test_users_are_deleted_by_lines_of_which_each_is_checked_first(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    users = ["a", "b\u2028c", "d"]
    with closing(EventStore.open(url)) as store:
        store.record([RecordRequest(events=[WireEvent(user=each, item_id="x", type="t") for each in users])])
    for given, error in (
        (b"a\n\xff\n", "line 2 of standard input: expected UTF-8"),
        (b"a\n" + b"x" * 257, "line 2 of standard input: expected 1 to 256 bytes"),
        (b"a\r\n", "line 1 of standard input: expected lines that end with LF alone"),
    ):
        with pytest.raises(InvalidInput, match=error):
            command("delete", "a", "-", "--events", url, given=given)
    with pytest.raises(InvalidInput, match="USER 2: expected 1 to 256 bytes"):
        command("delete", "a", "", "--events", url)
    told = command("delete", "-", "d", "--events", url, given="\nb\u2028c\n".encode())
    assert told == {"users": 2, "events_deleted": 2, "log_emptied": True}
    assert command("delete", "-", "--events", url)["users"] == 0
    assert command("delete", "a", "--events", url)["events_deleted"] == 1


def test_a_store_of_events_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("these are my notes\n" * 100)
    for name, error in (("none", "is missing"), ("notes", "cannot be opened now: file is not a database")):
        with pytest.raises(TwinspireError, match=f"{tmp_path}/{name}: the store of events {error}"):
            command("export", str(tmp_path / "output"), "--events", f"sqlite:///{tmp_path}/{name}")


def test_a_table_of_events_is_recorded_once(shared: CatalogueService, tmp_path: Path) -> None:
    table = tmp_path / "clicks.csv"
    table.write_text(
        "user_id,item_id,type,value,time,position,request_id\n"
        "t,item-001,click,,2026-01-02T03:04:05,,\n"
        "t,item-002,rated,4.5,1767323046,3,r7\n"
    )
    with shared.client() as client:
        document, _ = record_file(client, table)
        assert (document["events"], document["stored_before"]) == (2, 0)
        document, _ = record_file(client, table)
        assert (document["events"], document["stored_before"]) == (2, 2)
        table.write_text("user_id,item_id,price\nu,item-001,3\n")
        with pytest.raises(DataError, match=r"row 1: column 'price': expected once each of"):
            record_file(client, table)
        table.write_text(f"user_id,item_id,type\nu,item-001,click\nv,item-002,{'x' * 65}\n")
        with pytest.raises(DataError, match=r"row 2: type: expected 1 to 64 bytes"):
            record_file(client, table)
    with closing(EventTable(shared.url)) as events:
        assert events.latest("t", 9) == [
            ("item-002", 1767323046.0, "rated", 4.5),
            ("item-001", 1767323045.0, "click", None),
        ]


def test_a_locked_store_refuses_events_and_searches_go_on(small: CatalogueService) -> None:
    path = small.url.removeprefix("sqlite:///")
    with small.client(timeout=12.0) as client:
        client.record([Event("u", "item-001")])
        expected = client.search(Query(history=("item-001",)), k=5)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(
                Unavailable, match="the store of events cannot be written now: database is locked"
            ):
                client.record([Event("u", "item-002")], timeout=7.0)
            assert differences([expected], [client.search(Query(user="u"), k=5)]) == []
            other.execute("ROLLBACK")
        assert client.record([Event("u", "item-003")]).stored == 1


@pytest.mark.exhaustive
def test_what_was_acknowledged_is_stored_once_whatever_is_killed(service: CatalogueService) -> None:
    found = kills(service, 3, victims=("store", "worker"))
    assert found["killed"] == {"store": 2, "worker": 1}
    assert found["acknowledged"] > 0
    # Nothing is refused: the client sends requests again, and they have ids.
    assert (found["refused"], found["lost"], found["twice"]) == (0, 0, 0)


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="there is no prlimit")
def test_on_a_full_disk_events_are_refused_and_searches_go_on(small: CatalogueService) -> None:
    with small.client() as client:
        client.record([Event("u", "item-001")])
        expected = client.search(Query(history=("item-001",)), k=5)
        log = Path(small.url.removeprefix("sqlite:///") + "-wal")
        pid = small.store_pid()
        most = log.stat().st_size + 4096
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        with pytest.raises(Unavailable, match="the store of events cannot be written now"):
            client.record([Event("u", f"item-{n:03}") for n in range(1000)], timeout=3.0)
        assert differences([expected], [client.search(Query(user="u"), k=5)]) == []
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert client.record([Event("u", "item-002")]).stored == 1
        assert small.store_pid() == pid
