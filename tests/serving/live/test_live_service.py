"""A whole service that takes writes, as its clients and its operator see it: real processes, real stores."""

import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers.ports import held_port
from tests.helpers.serving.cataloguing import FAR, CatalogueService, catalogue_service, first, item
from tests.helpers.serving.operated import scrape
from tests.helpers.waiting import wait_until
from twinspire.protos.errors import (
    InvalidInput,
    MissingStage,
    Overloaded,
    Unavailable,
    WriteRefused,
)
from twinspire.serving.client import Item, RetrievalClient
from twinspire.serving.client.items import ItemState, Origin, Refusal


def test_a_day_of_an_item_is_seen_by_each_worker(service: CatalogueService) -> None:
    with service.client() as one, service.client() as other:
        while one.info().state["worker_pid"] == other.info().state["worker_pid"]:
            other.close()
            other = service.client()  # until it has the other worker
        written = one.upsert([item("new", FAR, name="A new one")])
        assert (written.sequence, written.repeated) == (1, False)
        assert one.info().item_count == 301
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
        assert other.info().item_count == 299  # 300 built, one added, two deleted
        again = other.upsert([item("item-007", FAR)])
        assert first(other, FAR) == "item-007"
        assert other.info().item_count == 300
        (state,) = one.get(["item-007"])
        assert state.item == Item("item-007", {"text": FAR})
        assert (state.sequence, state.origin) == (again.sequence, Origin.LIVE)
        assert abs(state.written_at - time.time()) < 60
        other.close()


def test_modes_expected_sequences_and_request_ids(small: CatalogueService) -> None:
    with small.client() as client:
        with pytest.raises(WriteRefused, match="1 of 2 items: 'item-001': the item exists already") as caught:
            client.upsert([item("item-001"), item("a")], mode="insert")
        results = caught.value.written.results  # type: ignore[attr-defined]
        assert [each.refusal for each in results] == [Refusal.EXISTS, None]
        client.upsert([item("item-001")], mode="update")
        stale = Item("a", {"text": "x"}, expected_sequence=7)
        assert client.upsert([stale], strict=False).results[0].refusal is Refusal.CONFLICT
        client.upsert([Item("a", {"text": "x"}, expected_sequence=1)], request_id="twice")
        again = client.upsert([Item("a", {"text": "x"}, expected_sequence=1)], request_id="twice")
        assert (again.repeated, again.results[0].refusal) == (True, None)
        with pytest.raises(WriteRefused):
            client.delete(["a"], expected={"a": 1})
        assert client.delete(["a"], expected={"a": again.sequence}).results[0].refusal is None
        assert client.delete(["a", "never"]).sequence == client.info().state["catalogue"]["sequence"]


def test_changes_come_in_order_in_pages_and_go_on_while_they_are_followed(small: CatalogueService) -> None:
    seen: list[ItemState] = []
    with small.client() as client, small.client() as reader:
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


def test_a_restarted_service_has_all_items_from_the_start(small: CatalogueService) -> None:
    with small.client() as client:
        sequence = client.upsert([item(f"new-{n}", f"{FAR} {n}") for n in range(200)]).sequence
        sequence = client.delete(["item-001", "new-0"]).sequence
    assert small.stop() == 0
    small.start()
    with small.client() as client:
        answer = client.search(FAR, k=500)  # the first that it answers
        ids = {each.id for each in answer.hits}
        assert answer.sequence == sequence
        assert len(ids) == 300 + 200 - 2
        assert not {"item-001", "new-0"} & ids


def test_a_service_without_a_store_takes_no_writes_and_says_how_it_would(client: RetrievalClient) -> None:
    for call in (lambda: client.upsert([item("a")]), lambda: client.get(["a"])):
        with pytest.raises(MissingStage, match="takes no writes; start it with --catalogue"):
            call()
    with pytest.raises(MissingStage):
        next(client.changes())
    assert not client.info().state["catalogue"]


@pytest.mark.exhaustive
def test_bounds_are_told_and_kept(plain: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/items.db"
    flags = ("--live-max-overlay", "30", "--live-max-batch", "20", "--live-max-item-bytes", "300")
    with catalogue_service(plain, url, tmp_path / "service", *flags) as service, service.client() as client:
        bounds = client.info().state["catalogue"]["bounds"]
        assert bounds == {"max_overlay": 30, "max_batch": 20, "max_item_bytes": 300, "max_lag": 20_000}
        with pytest.raises(InvalidInput, match=r"items: expected 1 to 20 items, got 21"):
            client.upsert([item(str(n)) for n in range(21)])
        with pytest.raises(InvalidInput, match=r"items\[1\]\.item: expected at most 300 bytes as JSON, got"):
            client.upsert([item("a"), item("b", "x" * 300)])
        client.upsert([item(str(n)) for n in range(20)])
        with pytest.raises(Overloaded, match="refresh the bundle") as caught:
            client.upsert([item(f"more {n}") for n in range(11)])
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
def test_metrics_and_info_show_the_catalogue(plain: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/items.db"
    with (
        held_port() as port,
        catalogue_service(plain, url, tmp_path / "s", "--metrics-port", str(port)) as service,
    ):
        with service.client() as client:
            client.upsert([item(f"n-{n}") for n in range(5)])
            client.delete(["item-001"])

            def counted() -> bool:
                state = client.info().state["catalogue"]
                return (state["live_items"], state["tombstones"], state["worker_sequence"]) == (5, 1, 6)

            def applied() -> bool:
                found = scrape(port)
                return all(found[f"twinspire_catalogue_worker_sequence['{worker}']"] == 6 for worker in "01")

            wait_until(counted)
            wait_until(applied)  # by the other worker, too
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


@pytest.mark.exhaustive
def test_a_second_service_sees_what_the_first_writes_and_the_other_way_round(
    plain: Path, url: str, tmp_path: Path
) -> None:
    """With a cache of its own it is another host."""
    cache = {"TWINSPIRE_CACHE": str(tmp_path / "other cache")}
    with (
        catalogue_service(plain, url, tmp_path / "one") as one,
        catalogue_service(plain, url, tmp_path / "other", **cache) as other,
        one.client() as first_client,
        other.client() as second,
    ):
        clients = [first_client, second]
        for n in range(8):
            writer, reader = clients[n % 2], clients[(n + n // 2) % 2]
            sequence = writer.upsert([item(f"new-{n}", f"{FAR} {n}")]).sequence
            assert sequence == n + 1
            assert first(reader, f"{FAR} {n}", sequence) == f"new-{n}"
        assert one.stop() == 0
        assert second.upsert([item("last", FAR)]).sequence == 9
        assert first(second, FAR) == "last"
