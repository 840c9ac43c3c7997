"""Models change under live items: swap, canary, shadow, rollback and killed processes lose no write."""

import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers import tables
from tests.helpers.serving.cataloguing import CatalogueService, catalogue_service
from tests.helpers.serving.faulty import NAME, TwoBundles
from tests.helpers.tiny import SYLLABLES, random_texts, tiny_bundle
from tests.helpers.waiting import wait_until
from twinspire.protos.errors import Unavailable
from twinspire.serving.client import Item, RetrievalClient

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.exhaustive, pytest.mark.timeout(300)]

CHALLENGER = f"models:/{NAME}@challenger"
CHECKS = 300  # searches between two changes
WRITES = 20  # likewise
PAUSE = 0.01  # seconds after each search and write: other tests need the processor, too


class Traffic:
    """One thread writes, others read what was written; each item has its own text.

    Attributes:
        wrong: what was found that must not have been.
        checked: searches that were checked.
        written: writes that were acknowledged.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._live: dict[str, tuple[str, int]] = {}  # item id -> text and sequence of its last write
        self._gone: dict[str, tuple[str, int]] = {}
        self._busy: set[str] = set()  # items that are being written
        self._stopped = threading.Event()
        self.wrong: list[str] = []
        self.checked = self.written = 0
        self.versions: set[str] = set()
        self._threads = [threading.Thread(target=self._write, daemon=True)]
        self._threads += [threading.Thread(target=self._read, args=(n,), daemon=True) for n in range(3)]

    def start(self) -> None:
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        self._stopped.set()
        for each in self._threads:
            each.join(30)

    def _write(self) -> None:
        draw = random.Random(0)
        client = RetrievalClient(self._address, timeout=30)
        while not self._stopped.is_set():
            item_id = (
                f"item-{draw.randrange(100):03}" if draw.random() < 0.3 else f"new-{draw.randrange(300)}"
            )
            text = "".join(draw.choices(SYLLABLES, k=15))
            is_delete = draw.random() < 0.3
            with self._lock:
                self._busy.add(item_id)
            try:
                if is_delete:
                    written = client.delete([item_id])
                else:
                    written = client.upsert([Item(item_id, {"text": text}, {"name": text})])
            except Unavailable:  # its process was killed; the item is as it was, or as it should be
                continue
            with self._lock:
                old = self._live.pop(item_id, None)
                self._gone.pop(item_id, None)
                if is_delete:
                    self._gone[item_id] = (old[0] if old else text), written.sequence
                else:
                    self._live[item_id] = text, written.sequence
                self._busy.discard(item_id)
                self.written += 1
            time.sleep(PAUSE)
        client.close()

    def _read(self, seed: int) -> None:
        draw = random.Random(seed)
        while not self._stopped.is_set():
            with RetrievalClient(self._address, timeout=30) as client:  # some other worker each time
                for _ in range(20):
                    self._check(client, draw)
                    time.sleep(PAUSE)

    def _check(self, client: RetrievalClient, draw: random.Random) -> None:
        with self._lock:
            known = [*self._live.items(), *self._gone.items()]
            known = [each for each in known if each[0] not in self._busy]
            if not known:
                return
            item_id, (text, sequence) = draw.choice(known)
            is_live = item_id in self._live
        try:
            answer = client.search(text, k=10, min_sequence=sequence)
        except Unavailable:  # a worker was killed
            return
        with self._lock:
            now = self._live.get(item_id) or self._gone.get(item_id)
            if item_id in self._busy or now != (text, sequence):
                return  # written again meanwhile
            ids = [hit.id for hit in answer.hits]
            shown = {hit.id: hit.fields.get("name") for hit in answer.hits}
            self.checked += 1
            self.versions.add(answer.bundle_version[:12])
            what = f"{item_id} at {sequence}, answer {ids} at {answer.sequence}"
            if len(set(ids)) != 10:
                self.wrong.append(f"not ten different items: {what}")
            if answer.sequence < sequence:
                self.wrong.append(f"too early: {what}")
            if is_live and shown.get(item_id) != text:
                self.wrong.append(f"not found, or an old version: {what}")
            if not is_live and item_id in ids:
                self.wrong.append(f"found although it was deleted: {what}")


class Scene(TwoBundles):
    """A registry, a service that takes writes, and its traffic."""

    def __init__(self, folder: Path, empty_store: Path) -> None:
        super().__init__(folder, empty_store, "--catalogue", f"sqlite:///{folder}/items.db")
        self.traffic = Traffic(self.service.told["address"])

    def goes_on(self, *versions: Path) -> None:
        """Wait for more traffic, with right answers, from each of these bundles."""
        with self.traffic._lock:
            self.traffic.versions.clear()
            before, written_before = self.traffic.checked, self.traffic.written
        asked = {each.name for each in versions}

        def is_enough() -> bool:
            assert self.traffic.wrong == [], self.service.log()[-3000:]
            is_written = self.traffic.written > written_before + WRITES
            return is_written and self.traffic.checked > before + CHECKS and self.traffic.versions >= asked

        wait_until(is_enough, 90, lambda: (self.traffic.versions, self.service.log()[-3000:]))


@pytest.fixture
def scene(tmp_path: Path, empty_store: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, empty_store)
    made.traffic.start()
    try:
        yield made
    finally:
        made.traffic.stop()
        made.close()


def test_models_change_under_live_items(scene: Scene) -> None:
    service, (first, second) = scene.service, scene.bundles
    scene.goes_on(first)
    scene.versions.point("2", "challenger")
    wait_until(lambda: len(service.state()["bundles"]) == 2, 90, service.log)
    scene.goes_on(first, second)
    wait_until(lambda: not service.state()["shadow"]["last_error"], 60, service.log)
    wait_until(lambda: service.state()["shadow"]["queries"] > 20, 60, lambda: service.state()["shadow"])
    assert service.state()["shadow"]["errors"] == 0
    scene.versions.point("2")
    wait_until(lambda: service.served() == "2", 90, service.log)
    scene.goes_on(second)
    scene.versions.point("1")  # a rollback
    wait_until(lambda: service.served() == "1", 90, service.log)
    scene.goes_on(first)
    state = service.state()
    assert state["following"]["failures"] == 0
    assert state["catalogue"]["worker_sequence"] > 100


def test_killed_processes_lose_no_write(scene: Scene) -> None:
    service, (first, second) = scene.service, scene.bundles
    draw = random.Random(0)
    scene.goes_on(first)
    for turn in range(6):
        children = psutil.Process(service.process.pid).children()
        draw.choice(children).send_signal(signal.SIGKILL)
        if turn == 2:
            scene.versions.point("2")
        scene.goes_on()
    wait_until(lambda: service.served() == "2", 90, service.log)
    scene.goes_on(second)


def test_a_restart_finds_ten_thousand_live_items(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "made")
    texts = random_texts(10_000, seed=0)
    with catalogue_service(folder, f"sqlite:///{tmp_path}/items.db", tmp_path / "service") as service:
        empty = _restart_seconds(service)
        with service.client() as client:
            for start in range(0, len(texts), 500):
                client.upsert([Item(f"new-{n}", {"text": texts[n]}) for n in range(start, start + 500)])
        full = _restart_seconds(service)
        with service.client() as client:
            found = client.search_batch(random.Random(0).sample(texts, 200), k=1)
            # Texts with the same letters have the same vector.
            assert sum(each.hits[0].score > 0.99999 for each in found) >= 198
            assert found[0].sequence == 10_000
    tables.add("restart", f"without live items {empty:.2f} s, with 10,000 {full:.2f} s")


def _restart_seconds(service: CatalogueService) -> float:
    started = time.monotonic()
    service.stop()
    service.start()
    return time.monotonic() - started
