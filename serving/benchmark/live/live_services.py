"""The services of a live test, and what its parts do with them."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from protos import bundle
from protos.errors import Unavailable
from serving.benchmark import alias
from serving.benchmark.services import Cores, Service, serve_alias, started
from serving.client import RetrievalClient
from serving.retrieval.catalogue import Catalogue
from serving.transport.limits import WorkerLimits

WORKERS = 2  # of a service that follows an alias
POLL = 0.5  # seconds between its requests to the registry
SWAP_SECONDS = 120.0  # longest swap, and longest time until a killed process is there again
STEP_SECONDS = 0.02
CALL_SECONDS = 60.0
MOST_SHARE = 0.5  # of a bundle's items that are deleted at most

Say = Callable[[str], None]


def followed(
    registry: Path, cache: Path, url: str, name: str = alias.NAME
) -> AbstractContextManager[Service]:
    """A service that follows the alias of the test's registry and takes writes; see `services.started`.

    Args:
        registry: folder of the registry.
        cache: folder for bundles and what is derived from the store.
        url: of the store.
        name: of the registered model.
    """
    return serve_alias(alias.model(name), alias.store(registry), cache, POLL, WORKERS, "--catalogue", url)


@contextlib.contextmanager
def served(folder: Path, place: Path, cores: Cores, url: str = "") -> Iterator[Service]:
    """A service with one worker and one bundle, on the core of servers.

    Args:
        folder: of the bundle.
        place: for what it derives.
        cores: of the test.
        url: of its store; without one it takes no writes.
    """
    flags = ["--bundle", str(folder), "--workers", "1", "--port", "0", "--json"]
    flags += ["--connections-per-address", str(WorkerLimits().connections)]  # all clients have one address
    flags += ["--catalogue", url] if url else []
    variables = {"TWINSPIRE_CACHE": str(place / "cache")}
    with started("serve", "serving", "serve", *flags, cores=cores.servers, environment=variables) as service:
        yield service


@contextlib.contextmanager
def writing(service: Service, folder: Path, cores: Cores, seed: int) -> Iterator[Service]:
    """The process that writes to a service (see `writer.py`), on the core of the load."""
    arguments = (service.address, str(folder.absolute()), str(seed))
    with started("writer", "serving.benchmark.live.writer", *arguments, cores=cores.load) as process:
        yield process


def ask(process: Service, name: str, *values: Any, seconds: float = SWAP_SECONDS) -> Any:
    """The answer of a writer to a command, for which it has `seconds`."""
    process.send(name, *values)
    return process.answer(seconds)


def wait_served(service: Service, version: str, check: Callable[[], None] = lambda: None) -> None:
    """Wait until a bundle is the champion of each worker of a service, and no other waits to be.

    Args:
        service: that follows an alias.
        version: of the bundle.
        check: called between two looks; may raise.

    Raises:
        Unavailable: it takes too long.
    """
    until, pids = time.monotonic() + SWAP_SECONDS, set[int]()
    while len(pids) < WORKERS:  # each connection is to some worker
        if time.monotonic() > until:
            raise Unavailable(f"{service.address}: a swap takes longer than {SWAP_SECONDS:g} s")
        check()
        with contextlib.suppress(Unavailable), RetrievalClient(service.address) as client:
            info = client.info()
            if info.bundle_version == version and not info.state["following"].get("candidate"):
                pids.add(int(info.state["worker_pid"]))
                continue
        time.sleep(STEP_SECONDS)


def shared_ids(folders: Sequence[Path], most: int, share: float = MOST_SHARE) -> list[str]:
    """Ids of items that all bundles hold, evenly spread: up to `most`, and up to a share of them."""
    catalogues = [Catalogue(each, bundle.read_manifest(each)).ids for each in folders]
    both = sorted(set.intersection(*map(set, catalogues)))
    count = min(most, int(share * len(both)))
    return both[:: max(1, len(both) // max(1, count))][:count]
