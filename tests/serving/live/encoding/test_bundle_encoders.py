"""The catalogue's process encodes the items of several bundles, whatever fails meanwhile."""

import json
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
    EncodedOrigin,
    folder_of,
    origin_of,
)
from twinspire.serving.live.encoding import bundle_encoders as module
from twinspire.serving.live.encoding.bundle_encoders import BundleEncoders, ChangeEncoder
from twinspire.serving.live.process.catalogue_process import initial_catalogue_entry
from twinspire.serving.live.store.records import ItemWrite, WriteRequest
from twinspire.serving.live.store.store import Store
from twinspire.serving.shared_state import NEXT, TARGET, SharedState


class Host:
    """A store, the bundles that a service names, and what encodes their items."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder, self.place, self.url = folder, place, f"sqlite:///{place}/items.db"
        self.store = Store.open(self.url)
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
        return BundleEncoders(
            self.state, self.store.store_id, lambda: Store.open(self.url, create=False), self.place
        )

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
        encoders.follow(self.store.position())
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


def test_only_items_of_no_bundle_in_use_are_removed(
    host: Host, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 0)
    sequence = host.put("a")
    folders = [copy_with_snapshot(plain, tmp_path / "bundles", Snapshot(f"{n} store", 1)) for n in ("a", "b")]
    encoders = [ChangeEncoder(folder, host.store, host.place) for folder in folders]
    paths = [each._writer.folder for each in encoders]
    for each in encoders:
        each.close()
    host.name(host.folder, folders[1])
    wait_until(host.reaches(sequence))
    assert [each.exists() for each in paths] == [False, True]


def test_the_thread_that_commits_neither_encodes_a_damaged_file_anew_nor_adds_rows_to_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows would be lost, and the writer told that they can be found."""
    monkeypatch.setattr(module, "POLL_SECONDS", 60.0)  # the thread does not see the damage before the commit
    wait_until(host.reaches(host.put("a")))
    removed = list[bool]()
    encode = ChangeEncoder.encode

    def noted(encoder: ChangeEncoder, *arguments: Any) -> int:
        removed.append(encoder.is_removed)
        return encode(encoder, *arguments)

    monkeypatch.setattr(ChangeEncoder, "encode", noted)
    sequence = host.put("b")
    EncodedItemsReader(host.path, host.origin).remove()
    wait_until(host.reaches(sequence))
    items, _ = EncodedItemsReader(host.path, host.origin).read()
    assert [each.item_id for each in items] == ["a", "b"]
    assert True not in removed


def hold_back(host: Host, monkeypatch: pytest.MonkeyPatch, wait: Callable[[], None]) -> None:
    """Let the encoder of the first bundle wait before it derives."""
    run_once = ChangeEncoder.run_once

    def slow(encoder: ChangeEncoder, *arguments: Any) -> object:
        if encoder.manifest.bundle_version == host.version:
            wait()
        return run_once(encoder, *arguments)

    monkeypatch.setattr(ChangeEncoder, "run_once", slow)


def test_a_bundle_that_comes_back_waits_for_its_earlier_thread(
    host: Host, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads must not write the same items."""
    release, running, most = threading.Event(), list[int](), list[int]()

    def wait() -> None:
        running.append(1)
        most.append(len(running))
        release.wait(20)
        running.pop()

    hold_back(host, monkeypatch, wait)
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

    def wait() -> None:
        release.wait(20)
        done.append(1)

    hold_back(host, monkeypatch, wait)
    sequence = host.put("a")
    host.step()
    host.name(copy_with_snapshot(plain, tmp_path / "bundles", Snapshot("another", 1)))
    wait_until(host.reaches(sequence))
    host.encoders.close(0.1)
    assert done == []
    release.set()
    host.encoders.close()
    assert done == [1]
