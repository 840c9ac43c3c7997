"""A service whose store is backed up, written to, and restored: its answers are those of the restored store.

RESTORE_ROUNDS=20 .venv/bin/python -m pytest tests/serving/live/test_restore.py --log-cli-level INFO
"""

import logging
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.helpers.serving.cataloguing import ROOT, CatalogueService, catalogue_service, item
from tests.helpers.tiny import item_names
from tests.helpers.waiting import wait_until
from twinspire.serving.client import RetrievalClient
from twinspire.serving.client.items import Origin
from twinspire.serving.live.store.changes import Change
from twinspire.serving.live.store.store import Store
from twinspire.serving.live.store.write_rules import ItemWrite, WriteRequest

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.exhaustive, pytest.mark.quiet]

ROUNDS = int(os.environ.get("RESTORE_ROUNDS", "3"))
BUNDLE = [f"item-{n:03}" for n in range(300)]
NAMES = [*(f"live-{n}" for n in range(40)), *BUNDLE[:10]]
BACK_UP, RESTORE = re.findall(
    r"^```sh\n(.*?)^```",
    (ROOT / "serving" / "RUNBOOK.md")
    .read_text()
    .partition("### Back up and restore")[2]
    .partition("\n## ")[0],
    re.MULTILINE | re.DOTALL,
)


class Site:
    """A service, its store, and a copy of it."""

    def __init__(self, service: CatalogueService, folder: Path, seed: str) -> None:
        self.service, self.copy = service, folder / "copy.db"
        self.path = Path(service.url.removeprefix("sqlite:///"))
        self.random = random.Random(seed)
        self.written = 0

    def run(self, lines: str) -> None:
        """Run commands of the runbook, with the paths of this site."""
        for line in lines.splitlines():
            words = shlex.split(line)
            if words[0] == "systemctl":
                assert words[2] == "twinspire"
                self.service.stop() if words[1] == "stop" else self.service.start()
                continue
            line = line.replace("sqlite:////var/lib/twinspire/live/items.db", self.service.url)
            line = line.replace("/var/backups/twinspire/items.db", str(self.copy))
            words = shlex.split(line.replace("/opt/twinspire/bin/python", sys.executable))
            subprocess.run(words, cwd=ROOT, check=True, capture_output=True)

    def write(self, client: RetrievalClient) -> int:
        """Write or delete an item; returns the sequence."""
        self.written += 1
        name = self.random.choice(NAMES)
        if self.random.random() < 0.3:
            return client.delete([name]).sequence
        text = self.random.choice(["bavuti", "zozozo zozozo", item_names(300)[7]])
        return client.upsert([item(name, text, name=str(self.written))]).sequence

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write all the time; some writes come before the block, and some after it."""
        stop, failed = threading.Event(), list[BaseException]()

        def write() -> None:
            try:
                with self.service.client() as client:
                    while not stop.is_set():
                        self.write(client)
            except BaseException as error:
                failed.append(error)

        def go_on() -> None:
            more = self.written + self.random.randrange(1, 60)
            wait_until(lambda: self.written > more or failed)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            go_on()
            yield
            go_on()
        finally:
            stop.set()
            thread.join()
        assert not failed

    def differences(self) -> list[str]:
        """What each worker answers otherwise than the store says."""
        stored = self.service.stored()
        sequence = max(each.sequence for each in stored.values())
        found = []
        with ExitStack() as stack:
            clients: dict[int, RetrievalClient] = {}
            for _ in range(50):
                client = stack.enter_context(self.service.client())
                clients.setdefault(int(client.info().state["worker_pid"]), client)
                if len(clients) == 2:
                    break
            for client in clients.values():
                found += self._of_worker(client, stored, sequence)
        assert len(clients) == 2
        return found

    def _of_worker(self, client: RetrievalClient, stored: dict[str, Change], sequence: int) -> list[str]:
        answer = client.search("bavuti", k=1000, min_sequence=sequence)
        shown = {hit.id: hit.fields.get("name") for hit in answer.hits}
        expected = {each: shown.get(each) for each in BUNDLE if each not in stored}
        expected |= {name: each.fields["name"] for name, each in stored.items() if not each.deleted}
        found = [f"search: {each}" for each in shown.items() ^ expected.items()]
        names = [*{*NAMES, *stored}]
        for state in client.get(names):
            change = stored.get(state.item.id)
            found_here = state.sequence, state.origin is Origin.DELETED, state.item.fields
            wanted = (
                (change.sequence, change.deleted, change.fields) if change else (0, False, state.item.fields)
            )
            found += [f"get: {state}"] if found_here != wanted else []
        return found

    def store_id(self) -> str:
        """As the clients that follow its changes learn it."""
        with self.service.client() as client:
            return next(iter(client.changes(after=0))).store_id

    def new_writes(self) -> list[str]:
        """New writes that are not found, and deletes that are not seen, with the sequence of the answer."""
        found = []
        for n in range(6):
            with self.service.client() as client, self.service.client() as other:
                name = f"new-{self.written}-{n}"
                sequence = client.upsert([item(name, name=name)]).sequence
                for each in (client, other):
                    hits = {hit.id for hit in each.search("bavuti", k=1000, min_sequence=sequence).hits}
                    found += [] if name in hits else [f"{name} is not found"]
                sequence = client.delete([name]).sequence
                for each in (client, other):
                    hits = {hit.id for hit in each.search("bavuti", k=1000, min_sequence=sequence).hits}
                    found += [f"{name} is found"] if name in hits else []
        return found


def by_the_runbook(site: Site) -> None:
    site.run(RESTORE)


def by_copying_the_file(site: Site) -> None:
    site.service.stop(site.random.choice([signal.SIGTERM, signal.SIGKILL]))
    for path in site.path.parent.glob("items.db-*"):
        path.unlink()
    shutil.copy(site.copy, site.path)
    site.service.start()


def by_copying_the_file_and_writing_elsewhere(site: Site) -> None:
    """As on another host, until the store ends with the same item and sequence as before."""
    site.service.stop()
    last = max(site.service.stored().values(), key=lambda each: each.sequence)
    for path in site.path.parent.glob("items.db-*"):
        path.unlink()
    shutil.copy(site.copy, site.path)
    with closing(Store.open(site.service.url)) as store:
        while (sequence := store.sequence()) < last.sequence:
            name = last.item_id if sequence + 1 == last.sequence else f"elsewhere-{sequence % 30}"
            write = ItemWrite(name, features='{"text": "bavuti"}', fields='{"name": "elsewhere"}')
            store.write([WriteRequest([write])])
    site.service.start()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "restore", [by_the_runbook, by_copying_the_file, by_copying_the_file_and_writing_elsewhere]
)
def test_answers_are_those_of_the_store_after_each_restore(
    plain: Path, tmp_path: Path, restore: Callable[[Site], None]
) -> None:
    url, cache = f"sqlite:///{tmp_path}/items.db", tmp_path / "cache"
    differences: list[str] = []
    with catalogue_service(plain, url, tmp_path / "service", TWINSPIRE_CACHE=str(cache)) as service:
        site = Site(service, tmp_path, restore.__name__)
        for turn in range(ROUNDS):
            with site.writing():
                site.run(BACK_UP)
            differences += [f"before restore {turn}: {each}" for each in site.differences()]
            before = site.store_id()
            restore(site)
            assert site.store_id() != before
            differences += [f"after restore {turn}: {each}" for each in site.differences()]
            differences += [f"restore {turn}: {each}" for each in site.new_writes()]
    text = "%s: %d restores, %d random writes, %d differences"
    log.info(text, restore.__name__, ROUNDS, site.written, len(differences))
    assert differences == []
