"""The catalogue's process encodes the items of several bundles, whatever fails meanwhile."""

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.serving.live import copy_with_snapshot
from tests.helpers.waiting import wait_until
from twinspire.protos import bundle
from twinspire.protos.bundle import Snapshot
from twinspire.protos.errors import BundleError, Unavailable
from twinspire.serving.live.config import CatalogueConfig
from twinspire.serving.live.encoded_items import (
    EncodedItemsReader,
    EncodedItemsWriter,
    EncodedOrigin,
    folder_of,
    origin_of,
)
from twinspire.serving.live.encoding import bundle_encoders as module
from twinspire.serving.live.encoding import change_encoder as encoders
from twinspire.serving.live.encoding.bundle_encoders import BundleEncoders, HeadFeed, StoreHead
from twinspire.serving.live.encoding.change_encoder import ChangeEncoder
from twinspire.serving.live.process.catalogue_process import initial_catalogue_entry
from twinspire.serving.live.store.changes import FeedPage, Position
from twinspire.serving.live.store.store import Store
from twinspire.serving.live.store.write_rules import ItemWrite, WriteRequest
from twinspire.serving.segments.packed_items import EncodedKind
from twinspire.serving.shared_state import NEXT, TARGET, SharedState


class Host:
    """A store, the bundles that a service names, and what encodes their items."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder, self.place, self.url = folder, place, f"sqlite:///{place}/items.db"
        self.store = Store.open(self.url)
        self.head = StoreHead(self.store)
        self.feed = HeadFeed(self.head, lambda: self.store)
        self.state = SharedState((TARGET, NEXT))
        self.version = bundle.read_manifest(folder).bundle_version
        self.encoders = self.service()
        self.name(folder)

    @property
    def origin(self) -> EncodedOrigin:
        return origin_of(bundle.read_manifest(self.folder), self.store.store_id)

    @property
    def path(self) -> Path:
        return folder_of(self.place, self.origin)

    def service(self) -> BundleEncoders:
        """What the catalogue's process has."""
        return BundleEncoders(self.state, self.head, lambda: Store.open(self.url), self.place)

    def name(self, *folders: Path) -> None:
        """Let the service serve bundles: a champion, and a canary."""
        entries = [
            {"folder": str(each), "bundle_version": bundle.read_manifest(each).bundle_version}
            for each in folders
        ]
        self.state.write(TARGET, dict(zip(("champion", "canary"), entries, strict=False)))

    def put(self, *ids: str, text: str = "bavuti") -> int:
        """Write items in the store."""
        items = [ItemWrite(each, features=json.dumps({"text": text})) for each in ids]
        self.store.write([WriteRequest(items)])
        return self.store.sequence()

    def step(self, encoders: BundleEncoders | None = None) -> BundleEncoders:
        """One turn of the thread that commits."""
        encoders = encoders or self.encoders
        self.head.known = self.store.position()
        encoders.follow()
        return encoders

    def reaches(self, sequence: int, encoders: BundleEncoders | None = None) -> Callable[[], bool]:
        return lambda: self.step(encoders).sequence == sequence


@pytest.fixture
def host(plain: Path, tmp_path: Path) -> Iterator[Host]:
    host = Host(plain, tmp_path)
    with closing(host.store):
        yield host
        host.encoders.close()


def test_an_error_while_a_bundle_catches_up_is_told_and_the_next_attempt_succeeds(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence = host.put("a")
    run_once = ChangeEncoder.run_once

    def fails(encoder: ChangeEncoder, *arguments: Any) -> None:
        raise Unavailable("the store is away")

    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(ChangeEncoder, "run_once", fails)
    wait_until(lambda: host.step().error == "the store is away")
    host.put("b")
    monkeypatch.setattr(ChangeEncoder, "run_once", run_once)
    wait_until(host.reaches(sequence + 1))
    wait_until(lambda: host.step().error == "")  # it goes soon after the last change has been derived


def test_an_encoder_that_cannot_begin_leaves_the_items_to_others(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise OSError("no graph")

    with monkeypatch.context() as patch:
        patch.setattr(encoders, "GraphBuilder", fails)
        with pytest.raises(OSError, match="no graph"):
            ChangeEncoder(host.folder, host.feed, host.place)
    ChangeEncoder(host.folder, host.feed, host.place).close()


def test_items_of_a_store_that_was_restored_and_written_on_are_encoded_anew(host: Host) -> None:
    """Its sequence alone does not show that they are of changes that are lost."""
    wait_until(host.reaches(host.put("a")))
    with (
        closing(sqlite3.connect(host.place / "items.db")) as store,
        closing(sqlite3.connect(":memory:")) as kept,
    ):
        store.backup(kept)
        wait_until(host.reaches(host.put("b")))
        host.encoders.close()
        kept.backup(store)
    assert host.put("c", "d") == 3
    host.head.known = host.store.position()
    second = host.service()
    wait_until(host.reaches(3, second))
    second.close()
    reader, found = EncodedItemsReader(host.path, host.origin), list[str]()
    while reader.has_more:
        found += [each.item_id for each in reader.read()[0]]
    assert found == ["a", "c", "d"]


@pytest.mark.parametrize("is_other", [True, False])
def test_a_bundle_of_changes_that_the_store_never_made_is_refused_until_a_restart(
    host: Host, plain: Path, tmp_path: Path, is_other: bool
) -> None:
    host.put("a", "b")
    position = host.store.position()
    snapshot = Snapshot(host.store.store_id, 2, position.mark + is_other)
    host.name(copy_with_snapshot(plain, tmp_path / "bundles", snapshot))
    if not is_other:
        wait_until(host.reaches(2))
    else:
        wait_until(lambda: "built from sequence 2 of another history" in host.step().error)
    with ExitStack() as held:
        entry = initial_catalogue_entry(CatalogueConfig(host.url, host.place), snapshot, held, 0.0)
    assert (entry["store_id"] != host.store.store_id) is is_other


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            BundleError("/srv/bundles/a/manifest.json: is not one"),
            "the bundle or its encoded items cannot be used",
        ),
        (OSError(28, "No space left on device", "/srv/live/a"), "No space left on device"),
        (RuntimeError("/srv/bundles/a/item.onnx"), "the bundle or its encoded items cannot be used"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_clients_learn_no_path_of_what_cannot_be_encoded(
    host: Host, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fails(*arguments: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(module, "ChangeEncoder", fails)
    host.put("a")
    wait_until(lambda: host.step().error)
    assert host.encoders.error.partition(";")[0] == told


def test_old_items_that_cannot_be_removed_stop_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "prune", fails)
    wait_until(host.reaches(host.put("a")))


def test_only_items_that_nobody_uses_are_removed_with_all_that_belongs_to_them(
    host: Host, plain: Path, tmp_path: Path
) -> None:
    sequence = host.put("a")
    folders = [copy_with_snapshot(plain, tmp_path / "bundles", Snapshot(f"{n} store", 1)) for n in ("a", "b")]
    encoders = [ChangeEncoder(folder, host.feed, host.place) for folder in folders]
    paths = [each._writer.folder for each in encoders]
    for path, encoder in zip(paths, encoders, strict=True):
        encoder.close()
        for each in (path, *path.iterdir()):
            os.utime(each, (0, 0))
    host.name(host.folder, folders[1])
    wait_until(host.reaches(sequence))
    assert [each.exists() for each in paths] == [False, True]


def test_the_thread_that_commits_neither_encodes_a_damaged_file_anew_nor_removes_outdated_rows(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both may take longer than the supervisor waits for a heartbeat."""
    threads: dict[str, threading.Thread] = {}

    def noted(name: str) -> Callable[[EncodedItemsWriter], None]:
        method: Callable[[EncodedItemsWriter], None] = getattr(EncodedItemsWriter, name)

        def note(writer: EncodedItemsWriter) -> None:
            threads[name] = threading.current_thread()
            method(writer)

        return note

    wait_until(host.reaches(host.put("a")))
    for name in ("begin", "compact"):
        monkeypatch.setattr(EncodedItemsWriter, name, noted(name))
    monkeypatch.setattr(encoders, "OUTDATED", 0)
    EncodedItemsReader(host.path, host.origin).remove()
    wait_until(host.reaches(host.put("a", text="kelimo")))
    for n in range(3):
        wait_until(host.reaches(host.put("a", text=f"bavuti {n}")))
    wait_until(lambda: len(threads) == 2)
    assert {each.name for each in threads.values()} == {"encoder"}


def test_a_bundle_that_comes_back_waits_for_its_earlier_thread(
    host: Host, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads must not write the same items."""
    release, running, most = threading.Event(), list[int](), list[int]()
    run_once = ChangeEncoder.run_once

    def slow(encoder: ChangeEncoder, *arguments: Any) -> object:
        if encoder.manifest.bundle_version == host.version:
            running.append(1)
            most.append(len(running))
            release.wait(20)
            running.pop()
        return run_once(encoder, *arguments)

    monkeypatch.setattr(ChangeEncoder, "run_once", slow)
    sequence = host.put("a")
    host.step()
    wait_until(lambda: running)
    host.name(copy_with_snapshot(plain, tmp_path / "bundles", Snapshot("another", 1)))
    host.step()
    host.name(host.folder)
    host.step()
    assert most == [1]
    release.set()
    wait_until(host.reaches(sequence))
    assert set(most) == {1}


def test_a_bundle_that_is_gone_stops_nothing(
    host: Host, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the thread that commits nor a shutdown waits for a bundle with much to derive."""
    release, done = threading.Event(), []
    run_once = ChangeEncoder.run_once

    def slow(encoder: ChangeEncoder, *arguments: Any) -> object:
        if encoder.manifest.bundle_version == host.version:
            release.wait(20)
            done.append(1)
        return run_once(encoder, *arguments)

    monkeypatch.setattr(ChangeEncoder, "run_once", slow)
    sequence = host.put("a")
    host.step()
    host.name(copy_with_snapshot(plain, tmp_path / "bundles", Snapshot("another", 1)))
    wait_until(host.reaches(sequence))
    host.encoders.close(0.1)
    assert done == []
    release.set()
    host.encoders.close()
    assert done == [1]


def test_an_encoder_stops_between_two_pages(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "PAGE", 2)
    host.put(*"abcdefg")
    host.head.known = host.store.position()
    stop, page = threading.Event(), host.store.page

    def two_pages(after: int, limit: int, known: Position) -> FeedPage:
        if after == 2:
            stop.set()
        return page(after, limit, known)

    monkeypatch.setattr(host.store, "page", two_pages)
    encoder = ChangeEncoder(host.folder, host.feed, host.place, stop=stop)
    encoder.run_once(host.feed)
    assert (encoder.sequence, encoder._writer.cursor) == (0, 4)
    encoder.close()


def test_an_item_that_another_host_changes_again_meanwhile_is_encoded(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.put("a", "b")
    host.head.known = host.store.position()
    page, others = host.store.page, iter(["a", "c"])

    def page_after_a_write(after: int, limit: int, known: Position) -> FeedPage:
        if other := next(others, ""):
            host.put(other)
        return page(after, limit, known)

    monkeypatch.setattr(host.store, "page", page_after_a_write)
    with closing(ChangeEncoder(host.folder, host.feed, host.place)) as encoder:
        encoder.run_once(host.feed)
        assert (encoder.sequence, encoder._writer.items) == (3, 2)


def test_what_this_process_has_written_is_not_read_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_until(host.reaches(host.put("a")))
    asked: list[int] = []
    page = Store.page

    def noted(store: Store, after: int, limit: int, known: Position) -> FeedPage:
        asked.append(after)
        return page(store, after, limit, known)

    monkeypatch.setattr(Store, "page", noted)

    def write(*items: ItemWrite) -> None:
        host.store.write([WriteRequest([each]) for each in items])
        host.head.committed(host.store.last_write())
        host.encoders.follow()
        wait_until(lambda: host.encoders.sequence == host.store.sequence() == host.head.known.sequence)

    text = json.dumps({"text": "bavuti"})
    write(ItemWrite("b", features=text), ItemWrite("c", features=text), ItemWrite("b", features=text))
    write(ItemWrite("a", deleted=True))
    assert asked == []
    with closing(Store.open(host.url)) as other:  # another host, which this one has not noticed
        other.write([WriteRequest([ItemWrite("d", features=text), ItemWrite("c", deleted=True)])])
    write(ItemWrite("e", features=text))
    assert asked == [5]
    with closing(Store.open(host.url)) as other:
        other.write([WriteRequest([ItemWrite("f", features=text)])])
    write(ItemWrite("g", deleted=True, expected=99))  # nothing is written
    assert asked == [5, 8]
    monkeypatch.setattr(encoders, "PAGE", 2)
    write(*[ItemWrite(f"h-{n}", features=text) for n in range(5)])
    assert asked[2:] != []
    reader = EncodedItemsReader(host.path, host.origin)
    kinds: dict[str, EncodedKind] = {}
    while reader.has_more:
        kinds |= {each.item_id: each.kind for each in reader.read()[0]}
    gone = {name for name, kind in kinds.items() if kind is EncodedKind.DELETED}
    assert gone == {"a", "c"}
    assert kinds.keys() == {*"abcdef", *(f"h-{n}" for n in range(5))}


def test_what_is_encoded_is_not_known_before_the_file_is_open(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.put("a")
    wait_until(host.reaches(1))
    host.encoders.close()
    release, pages = threading.Event(), threading.Event()
    encoder, run_once = vars(encoders)["Encoder"], ChangeEncoder.run_once

    def slow_encoder(*arguments: Any) -> Any:
        release.wait(20)
        return encoder(*arguments)

    def slow(encoder: ChangeEncoder, *arguments: Any) -> object:
        pages.wait(20)
        return run_once(encoder, *arguments)

    monkeypatch.setattr(encoders, "Encoder", slow_encoder)
    monkeypatch.setattr(ChangeEncoder, "run_once", slow)
    host.put("b")
    host.encoders = host.service()
    assert (host.encoders.lowest_snapshot, host.encoders.sequence) == (None, None)
    wait_until(lambda: host.step().lowest_snapshot == 0)
    assert host.encoders.sequence is None
    release.set()
    wait_until(host.reaches(1))  # while it catches up
    pages.set()
    wait_until(host.reaches(2))
