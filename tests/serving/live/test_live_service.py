"""A whole service that takes writes, as its clients and its operator see it: real processes, real stores."""

import asyncio
import random
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import grpc
import psutil
import pytest

from protos import catalogue_pb2 as wire
from protos import catalogue_pb2_grpc
from protos.errors import (
    InvalidInput,
    MissingStage,
    NotAuthorised,
    Overloaded,
    TwinspireError,
    Unavailable,
    WriteRefused,
)
from serving.client import AsyncRetrievalClient, Item, RetrievalClient, Security
from serving.client.items import ItemState, Origin, Refusal
from serving.security.tokens import new_token
from serving.server import RetrievalServer
from tests.helpers.serving.cataloguing import ROOT, CatalogueService, catalogue_service, item
from tests.helpers.serving.operated import scrape
from tests.helpers.waiting import wait_until

FAR = "zozozo zozozo xexexe"  # a text that no item of the bundle has


@pytest.fixture
def service(plain: Path, url: str, tmp_path: Path) -> Iterator[CatalogueService]:
    with catalogue_service(plain, url, tmp_path / "service") as service:
        yield service


@pytest.fixture
def small(plain: Path, tmp_path: Path) -> Iterator[CatalogueService]:
    """On SQLite alone."""
    with catalogue_service(plain, f"sqlite:///{tmp_path}/items.db", tmp_path / "service") as service:
        yield service


def first(client: RetrievalClient, text: str, sequence: int = 0) -> str:
    return client.search(text, k=1, min_sequence=sequence).hits[0].id


def test_a_day_of_an_item_is_seen_by_each_worker(service: CatalogueService) -> None:
    with service.client() as one, service.client() as other:
        while one.info().state["worker_pid"] == other.info().state["worker_pid"]:
            other.close()
            other = service.client()  # until it has the other worker
        written = one.upsert([item("new", FAR, name="A new one")])
        assert (written.sequence, written.repeated) == (1, False)
        hit = one.search(FAR, k=1).hits[0]  # at once, without `min_sequence`
        assert (hit.id, dict(hit.fields)) == ("new", {"name": "A new one"})
        assert first(other, FAR, 1) == "new"
        sequence = other.upsert([item("new", "bavuti", name="Another")]).sequence
        assert first(other, FAR) != "new"
        assert first(one, FAR, sequence) != "new"
        found = one.search("bavuti", k=300, min_sequence=sequence).hits
        assert dict(next(each.fields for each in found if each.id == "new")) == {"name": "Another"}
        sequence = one.delete(["new", "item-007"]).sequence
        for client in (one, other):
            ids = [each.id for each in client.search("bavuti", k=301, min_sequence=sequence).hits]
            assert len(ids) == len({*ids}) == 299
            assert not {"new", "item-007"} & {*ids}
        states = other.get(["new", "item-007", "item-008", "unknown"])
        assert [each.origin for each in states] == [
            Origin.DELETED, Origin.DELETED, Origin.BUNDLE, Origin.UNKNOWN,
        ]  # fmt: skip
        assert [each.sequence for each in states] == [3, 4, 0, 0]
        assert "name" in states[2].item.fields
        again = other.upsert([item("item-007", FAR)])
        assert first(other, FAR) == "item-007"
        (state,) = one.get(["item-007"])
        assert state.item == Item("item-007", {"text": FAR})
        assert (state.sequence, state.origin) == (again.sequence, Origin.LIVE)
        assert abs(state.written_at - time.time()) < 60
        other.close()


def test_modes_expected_sequences_and_request_ids(service: CatalogueService) -> None:
    with service.client() as client:
        with pytest.raises(WriteRefused, match="1 of 2 items: 'item-001': the item exists already") as caught:
            client.upsert([item("item-001"), item("a")], mode="insert")
        results = caught.value.written.results  # type: ignore[attr-defined]
        assert [each.refusal for each in results] == [Refusal.EXISTS, None]
        assert client.get(["a"])[0].sequence == results[1].sequence == 1
        with pytest.raises(WriteRefused, match="does not exist"):
            client.upsert([item("b")], mode="update")
        client.upsert([item("item-001")], mode="update")
        stale = Item("a", {"text": "x"}, expected_sequence=7)
        with pytest.raises(WriteRefused, match="expected sequence 7, but the item's last change is 1"):
            client.upsert([stale])
        assert client.upsert([stale], strict=False).results[0].refusal is Refusal.CONFLICT
        client.upsert([Item("a", {"text": "x"}, expected_sequence=1)], request_id="twice")
        again = client.upsert([Item("a", {"text": "x"}, expected_sequence=1)], request_id="twice")
        assert (again.repeated, again.results[0].refusal) == (True, None)
        with pytest.raises(InvalidInput, match=r"request_id: another request was sent with this id"):
            client.upsert([item("z")], request_id="twice")
        with pytest.raises(WriteRefused):
            client.delete(["a"], expected={"a": 1})
        assert client.delete(["a"], expected={"a": again.sequence}).results[0].refusal is None
        assert client.delete(["a", "never"]).sequence == client.info().state["catalogue"]["sequence"]


def test_changes_come_in_order_in_pages_and_go_on_while_they_are_followed(service: CatalogueService) -> None:
    seen: list[ItemState] = []
    with service.client() as client, service.client() as reader:
        long = "x" * 20_000
        for n in range(12):
            client.upsert([item(f"{n}-{m}", long) for m in range(100)])
        pages = [*client.changes()]
        assert len(pages) > 20  # a page has about 1 MiB
        assert {each.store_id for each in pages} == {client.info().state["catalogue"]["store_id"]}
        sequences = [each.sequence for page in pages for each in page.changes]
        assert sequences == [*range(1, 1201)]
        stream = reader.changes(after=1190, follow=True)
        done = threading.Event()

        def follow() -> None:
            for page in stream:
                seen.extend(page.changes)
                if seen[-1].sequence >= 1212:
                    break
            stream.close()  # type: ignore[attr-defined]
            done.set()

        thread = threading.Thread(target=follow)
        thread.start()
        for _ in range(4):
            client.upsert([item("followed"), item("0-0")])
            client.delete(["1-1"])
            time.sleep(0.05)
        assert done.wait(20)
        thread.join()
    assert [each.sequence for each in seen] == sorted({each.sequence for each in seen})
    last = {each.item.id: each for each in seen}
    assert last["1-1"].origin is Origin.DELETED
    assert last["followed"].origin is Origin.LIVE


def test_a_service_that_stops_ends_what_is_followed_and_waits_for_writes(small: CatalogueService) -> None:
    with RetrievalClient(small.address, 20.0, retries=False) as client:
        client.upsert([item("a")])
        stream = client.changes(follow=True)
        assert next(stream).changes[0].item.id == "a"
        results: list[int] = []

        def write(name: str) -> None:
            with suppress(Unavailable):  # it came too late
                results.append(client.upsert([item(name)]).sequence)

        writers = [threading.Thread(target=write, args=[f"b-{n}"]) for n in range(8)]
        for thread in writers:
            thread.start()
        time.sleep(0.02)
        started = time.monotonic()
        assert small.stop() == 0
        assert time.monotonic() - started < 3.0
        for thread in writers:
            thread.join()
        with suppress(Unavailable):
            assert {each.item.id[0] for page in stream for each in page.changes} <= {"b"}
    stored = small.stored()
    assert {*results} <= {each.sequence for each in stored.values()}


def test_the_asyncio_client_has_the_same_methods(small: CatalogueService) -> None:
    async def all_of_it() -> list[int]:
        async with AsyncRetrievalClient(small.address, 20.0) as client:
            written = await client.upsert([item("a", FAR)])
            found = await client.search(FAR, k=1, min_sequence=written.sequence)
            assert found.hits[0].id == "a"
            assert (await client.get(["a"]))[0].origin is Origin.LIVE
            with pytest.raises(WriteRefused):
                await client.upsert([item("a")], mode="insert")
            with pytest.raises(InvalidInput, match="ids"):
                await client.get([])
            await client.delete(["a"])
            return [each.sequence async for page in client.changes() for each in page.changes]

    assert asyncio.run(all_of_it()) == [2]


def test_a_restarted_service_has_all_items_from_the_start(service: CatalogueService) -> None:
    with service.client() as client:
        sequence = client.upsert([item(f"new-{n}", f"{FAR} {n}") for n in range(200)]).sequence
        sequence = client.delete(["item-001", "new-0"]).sequence
    assert service.stop() == 0
    service.start()
    with service.client() as client:
        answer = client.search(FAR, k=500)  # the first that it answers
        ids = {each.id for each in answer.hits}
        assert answer.sequence == sequence
        assert len(ids) == 300 + 200 - 2
        assert not {"item-001", "new-0"} & ids


def test_only_writers_may_write(plain: Path, tmp_path: Path) -> None:
    secrets = {role: new_token(role, role) for role in ("reader", "writer")}
    tokens = tmp_path / "tokens.toml"
    tokens.write_text("\n".join(entry for _, entry in secrets.values()))
    url = f"sqlite:///{tmp_path}/items.db"
    with catalogue_service(plain, url, tmp_path / "service", "--tokens", str(tokens)) as service:
        writer = Security(token=secrets["writer"][0])
        with RetrievalClient(service.address, 20.0, writer) as client:
            client.upsert([item("a")])
        with RetrievalClient(service.address, 20.0, Security(token=secrets["reader"][0])) as client:
            assert client.search("bavuti", k=1).sequence == 1
            for call in (
                lambda: client.upsert([item("a")]),
                lambda: client.delete(["a"]),
                lambda: client.get(["a"]),
                lambda: next(client.changes()),
            ):
                with pytest.raises(NotAuthorised, match="requires the role writer"):
                    call()


def test_a_service_without_a_store_takes_no_writes_and_says_how_it_would(server: RetrievalServer) -> None:
    with RetrievalClient(server.address) as client:
        for call in (lambda: client.upsert([item("a")]), lambda: client.get(["a"])):
            with pytest.raises(MissingStage, match="takes no writes; start it with --catalogue"):
                call()
        with pytest.raises(MissingStage):
            next(client.changes())
        assert not client.info().state["catalogue"]


def test_bounds_are_told_and_kept(plain: Path, url: str, tmp_path: Path) -> None:
    flags = ("--live-max-overlay", "30", "--live-max-batch", "20", "--live-max-item-bytes", "300")
    with catalogue_service(plain, url, tmp_path / "service", *flags) as service, service.client() as client:
        bounds = client.info().state["catalogue"]["bounds"]
        assert bounds == {"max_overlay": 30, "max_batch": 20, "max_item_bytes": 300, "max_lag": 20_000}
        with pytest.raises(InvalidInput, match=r"items: expected 1 to 20 items, got 21"):
            client.upsert([item(str(n)) for n in range(21)])
        with pytest.raises(InvalidInput, match=r"items\[1\]\.item: expected at most 300 bytes as JSON, got"):
            client.upsert([item("a"), item("b", "x" * 300)])
        client.upsert([item(str(n)) for n in range(20)])
        started = time.monotonic()
        with pytest.raises(Overloaded, match="refresh the bundle") as caught:
            client.upsert([item(f"more {n}") for n in range(11)])
        assert time.monotonic() - started < 2.0  # gRPC does not try it again
        assert caught.value.retry_after == float("inf")
        client.upsert([item(f"more {n}") for n in range(10)])
        client.upsert([item(str(n), "nukeli") for n in range(20)])
        with pytest.raises(Overloaded):
            client.delete(["unknown"])
        client.delete(["item-001", "0"])  # the bound refuses no delete of an item that exists
        assert client.search(FAR, k=400, min_sequence=52).sequence == 52
    with catalogue_service(plain, url, tmp_path / "again") as service, service.client() as client:
        assert client.info().state["catalogue"]["bounds"] == bounds


@pytest.mark.exhaustive
def test_a_second_service_sees_what_the_first_writes_and_the_other_way_round(
    plain: Path, url: str, tmp_path: Path
) -> None:
    """With a cache of its own it is another host; with the same cache, another service of the host."""
    cache = {"TWINSPIRE_CACHE": str(tmp_path / "other cache")}
    with (
        catalogue_service(plain, url, tmp_path / "one") as one,
        catalogue_service(plain, url, tmp_path / "other", **cache) as other,
        catalogue_service(plain, url, tmp_path / "third") as third,
        one.client() as first_client,
        other.client() as second,
        third.client() as third_client,
    ):
        clients = [first_client, second, third_client]
        for n in range(9):
            writer, reader = clients[n % 3], clients[(n + 1 + n // 3 % 2) % 3]
            sequence = writer.upsert([item(f"new-{n}", f"{FAR} {n}")]).sequence
            assert sequence == n + 1
            assert first(reader, f"{FAR} {n}", sequence) == f"new-{n}"
        assert one.stop() == 0  # the third takes over what it has derived
        sequence = third_client.upsert([item("last", FAR)]).sequence
        assert first(third_client, FAR) == "last"
        assert first(second, FAR, sequence) == "last"


def test_metrics_and_info_show_the_catalogue(plain: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/items.db"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with catalogue_service(plain, url, tmp_path / "s", "--metrics-port", str(port)) as service:
        with service.client() as client:
            client.upsert([item(f"n-{n}") for n in range(5)])
            client.delete(["item-001"])
            with pytest.raises(InvalidInput):
                client.upsert([])

            def counted() -> bool:
                state = client.info().state["catalogue"]
                return (state["live_items"], state["tombstones"], state["worker_sequence"]) == (5, 1, 6)

            def applied() -> bool:
                found = scrape(port)
                return all(found[f"twinspire_catalogue_worker_sequence['{worker}']"] == 6 for worker in "01")

            wait_until(counted)
            wait_until(applied)  # by the other worker, too
            requests = client.info().state["requests"]
        assert requests["INVALID_ARGUMENT"] == 1
        found = scrape(port)
    names = ("sequence", "items", "tombstones", "commits_total", "writes_total", "failed")
    assert [found[f"twinspire_catalogue_{name}[]"] for name in names] == [6, 5, 1, 2, 6, 0]
    (derived,) = (value for name, value in found.items() if "catalogue_derived_sequence" in name)
    assert derived == 6
    (encoding,) = (value for name, value in found.items() if "catalogue_encode_seconds_total" in name)
    assert encoding > 0
    for worker in "01":
        of_worker = ("worker_sequence", "worker_lag", "overlay_rows")
        assert [found[f"twinspire_catalogue_{name}['{worker}']"] for name in of_worker] == [6, 0, 5]
    assert found["twinspire_requests_total['OK', 'Upsert']"] == 1
    assert found["twinspire_process_resident_bytes['catalogue']"] > 1e6


def test_a_connection_may_follow_a_few_feeds_and_no_more(small: CatalogueService) -> None:
    with RetrievalClient(small.address, 20.0, retries=False) as client:
        client.upsert([item("a")])
        streams = [client.changes(follow=True) for _ in range(4)]
        for stream in streams:
            assert next(stream).sequence == 1
        with pytest.raises(Overloaded, match="may have 4 calls of Changes open"):
            next(client.changes())
        streams.pop().close()  # type: ignore[attr-defined]
        wait_until(lambda: _reads(client))


def _reads(client: RetrievalClient) -> bool:
    try:
        return next(client.changes()).sequence == 1
    except Overloaded:
        return False


def test_each_worker_and_the_catalogues_process_may_die_at_any_time(service: CatalogueService) -> None:
    acknowledged: dict[str, int] = {}
    refused: list[Exception] = []
    stop = threading.Event()

    def write(writer: int) -> None:
        with service.client() as client:
            n = 0
            while not stop.is_set():
                name = f"{writer}-{n}"
                try:
                    acknowledged[name] = client.upsert([item(name)]).sequence
                except TwinspireError as error:
                    refused.append(error)
                n += 1

    threads = [threading.Thread(target=write, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    psutil.Process(service.catalogue_pid()).kill()
    time.sleep(1.0)
    psutil.Process(min(service.worker_pids())).kill()
    time.sleep(1.0)
    psutil.Process(service.catalogue_pid()).kill()
    before = len(acknowledged)
    wait_until(lambda: len(acknowledged) > before + 20)
    stop.set()
    for thread in threads:
        thread.join()
    assert not refused  # the client sends them again, and they have ids
    stored = service.stored()
    assert {name: stored[name].sequence for name in acknowledged} == acknowledged
    last = max(acknowledged.values())
    with service.client() as client:
        found = client.search("bavuti", k=1000, min_sequence=last).hits
        assert len({each.id for each in found}) == min(1000, 300 + len(stored))


def test_a_request_without_an_id_gets_an_error_if_its_outcome_is_not_known(small: CatalogueService) -> None:
    catalogue = psutil.Process(small.catalogue_pid())
    with grpc.insecure_channel(small.address) as channel:
        stub = catalogue_pb2_grpc.CatalogueStub(channel)
        message = wire.ItemWrite(item={"id": "a", "features": {"text": {"text": "bavuti"}}})
        stub.Upsert(wire.UpsertRequest(items=[message]), timeout=20)
        catalogue.suspend()
        call = stub.Upsert.future(wire.UpsertRequest(items=[message]), timeout=20)
        with_id = stub.Upsert.future(wire.UpsertRequest(items=[message], request_id="r"), timeout=20)
        time.sleep(0.3)
        assert not call.done()
        late = stub.Upsert.future(wire.UpsertRequest(items=[message]), timeout=0.3)
        assert late.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        catalogue.kill()
        error = call.exception()
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "whether this was written is not known" in error.details()
        assert with_id.result().sequence >= 2


def test_a_store_that_breaks_refuses_writes_and_the_service_goes_on_answering(
    small: CatalogueService,
) -> None:
    path = Path(small.url.removeprefix("sqlite:///"))
    with RetrievalClient(small.address, 20.0, retries=False) as client:
        client.upsert([item("a", FAR)])
        with closing(sqlite3.connect(path)) as other:
            other.execute("ALTER TABLE twinspire_items RENAME TO hidden")
            other.commit()
        for call in (lambda: client.upsert([item("b")]), lambda: client.get(["a"])):
            with pytest.raises(Unavailable, match=r"catalogue's store cannot be .* now: no such table"):
                call()
        assert first(client, FAR) == "a"
        assert "no such table" in client.info().state["catalogue"]["last_error"]
        with closing(sqlite3.connect(path)) as other:
            other.execute("ALTER TABLE hidden RENAME TO twinspire_items")
            other.commit()
        wait_until(lambda: client.info().state["catalogue"]["last_error"] == "")
        aside = path.parent / "aside"
        aside.mkdir()
        owner = psutil.Process(small.catalogue_pid())
        owner.suspend()
        for each in path.parent.glob("items.db*"):
            each.rename(aside / each.name)
        path.write_bytes(b"this is not a database" * 1000)
        owner.kill()
        wait_until(lambda: "not a database" in client.info().state["catalogue"]["last_error"])
        with pytest.raises(Unavailable, match="not a database"):
            client.upsert([item("b")])
        assert first(client, FAR) == "a"
        _move(psutil.Process(small.catalogue_pid()), aside, path)
        wait_until(lambda: client.info().state["catalogue"]["last_error"] == "")
        sequence = client.upsert([item("b", FAR)]).sequence
        assert sequence == 2
        assert first(client, FAR, sequence) in ("a", "b")
        owner = psutil.Process(small.catalogue_pid())
        owner.suspend()
        for each in path.parent.glob("items.db*"):
            each.rename(aside / each.name)
        owner.kill()  # its successor makes a store, which is not the one that the bundles know
        for _ in range(2):
            wait_until(lambda: "another store" in client.info().state["catalogue"]["last_error"])
            with pytest.raises(Unavailable, match="another store"):
                client.upsert([item("c")])
            with pytest.raises(Unavailable, match="another store"):
                client.get(["a"])
            assert first(client, FAR) in ("a", "b")
            if aside.joinpath("items.db").exists():  # then not before a restart of the service
                _move(psutil.Process(small.catalogue_pid()), aside, path)


def _move(owner: psutil.Process, aside: Path, path: Path) -> None:
    """Put the files of a store back, while the process that opens them stands still."""
    owner.suspend()
    for each in path.parent.glob("items.db*"):
        each.unlink()
    for each in aside.glob("items.db*"):
        each.rename(path.parent / each.name)
    owner.resume()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="there is no prlimit")
def test_a_full_disk_refuses_writes_and_loses_none_and_the_service_goes_on(small: CatalogueService) -> None:
    """A limit on the size of files has the same effect for one process: it can write no more."""
    owner = small.catalogue_pid()
    acknowledged: dict[str, int] = {}
    long = "bavuti " * 2000
    with RetrievalClient(small.address, 20.0, retries=False) as client:
        client.upsert([item("a", FAR)])
        before = resource.prlimit(owner, resource.RLIMIT_FSIZE)
        resource.prlimit(owner, resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        with pytest.raises(
            Unavailable, match=r"store cannot be written now: (database or disk is full|disk I/O)"
        ):
            for n in range(2000):
                acknowledged[f"n-{n}"] = client.upsert([item(f"n-{n}", long)]).sequence
        assert len(acknowledged) > 10
        for _ in range(5):
            with pytest.raises(Unavailable):
                client.upsert([item("refused", long)])
            assert first(client, FAR) == "a"
        assert client.info().state["catalogue"]["last_error"]
        stored = small.stored()
        assert {name: stored[name].sequence for name in acknowledged} == acknowledged
        resource.prlimit(owner, resource.RLIMIT_FSIZE, before)
        wait_until(lambda: _takes(client, "later"))
        sequence = client.upsert([item("b", FAR)]).sequence
        assert client.search("bavuti", k=1000, min_sequence=sequence).sequence >= sequence
        stored = small.stored()
    assert {name: stored[name].sequence for name in acknowledged} == acknowledged
    assert "refused" not in stored


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="there is no prlimit")
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)  # whose files the limit does not touch
def test_records_that_cannot_be_written_refuse_writes_until_they_can(
    plain: Path, url: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    with catalogue_service(plain, url, tmp_path / "s", TWINSPIRE_CACHE=str(cache)) as service:
        owner = service.catalogue_pid()
        with RetrievalClient(service.address, 3.0, retries=False) as client:
            client.upsert([item("a", FAR)])
            (records,) = (cache / "live").rglob("*.records")
            before = resource.prlimit(owner, resource.RLIMIT_FSIZE)
            resource.prlimit(owner, resource.RLIMIT_FSIZE, (records.stat().st_size, before[1]))
            with pytest.raises(Unavailable):  # it is durable, and not found before the deadline
                client.upsert([item("late", "kelimo")])
            with pytest.raises(Unavailable, match="cannot be encoded now, and nothing was written") as caught:
                client.upsert([item("refused")])
            assert str(tmp_path) not in str(caught.value)
            assert first(client, FAR) == "a"
            resource.prlimit(owner, resource.RLIMIT_FSIZE, before)
            wait_until(lambda: _takes(client, "later"))
            ids = {each.id for each in client.search("kelimo", k=400, min_sequence=3).hits}
            assert {"a", "late", "later"} <= ids
            assert "refused" not in ids


def _takes(client: RetrievalClient, name: str) -> bool:
    try:
        client.upsert([item(name)])
    except Unavailable:
        return False
    return True


@pytest.mark.parametrize("content", [b"these are my notes\n" * 1000, None], ids=["text", "sqlite"])
def test_a_service_does_not_begin_on_a_file_that_is_not_its_own(
    plain: Path, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "notes.db"
    if content is not None:
        path.write_bytes(content)
    else:
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE notes (text)")
            other.commit()
    before = path.read_bytes()
    arguments = ["--bundle", str(plain), "--port", "0", "--catalogue", f"sqlite:///{path}"]
    result = subprocess.run(
        [sys.executable, "-m", "serving", "serve", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "error: " in result.stderr
    assert "notes.db" in result.stderr
    assert path.read_bytes() == before


def test_what_cannot_be_a_flag_is_refused(plain: Path) -> None:
    for flags in (["--live-max-batch", "5"], ["--catalogue", "mysql://x/y"], ["--live-max-lag", "0"]):
        result = subprocess.run(
            [sys.executable, "-m", "serving", "serve", "--bundle", str(plain), "--port", "0", *flags],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert result.returncode in (1, 2)
        assert "Traceback" not in result.stderr


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_nothing_acknowledged_is_lost_when_the_whole_service_is_killed(plain: Path, tmp_path: Path) -> None:
    """18 times the process that owns the store is killed right after an acknowledgement, twice all.

    `make livetest` kills under load, as often as `KILLS=` says.
    """
    generator = random.Random(1)
    acknowledged: dict[str, int] = {}
    url = f"sqlite:///{tmp_path}/items.db"
    with catalogue_service(plain, url, tmp_path / "service") as service:
        for turn in range(20):
            with service.client(60.0) as client:
                for n in range(generator.randrange(1, 4)):
                    name = f"{turn}-{n}"
                    acknowledged[name] = client.upsert([item(name)]).sequence
                if turn % 10 == 9:
                    service.stop(signal.SIGKILL)
                    service.start()
                else:
                    _kill_owner(service, Path(url.removeprefix("sqlite:///")))
        stored = service.stored()
        assert {name: stored[name].sequence for name in acknowledged} == acknowledged
        with service.client() as client:
            assert client.search("bavuti", k=1000).sequence == max(acknowledged.values())


def _kill_owner(service: CatalogueService, path: Path) -> None:
    """Kill the process that has the store open."""
    assert service.process is not None
    for child in psutil.Process(service.process.pid).children():
        if any(each.path == str(path) for each in child.open_files()):
            child.kill()
