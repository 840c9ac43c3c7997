"""The catalogue's process, in a thread of the test: what it answers to the frames of a worker."""

import json
import pickle
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from tests.helpers.waiting import wait_until
from twinspire.protos import bundle
from twinspire.protos import catalogue_pb2 as wire
from twinspire.protos.errors import ConfigError, Overloaded, TwinspireError, Unavailable
from twinspire.serving.live.config import CatalogueConfig
from twinspire.serving.live.encoding import bundle_encoders as encoders
from twinspire.serving.live.process import catalogue_process as processes
from twinspire.serving.live.process.catalogue_process import CatalogueProcess, initial_catalogue_entry
from twinspire.serving.live.process.frames import Channel, Frame, FrameKind, StoreClient
from twinspire.serving.live.store.records import ItemWrite, WriteRequest
from twinspire.serving.live.store.store import Store
from twinspire.serving.shared_state import CATALOGUE, NEXT, TARGET, SharedState
from twinspire.serving.supervisor import Heartbeat, WorkerHandle


class Handle:
    """What the supervisor gives a process."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def ready(self) -> None:
        """The process works."""

    def stop_event(self) -> threading.Event:
        return self.stopped


class Running:
    """A process, and one worker."""

    def __init__(
        self,
        folder: Path,
        place: Path,
        bounds: dict[str, int],
        entry: dict[str, Any] | None = None,
        grace: float = 0.0,
    ) -> None:
        url = f"sqlite:///{place}/items.db"
        config = CatalogueConfig(url, place, bounds)
        self.state = SharedState((TARGET, NEXT, CATALOGUE))
        self.held = ExitStack()
        self.state.write(CATALOGUE, entry or initial_catalogue_entry(config, None, self.held, grace))
        version = bundle.read_manifest(folder).bundle_version
        self.state.write(TARGET, {"champion": {"folder": str(folder), "bundle_version": version}})
        self.channel, self.handle = Channel(), Handle()
        self.beats = Heartbeat()
        self.process = CatalogueProcess(config, self.channel, self.state, 5.0, self.beats)
        self._thread = threading.Thread(target=self.process.run, args=[cast(WorkerHandle, self.handle)])
        self._thread.start()
        self.client = StoreClient(self.channel)
        self.client.start()

    def stop(self) -> None:
        self.handle.stopped.set()
        self.client.stop()
        self._thread.join()
        self.channel.close()
        self.held.close()

    @property
    def derived(self) -> int:
        return int(self.state.read(CATALOGUE).get("encoded", 0))

    @property
    def stored(self) -> int:
        return int(self.state.read(CATALOGUE)["sequence"])

    def ask(self, kind: FrameKind, payload: bytes, items: int = 0) -> "Asked":
        """Send a request."""
        asked = Asked()
        self.client.ask(kind, payload, asked.replies.put, items=items)
        return asked

    def send(self, *ids: str, text: object = "bavuti", **request: Any) -> "Asked":
        """Send items."""
        items = [ItemWrite(each, features=json.dumps({"text": text})) for each in ids]
        return self.ask(FrameKind.WRITE, pickle.dumps(WriteRequest(items, **request)), len(ids))

    def write(self, *ids: str, **request: Any) -> wire.WriteResponse:
        """Write items; errors as of `Asked.reply`."""
        return self.send(*ids, **request).written


class Asked:
    """A request, and its reply."""

    def __init__(self) -> None:
        self.replies: queue.Queue[Frame | TwinspireError] = queue.Queue()

    def reply(self) -> Frame:
        """The answer.

        Raises:
            TwinspireError: as the worker gets it.
        """
        reply = self.replies.get(timeout=20)
        if isinstance(reply, TwinspireError):
            raise reply
        return reply

    @property
    def written(self) -> wire.WriteResponse:
        return wire.WriteResponse.FromString(self.reply().payload)


@contextmanager
def running(
    folder: Path, place: Path, entry: dict[str, Any] | None = None, **bounds: int
) -> Iterator[Running]:
    """A process of a service that begins; with an entry, one that takes another's place."""
    process = Running(folder, place, bounds, entry)
    try:
        yield process
    finally:
        process.stop()


def test_a_restarted_process_takes_writes_before_it_has_opened_the_records(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither bound holds for a number that is not known yet."""
    with running(plain, tmp_path, max_lag=5) as process:
        process.write(*[f"a-{n}" for n in range(10)])
        wait_until(lambda: process.derived == 10)
    release, encoder = threading.Event(), vars(encoders)["Encoder"]

    def slow(*arguments: Any) -> Any:
        release.wait(20)
        return encoder(*arguments)

    monkeypatch.setattr(encoders, "Encoder", slow)
    with running(plain, tmp_path) as process:
        asked = process.send("b")
        wait_until(lambda: process.stored == 11)
        release.set()
        assert asked.written.sequence == 11
        wait_until(lambda: process.derived == 11)


def held_back(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let every encoder wait for the event before it derives."""
    release, run_once = threading.Event(), encoders.ChangeEncoder.run_once

    def slow(encoder: encoders.ChangeEncoder, *arguments: Any) -> object:
        release.wait(20)
        return run_once(encoder, *arguments)

    monkeypatch.setattr(encoders.ChangeEncoder, "run_once", slow)
    return release


def test_writes_are_refused_while_encoding_is_far_behind(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = held_back(monkeypatch)
    expected = "encoding is at sequence 0, 6 behind the store, at most 5"
    with running(plain, tmp_path, max_lag=5) as process:
        asked = process.send(*"abcdef")
        wait_until(lambda: process.stored == 6)
        wait_until(lambda: process.process._encoders and process.process._encoders.sequence == 0)
        with pytest.raises(Overloaded, match=expected):
            process.write("g")
        release.set()
        assert asked.written.sequence == 6
        process.write("g")


def test_a_writer_is_told_what_cannot_be_encoded_also_later_and_by_another_process(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [(wire.WRITE_NOT_ENCODED, "features.text: expected a string, got int")]

    def told(written: wire.WriteResponse) -> list[tuple[int, str]]:
        return [(each.error, each.error_text) for each in written.results]

    release = held_back(monkeypatch)
    with running(plain, tmp_path) as process:
        asked = process.send("bad", text=7, request_id="one")  # while the bundle catches up
        wait_until(lambda: process.stored == 1)
        release.set()
        assert told(asked.written) == expected
        assert told(process.write("good")) == [(wire.WRITE_OK, "")]
    with running(plain, tmp_path) as process:
        repeated = process.write("bad", text=7, request_id="one")
        assert repeated.repeated_request
        assert told(repeated) == expected


def test_one_service_of_a_host_uses_a_store(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LOCK_SECONDS", 0.1)
    with running(plain, tmp_path) as process:
        process.write("a")
        expected = "another service of this host encodes the items .* was killed has not ended yet"
        with pytest.raises(ConfigError, match=expected):
            Running(plain, tmp_path, {})
        later = threading.Timer(0.5, process.held.close)
        later.start()
        Running(plain, tmp_path, {}, grace=60.0).stop()  # it waits for a service that finishes its requests
        later.join()
    with running(plain, tmp_path) as process:
        assert process.write("b").sequence == 2


def test_a_write_is_not_committed_after_its_deadline(plain: Path, tmp_path: Path) -> None:
    with running(plain, tmp_path) as process:
        process.write("a")
        with closing(sqlite3.connect(tmp_path / "items.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            late = process.send("late", deadline=time.monotonic() + 0.2)
            good = process.send("good", deadline=time.monotonic() + 60)
            time.sleep(0.4)  # both wait for the other transaction
            other.execute("COMMIT")
        with pytest.raises(Unavailable, match="deadline has passed, so nothing was written"):
            late.reply()
        assert good.written.sequence == 2
        assert process.write("b").sequence == 3


def test_writes_of_several_clients_share_a_transaction_and_one_alone_does_not_wait(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GROUP_ITEMS", 3)
    with running(plain, tmp_path) as process:
        for n in range(3):
            process.write(f"alone-{n}")
        assert process.process._commits == 3
        is_taken, commit = threading.Event(), process.process._commit

        def wait(*given: Any) -> Any:
            is_taken.set()
            return commit(*given)

        monkeypatch.setattr(process.process, "_commit", wait)
        with closing(sqlite3.connect(tmp_path / "items.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asked = [process.send("a")]
            assert is_taken.wait(20)
            asked += [process.send(each) for each in "bcde"]
            wait_until(lambda: process.process._writes.qsize() == 4)
            other.execute("COMMIT")
        assert [each.written.sequence for each in asked] == [4, 5, 6, 7, 8]
        assert process.process._commits == 6


def test_items_are_counted_again_only_after_a_change(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "COUNT_SECONDS", 0.0)
    monkeypatch.setattr(processes, "COUNT_REST", 0)
    count, counted = Store.count, list[int]()

    def noted(store: Store, after: int) -> tuple[int, int]:
        counted.append(after)
        return count(store, after)

    monkeypatch.setattr(Store, "count", noted)
    with running(plain, tmp_path) as process:
        for n in (1, 2):
            process.write(f"item-{n}")
            wait_until(lambda n=n: process.state.read(CATALOGUE)["live_items"] == n)  # type: ignore[misc]
        before = len(counted)
        beats = process.beats.count()
        wait_until(lambda: process.beats.count() > beats + 2)
        assert len(counted) == before <= 3


GET = json.dumps({"ids": ["a"], "bytes": 4_000_000}).encode()


def test_a_process_that_begins_with_another_store_never_takes_it_up(plain: Path, tmp_path: Path) -> None:
    error = "the catalogue's URL leads to another store than before"
    with running(plain, tmp_path) as process:
        process.write("a")
        entry = {name: process.state.read(CATALOGUE)[name] for name in ("sequence", "mark")}
    with running(plain, tmp_path, {**entry, "store_id": "another"}) as process:
        with pytest.raises(Unavailable, match=error):
            process.write("d")
        assert error in process.state.read(CATALOGUE)["dropped"]
        process.process._due = 0.0  # the time of the next attempt has come
        with pytest.raises(Unavailable, match=error):
            process.write("d")


@pytest.mark.parametrize("finds_out", ["a write", "a look for changes"])
def test_a_store_that_goes_back_and_is_written_to_elsewhere_is_not_used(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finds_out: str
) -> None:
    """Its sequence is higher than before, and yet it lacks changes that this process has acknowledged."""
    error = "the catalogue's store has another history than before up to sequence 3"
    with running(plain, tmp_path) as process:
        process.write("a")
        with (
            closing(sqlite3.connect(tmp_path / "items.db", isolation_level=None)) as store,
            closing(sqlite3.connect(":memory:")) as kept,
            monkeypatch.context() as patch,
        ):
            store.backup(kept)
            process.write("b", "c")
            patch.setattr(CatalogueProcess, "_follow", lambda *arguments: None)
            kept.backup(store)
            with closing(Store.open(f"sqlite:///{tmp_path}/items.db")) as other:  # another host
                text = '{"text": "bavuti"}'
                other.write([WriteRequest([ItemWrite(each, features=text) for each in "efgh"])])
            with pytest.raises(Unavailable, match=error):
                process.ask(FrameKind.GET, GET).reply()
            if finds_out == "a write":
                with pytest.raises(Unavailable, match=error):
                    process.write("d")
        wait_until(lambda: error in process.state.read(CATALOGUE).get("dropped", ""))
        with pytest.raises(Unavailable, match=error):
            process.write("d")
        entry = process.state.read(CATALOGUE)
        assert entry["sequence"] == 3
    with running(plain, tmp_path, entry) as process:  # one that takes its place
        with pytest.raises(Unavailable, match=error):
            process.write("d")
        with pytest.raises(Unavailable, match=error):
            process.ask(FrameKind.GET, GET).reply()
    with running(plain, tmp_path) as process:
        wait_until(lambda: process.derived == 5)
        assert process.write("d").sequence == 6


def test_a_write_that_fails_is_refused_and_neither_stops_the_process_nor_other_writes(
    plain: Path, tmp_path: Path
) -> None:
    with running(plain, tmp_path) as process:
        process.write("a")
        with closing(sqlite3.connect(tmp_path / "items.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            process.send("b")
            time.sleep(0.3)  # and the others become one group
            good = process.send("c")
            broken = process.ask(FrameKind.WRITE, b"no request", 1)
            # A half of a surrogate pair is no text that SQLite could store.
            bad = process.send("d", request_id="\ud800")
            last = process.send("e")
            other.execute("COMMIT")
        for each in (broken, bad):
            with pytest.raises(TwinspireError) as error:
                each.reply()
            assert type(error.value) is TwinspireError
            assert str(error.value).startswith("the write has failed, and nothing was written")
        assert (good.written.sequence, last.written.sequence) == (3, 4)
        assert process.write("f").sequence == 5


def test_the_heart_beats_and_writes_are_committed_while_much_is_encoded(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = held_back(monkeypatch)
    with running(plain, tmp_path) as process:
        asked = [process.send("a")]
        wait_until(lambda: process.stored == 1)
        before = process.beats.count()
        asked.append(process.send("b"))
        wait_until(lambda: process.stored == 2)
        wait_until(lambda: process.beats.count() > before + 2)
        assert all(each.replies.empty() for each in asked)
        release.set()
        assert [each.written.sequence for each in asked] == [1, 2]
