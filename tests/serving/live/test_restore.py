"""A service whose store is backed up, written to, and restored: it answers from the restored store."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers.serving.cataloguing import FAR, ROOT, CatalogueService, catalogue_service, item
from twinspire.serving.client.items import Origin
from twinspire.serving.live.store.records import ItemWrite, WriteRequest
from twinspire.serving.live.store.store import Store

pytestmark = [pytest.mark.exhaustive, pytest.mark.quiet]

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

    def __init__(self, service: CatalogueService, folder: Path) -> None:
        self.service, self.copy = service, folder / "copy.db"
        self.path = Path(service.url.removeprefix("sqlite:///"))

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

    def put_copy(self) -> None:
        for path in self.path.parent.glob("items.db-*"):
            path.unlink()
        shutil.copy(self.copy, self.path)

    def store_id(self) -> str:
        """As the clients that follow its changes learn it."""
        with self.service.client() as client:
            return next(iter(client.changes(after=0))).store_id

    def check(self, sequence: int) -> None:
        """Compare what several connections, to either worker, find with what the store holds."""
        stored = self.service.stored()
        live = {name for name, each in stored.items() if not each.deleted}
        bundle = {f"item-{n:03}" for n in range(300)}
        for _ in range(8):
            with self.service.client() as client:
                hits = client.search("bavuti", k=1000, min_sequence=sequence).hits
                assert {hit.id for hit in hits} == (bundle - stored.keys()) | live
                shown = {hit.id: hit.fields.get("name") for hit in hits if hit.id in live}
                assert shown == {name: stored[name].fields["name"] for name in live}
                for state in client.get([*stored]):
                    change = stored[state.item.id]
                    assert (state.sequence, state.origin is Origin.DELETED) == (
                        change.sequence,
                        change.deleted,
                    )


def by_the_runbook(site: Site) -> None:
    site.run(RESTORE)


def by_copying_the_file(site: Site) -> None:
    site.service.stop(signal.SIGKILL)
    site.put_copy()
    site.service.start()


def by_copying_the_file_and_writing_elsewhere(site: Site) -> None:
    """As on another host, until the store ends with the same item and sequence as before."""
    site.service.stop()
    last = max(site.service.stored().values(), key=lambda each: each.sequence)
    site.put_copy()
    with closing(Store.open(site.service.url)) as store:
        while (sequence := store.sequence()) < last.sequence:
            name = last.item_id if sequence + 1 == last.sequence else f"elsewhere-{sequence}"
            write = ItemWrite(name, features='{"text": "bavuti"}', fields='{"name": "elsewhere"}')
            store.write([WriteRequest([write])])
    site.service.start()


@pytest.mark.parametrize(
    "restore", [by_the_runbook, by_copying_the_file, by_copying_the_file_and_writing_elsewhere]
)
def test_answers_are_those_of_the_store_after_a_restore(
    plain: Path, tmp_path: Path, restore: Callable[[Site], None]
) -> None:
    url, cache = f"sqlite:///{tmp_path}/items.db", tmp_path / "cache"
    with catalogue_service(plain, url, tmp_path / "service", TWINSPIRE_CACHE=str(cache)) as service:
        site = Site(service, tmp_path)
        with service.client() as client:
            client.upsert([item(f"live-{n}", name="1") for n in range(9)])
            client.delete(["item-001", "live-0"])
            site.run(BACK_UP)
            client.upsert([item(name, FAR, name="2") for name in ("live-0", "live-1", "item-002", "later")])
            site.check(client.delete(["live-2", "item-001"]).sequence)
        before = site.store_id()
        restore(site)
        assert site.store_id() != before
        site.check(11)
        with service.client() as client:
            site.check(client.upsert([item("live-1", name="3"), item("new", name="3")]).sequence)
            site.check(client.delete(["new"]).sequence)
