"""A service with a store, as a process: its clients, its processes, and what its store of items holds."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from twinspire.serving.client import Item, RetrievalClient
from twinspire.serving.live.store.records import Change
from twinspire.serving.live.store.store import Store

ROOT = Path(__file__).parents[3]
FAR = "zozozo zozozo xexexe"  # a text that no item of a tiny bundle has


@dataclass
class CatalogueService:
    """`python -m twinspire.serving serve --catalogue`, or `--events`, with two workers.

    Args:
        bundle: that it serves.
        url: of its store.
        folder: for its port and its log.
        flags: more of its command line.
        variables: more of its environment.
        store: the flag that takes the URL.
    """

    bundle: Path
    url: str
    folder: Path
    flags: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    store: str = "--catalogue"
    process: "subprocess.Popen[bytes] | None" = None
    port: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self, seconds: float = 60.0) -> None:
        """Start it, and wait until it answers."""
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        arguments = ["--bundle", str(self.bundle), "--port", str(self.port), "--port-file", str(port_file)]
        arguments += ["--workers", "2", "--grace", "3", self.store, self.url, *self.flags]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "twinspire.serving", "serve", *arguments],
                cwd=ROOT,
                env={**os.environ, **self.variables},
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + seconds
        while not port_file.exists():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            time.sleep(0.02)
        self.port = int(port_file.read_text())

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it, and all that it has started; its exit code."""
        if self.process is None:
            return 0
        children = psutil.Process(self.process.pid).children() if self.process.poll() is None else []
        self.process.send_signal(number)
        code = int(self.process.wait(30))
        _, alive = psutil.wait_procs(children, 20)  # after SIGKILL they end by themselves
        assert not alive
        self.process = None
        return code

    def client(self, timeout: float = 20.0) -> RetrievalClient:
        """A client, and so a connection to one of the workers."""
        return RetrievalClient(self.address, timeout)

    def store_pid(self) -> int:
        """The id of the process that owns the store: the child that is no worker."""
        assert self.process is not None
        children = {child.pid for child in psutil.Process(self.process.pid).children()}
        (pid,) = children - self.worker_pids()
        return int(pid)

    def worker_pids(self) -> set[int]:
        found: set[int] = set()
        until = time.monotonic() + 30
        while len(found) < 2 and time.monotonic() < until:
            with self.client() as client:
                found.add(int(client.info().state["worker_pid"]))
        return found

    def stored(self) -> dict[str, Change]:
        """What the store holds, read beside the service."""
        with closing(Store.open(self.url)) as store:
            return {each.item_id: each for each in store.page(0, 10**7).changes}


@contextmanager
def catalogue_service(
    bundle: Path, url: str, folder: Path, *flags: str, store: str = "--catalogue", **variables: str
) -> Iterator[CatalogueService]:
    """A running service; it is killed at the end, if it has not been stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    service = CatalogueService(bundle, url, folder, flags, variables, store)
    service.start()
    try:
        yield service
    finally:
        if service.process is not None:
            service.stop(signal.SIGKILL)


def item(item_id: str, text: str = "bavuti", **fields: str) -> Item:
    return Item(item_id, {"text": text}, fields)


def first(client: RetrievalClient, text: str, sequence: int = 0) -> str:
    """The id of the first hit of a search that sees all changes up to a sequence."""
    return client.search(text, k=1, min_sequence=sequence).hits[0].id
