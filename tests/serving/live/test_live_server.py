"""A worker's server answers with live items, and waits for writes; what derives them runs in the test."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.helpers.answers import differences
from tests.helpers.serving.catalogue_end import Answering
from tests.helpers.serving.live import MemoryFeed, copy_with_snapshot
from tests.helpers.serving.loopback import stub_of
from tests.helpers.tiny import item_names
from tests.helpers.waiting import wait_until
from twinspire.protos import catalogue_pb2
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.bundle import Snapshot
from twinspire.protos.errors import (
    DeadlineExceeded,
    InvalidInput,
    Unavailable,
    UnknownItem,
)
from twinspire.serving.client import RetrievalClient
from twinspire.serving.live import live_items as live_bundle
from twinspire.serving.live.live_items import LiveItems, LivePlace
from twinspire.serving.live.process.frames import Channel, Frame, FrameKind, StoreClient
from twinspire.serving.live.store.records import Position
from twinspire.serving.rate_limit import RateLimit
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.rollout.hot_swap import HotSwapper
from twinspire.serving.rollout.loaded_bundle import LoadedBundle, TrafficSplit
from twinspire.serving.security.auth import Access
from twinspire.serving.segments.packed_items import EncodedItem, EncodedKind
from twinspire.serving.server import RetrievalServer
from twinspire.serving.shared_state import CATALOGUE, NEXT, TARGET, SharedState

ZOO = "zozozozo zozozo"


class Host:
    """A store, what derives from it, and one server."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.feed = MemoryFeed()
        self.folder, self.path = folder, place
        self.place = LivePlace(
            place, lambda: {"store_id": self.feed.store_id, "sequence": self.feed.sequence()}
        )
        self.encoder = self.feed.encoder(folder, place)
        self.encode()
        self.bundle = LoadedBundle.load(folder).with_live(self.place)
        self.server = RetrievalServer(self.bundle)

    def encode(self) -> None:
        """Encode what the store holds."""
        self.encoder.run_once(self.feed.position())

    def write(self, item_id: str, *item: dict[str, Any]) -> int:
        """Store an item, or its deletion, and encode it; gives its sequence."""
        sequence = self.feed.put(item_id, *item)
        self.encode()
        return sequence

    @contextmanager
    def encoding_later(self, seconds: float) -> Iterator[None]:
        """Encode what the store holds while the block runs."""
        later = threading.Timer(seconds, self.encoder.run_once, (self.feed.position(),))
        later.start()
        yield
        later.join()


@pytest.fixture
def host(plain: Path, tmp_path: Path) -> Iterator[Host]:
    host = Host(plain, tmp_path)
    with host.server:
        yield host


@pytest.fixture
def client(host: Host) -> Iterator[RetrievalClient]:
    with RetrievalClient(host.server.address) as client:
        client.wait_ready()
        yield client


def test_a_search_waits_for_a_write(host: Host, client: RetrievalClient) -> None:
    sequence = host.feed.put("new", {"text": ZOO}, {"name": ZOO, "section": "zoo", "unknown": "x"})
    with host.encoding_later(0.3):
        answer = client.search(ZOO, k=1, min_sequence=sequence)
    assert [hit.id for hit in answer.hits] == ["new"]
    assert answer.hits[0].fields == {"name": ZOO, "section": "zoo"}
    assert answer.sequence == sequence
    gone = host.write("new")
    (batch, other) = client.search_batch([ZOO, "a"], k=300, min_sequence=gone)
    assert "new" not in {hit.id for hit in (*batch.hits, *other.hits)}
    assert len(batch.hits) == len(other.hits) == 300
    assert batch.sequence == other.sequence == gone


def test_a_stream_waits_for_a_write_in_its_order(host: Host, client: RetrievalClient) -> None:
    sequence = host.feed.put("new", {"text": ZOO})
    with host.encoding_later(0.2):
        found = list(client.search_stream([ZOO, item_names(300)[7], ZOO], k=1, min_sequence=sequence))
    assert [answer.hits[0].id for answer in found] == ["new", "item-007", "new"]


def test_the_wait_for_a_write_ends_with_the_deadline(host: Host, client: RetrievalClient) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.search("a", min_sequence=5, timeout=0.3)
    assert time.monotonic() - started < 2
    assert client.search("a", k=1).sequence == 0


def test_a_search_is_charged_before_it_waits_and_only_once(host: Host) -> None:
    access = Access(rate=RateLimit(per_second=1e-6, burst=3))
    with (
        RetrievalServer(host.bundle, access=access) as server,
        stub_of(server.address) as stub,
    ):
        one = wire.SearchRequest(query={"text": ZOO}, k=1, min_sequence=1)
        batch = wire.SearchBatchRequest(queries=[one.query], k=1, min_sequence=1)
        calls = [stub.Search.future(one, timeout=20), stub.SearchBatch.future(batch, timeout=20)]
        wait_until(lambda: len(server._servicer.waits._waits) == 2)
        host.write("new", {"text": ZOO})
        assert calls[0].result().hits[0].id == "new"
        assert calls[1].result().results[0].hits[0].id == "new"
        one.min_sequence = batch.min_sequence = 5
        with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
            stub.Search(one, timeout=0.2)  # it pays the last token, and waits
        for method, request in ((stub.Search, one), (stub.SearchBatch, batch)):
            with pytest.raises(grpc.RpcError, match="this client sends too many requests"):
                method(request, timeout=5)


def test_a_sequence_that_the_store_cannot_have_given_is_refused_at_once(
    host: Host, client: RetrievalClient
) -> None:
    host.write("new", {"text": ZOO})
    assert client.search("a", min_sequence=1).hits
    for sequence in (200_000, 2**64 - 1):
        with pytest.raises(InvalidInput, match=f"min_sequence: .* known is 1, got {sequence}"):
            client.search("a", min_sequence=sequence, timeout=60.0)


def test_a_server_without_live_items_refuses_to_wait(server: RetrievalServer) -> None:
    with (
        RetrievalClient(server.address) as client,
        pytest.raises(InvalidInput, match="min_sequence: this service takes no writes"),
    ):
        client.search("a", min_sequence=1)


def test_live_items_are_queries_and_can_be_excluded(host: Host, client: RetrievalClient) -> None:
    host.feed.put("new", {"text": ZOO})
    host.feed.put("item-007", {"text": ZOO + " ke"})
    sequence = host.write("item-008")
    answer = client.search(Query(item_id="new"), k=2, min_sequence=sequence)
    assert answer.hits[0].id == "item-007"  # the new version
    answer = client.search(Query(item_id="new"), k=2, exclude=["item-007"])
    assert not {"new", "item-007"} & {hit.id for hit in answer.hits}
    with pytest.raises(UnknownItem, match="item-008"):
        client.search(Query(item_id="item-008"))


def test_an_item_that_cannot_be_encoded_hides_its_old_version_and_no_other(
    host: Host, client: RetrievalClient
) -> None:
    host.feed.put("new", {"text": ZOO})
    wrong = host.feed.put("item-007", {"text": 7.0})
    sequence = host.write("other", {"text": ZOO})
    assert host.encoder.failures == {wrong: "features.text: expected a string, got float"}
    answer = client.search(ZOO, k=1000, min_sequence=sequence)
    ids = {hit.id for hit in answer.hits}
    assert {"new", "other"} < ids
    assert "item-007" not in ids
    assert len(ids) == 301


def test_a_swap_waits_until_the_new_bundle_has_what_the_old_one_had(
    host: Host, client: RetrievalClient, tmp_path: Path
) -> None:
    host.feed.put("new", {"text": ZOO})
    host.feed.put("item-007")
    folder = copy_with_snapshot(host.folder, tmp_path / "other", Snapshot("another store", 1))
    other = host.feed.encoder(folder, host.path)
    other.run_once(host.feed.position())
    loaded = LoadedBundle.load(folder).with_live(host.place)
    sequence = host.write("item-008")  # the new bundle has not got this one
    assert client.search("a", min_sequence=sequence).sequence == sequence
    swapped = threading.Event()
    host.server.swap(TrafficSplit(loaded), swapped.set)
    assert not swapped.wait(0.5)
    assert client.search("a").bundle_version == host.bundle.version
    other.run_once(host.feed.position())
    host.server.swap(TrafficSplit(loaded), swapped.set)
    assert swapped.wait(5)
    answer = client.search(ZOO, k=1000)
    assert answer.bundle_version == loaded.version
    assert answer.sequence == sequence
    assert answer.hits[0].id == "new"
    assert not {"item-007", "item-008"} & {hit.id for hit in answer.hits}


def test_a_bundle_that_was_built_from_the_store_takes_what_came_later(host: Host, tmp_path: Path) -> None:
    host.feed.put("new", {"text": ZOO})  # as if this was in the bundle
    sequence = host.feed.put("item-008")
    folder = copy_with_snapshot(host.folder, tmp_path / "other", Snapshot(host.feed.store_id, 1))
    other = host.feed.encoder(folder, host.path)
    assert other.sequence == 1
    other.run_once(host.feed.position())
    live = LoadedBundle.load(folder).with_live(host.place).live
    assert live is not None
    assert live.segment.sequence == sequence
    assert live.segment.rows == {"item-008": None}


def test_a_request_that_was_read_before_a_write_excludes_the_new_version(host: Host) -> None:
    """A worker applies changes between reading a request and answering it."""
    live = host.bundle.live
    assert live is not None
    host.write("new", {"text": ZOO})
    live.catch_up()
    retriever = host.bundle.retriever
    prepared = [retriever.prepare(Query(item_id="new")), retriever.prepare(Query(ZOO))]
    options = [retriever.search_options(5), retriever.search_options(5, ["item-007", "new"])]
    host.feed.put("new", {"text": ZOO + "zo"})
    host.write("item-007", {"text": ZOO})
    live.catch_up()
    found = retriever.find(retriever.encode_prepared(prepared), options)
    ids = [[retriever.items.item_id(row) for row in each.rows] for each in found]
    assert ids[0][0] == "item-007"
    assert "new" not in ids[0]
    assert not {"new", "item-007"} & set(ids[1])


def test_a_worker_changes_over_to_another_generation(host: Host, client: RetrievalClient) -> None:
    state = SharedState((TARGET, NEXT, "worker 0"))
    state.write(TARGET, {"serial": 1})
    swapper = HotSwapper(state, "worker 0", TrafficSplit(host.bundle), 1, _no_load, host.server.swap)
    swapper.start()
    host.feed.put("item-007")
    for n in range(20):
        host.write("new", {"text": f"{ZOO} {n}"}, {"name": str(n)})
    before = client.search(ZOO, k=300, min_sequence=21)
    assert before.hits[0].fields == {"name": "19"}
    host.encoder._writer.compact()
    served = host.server._servicer
    wait_until(lambda: served.split.champion is not host.bundle)
    live = served.split.champion.live
    assert live is not None
    assert live.segment.count == 1
    after = client.search(ZOO, k=300)
    assert after.sequence == 21
    assert differences([before], [after]) == []
    sequence = host.write("other", {"text": ZOO})
    assert client.search(ZOO, k=1, min_sequence=sequence).hits[0].id == "other"
    swapper.stop()


def test_a_swap_gives_what_it_brings_to_calls_that_follow_the_changes(host: Host) -> None:
    def page(frame: Frame) -> Frame:
        after, last = json.loads(frame.payload)["after"], host.feed.sequence()
        changes = [{"sequence": each} for each in range(after + 1, last + 1)]
        found = catalogue_pb2.ChangesResponse(sequence=last, changes=changes)
        return Frame(FrameKind.ANSWER, frame.number, last, found.SerializeToString())

    host.write("new", {"text": ZOO})
    bundle = LoadedBundle.load(host.folder).with_live(host.place)
    state = SharedState((CATALOGUE,))
    state.write(CATALOGUE, {})
    with closing(Channel()) as channel, closing(Answering(channel, page)):
        worker = StoreClient(channel)
        worker.start()
        with (
            RetrievalServer(bundle, catalogue=worker, shared_state=state) as server,
            RetrievalClient(server.address) as client,
            closing(client.changes(follow=True, timeout=20)) as stream,  # type: ignore[type-var]
        ):
            assert [each.sequence for each in next(stream).changes] == [1]
            wait_until(lambda: [each.is_idle for each in server._catalogue._streams] == [True])  # type: ignore[union-attr]
            host.encoder._writer.compact()
            host.write("other", {"text": ZOO})  # in a file that the bundle does not read
            server.swap(TrafficSplit(bundle.reopened()))
            assert [each.sequence for each in next(stream).changes] == [2]
        worker.stop()


def _no_load(folder: Path, version: str) -> LoadedBundle:
    raise AssertionError("no bundle is to be loaded")


def test_a_bundle_is_opened_as_soon_as_all_of_the_store_is_encoded_for_it(host: Host) -> None:
    sequence = host.feed.put("new", {"text": ZOO})
    with host.encoding_later(0.3):
        live = LiveItems.open(Retriever.load(host.folder), host.place)
        assert live.segment.sequence == sequence


def test_a_bundle_whose_live_items_are_not_encoded_is_not_opened(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_bundle, "STALL_SECONDS", 0.2)
    retriever = Retriever.load(host.folder)
    host.feed.put("new", {"text": ZOO})
    with pytest.raises(Unavailable, match="its live items were not encoded in"):
        LiveItems.open(retriever, host.place)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Unavailable, match="the service stops"):
        LiveItems.open(retriever, host.place, stop)


def test_items_that_cannot_be_applied_are_not_skipped(host: Host, client: RetrievalClient) -> None:
    item = EncodedItem(2, "other", EncodedKind.ITEM, b"", b"", b"abc")  # this is no vector
    host.write("new", {"text": ZOO})
    client.search(ZOO, k=1, min_sequence=1)
    host.feed.put("other", {"text": ZOO})
    host.encoder._writer.append([item], Position(2, 2))
    wait_until(lambda: host.encoder._writer.is_removed)
    host.feed.put("third", {"text": ZOO})
    changes = host.feed.page(2, 10, host.feed.position()).changes
    host.encoder._writer.append(host.encoder._encoded(changes), Position(3, 3))
    for _ in range(5):
        answer = client.search(ZOO, k=300)
        assert answer.sequence == 1
        assert not {"other", "third"} & {each.id for each in answer.hits}
    host.encode()
    assert not host.encoder._writer.is_removed
    live = host.bundle.reopened().live
    assert live is not None
    assert live.segment.sequence == 3
    assert live.segment.rows.keys() == {"new", "other", "third"}


def test_splits_of_traffic_have_the_least_sequence(host: Host) -> None:
    behind = LoadedBundle.load(host.folder)
    host.write("new", {"text": ZOO})
    ahead = replace(behind).with_live(host.place)
    assert ahead.sequence == 1
    assert TrafficSplit(ahead, behind, 0.5).sequence == 0
