"""Writes and searches, while processes are killed and bundles are swapped, rolled back and refreshed.

The processes that are killed with SIGKILL are, in turns, the one that owns the store and encodes, and a
worker. All answers are checked afterwards, and the catalogue is compared with the writes.
"""

import contextlib
import json
import math
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.load import alias
from tests.load.live import history
from tests.load.live.items import ItemMaker, shared_ids
from tests.load.live.traffic import Operations, Traffic
from tests.load.load import Say
from tests.load.services import START_SECONDS, STEP_SECONDS, Service, wait_for
from twinspire.protos import bundle, entry_points
from twinspire.protos.errors import DataError, MissingStage, Unavailable
from twinspire.serving.client import RetrievalClient
from twinspire.serving.client.items import Origin
from twinspire.serving.rollout.bundle_cache import BUNDLES
from twinspire.serving.rollout.registry import store_file, store_uri

# Share and maximum number of the bundle's items that are replaced and deleted: few, because a refresh is
# judged by their new texts.
BASE_SHARE, MAX_BASE = 0.1, 300
WORKERS = 2  # of each service
WRITES = 20  # acknowledged between two kills or swaps, at least
ITEMS = 2000  # different ids that are written, beside those of the bundles
FEW_ITEMS = 15  # the same for several services, which shall change the same items at the same time


@dataclass(frozen=True)
class HistoryOptions:
    """A history test."""

    operations: int = 100_000  # writes and searches in all
    kills: int = 20  # of processes, spread evenly over them
    services: int = 1  # with one catalogue and one registry, each with files of its own
    url: str = ""  # of the store; for several services PostgreSQL's. Else SQLite in a temporary folder
    config: Path | None = None  # TOML of the bundles' experiment, by which their champion is refreshed
    threads: int = 12  # one in three writes, the others search
    seed: int = 0  # of all random choices


def run(folders: Sequence[Path], options: HistoryOptions, place: Path, say: Say) -> dict[str, Any]:
    """Run the test with two bundles; `place` is an empty folder, for the registry and the services' files.

    Returns:
        Figures: each of `history.VIOLATIONS`, 0 where all is well, and what was done.
    """
    manifest = bundle.read(folders[0])
    url = options.url or f"sqlite:///{place}/items.db"
    base_ids = shared_ids(folders, MAX_BASE, BASE_SHARE)
    maker = ItemMaker(manifest, options.seed)
    name = manifest.name
    if options.config is not None:
        _copy_runs(place / "registry")
    with alias.registry(place / "registry", folders, name) as registry, contextlib.ExitStack() as stack:
        flags = "--catalogue", url
        started = (
            alias.follow(place / "registry", place / f"cache-{n}", WORKERS, *flags, name=name)
            for n in range(options.services)
        )
        services = [stack.enter_context(each) for each in started]
        operations = Operations(options.operations)
        addresses = [each.address for each in services]
        items = ITEMS if options.services == 1 else FEW_ITEMS
        traffic = Traffic(addresses, maker, base_ids, operations, options.threads, items, options.seed)
        begun = time.perf_counter()
        with traffic:
            refresh = partial(_refresh, options.config, place, url, traffic) if options.config else None
            done = _disturb(traffic, services, registry, folders, refresh, options, say)
        seconds = time.perf_counter() - begun
        traffic.check()
        say("comparing the catalogue with the writes")
        stored = _stored(addresses[-1], maker)
    say(f"checking {len(traffic.seen):,} answers")
    verdict = history.check(traffic.writes, traffic.seen, manifest.count - len(base_ids))
    history.check_last(verdict, traffic.writes, stored)
    return {
        **{name: verdict.found[name] for name in history.VIOLATIONS},
        "own_first_share": verdict.own_first / verdict.own if verdict.own else None,
        "own_found_share": 1 - verdict.found[history.MISSED] / verdict.own if verdict.own else None,
        "operations": operations.done,
        "writes": len(traffic.writes),
        "answers": verdict.answers,
        "failed_tries": operations.failed_tries,
        "items_at_end": sum(stamp is not None for _, stamp in stored.values()),
        **done,
        "services": options.services,
        "store": "postgresql" if url.startswith("postgresql") else "sqlite",
        "seconds": round(seconds, 1),
        "versions_seen": len(traffic.versions),
        "violations": dict(verdict.examples),
    }


def _disturb(
    traffic: Traffic,
    services: Sequence[Service],
    registry: Service,
    folders: Sequence[Path],
    refresh: Callable[[], str] | None,
    options: HistoryOptions,
    say: Say,
) -> dict[str, int]:
    """Kill and swap as the operations go on, until all are done; returns what was done, by name."""
    names = [bundle.read_manifest(each).bundle_version for each in folders]
    killed: list[int] = []
    done = {"kills_catalogue": 0, "kills_worker": 0, "swaps": 0, "rollbacks": 0, "refreshes": 0}

    def kill(number: int) -> None:
        address = services[number % len(services)].address
        kind = "catalogue" if number // len(services) % 2 == 0 else "worker"

        def pid() -> int | None:
            with contextlib.suppress(Unavailable), RetrievalClient(address) as client:
                state = client.info().state
                found = int(state["worker_pid"] if kind == "worker" else state["catalogue"]["pid"])
                return None if found in killed else found  # until it was replaced, the state names it
            return None

        killed.append(wait_for(pid, f"{address}: no {kind} process"))
        os.kill(killed[-1], signal.SIGKILL)
        done[f"kills_{kind}"] += 1

    def moved(version: int) -> str:
        registry.ask(version)
        return names[version - 1]

    def change(kind: str, move: Callable[[], str]) -> None:
        """Make another version the champion, and wait until all services serve it."""
        version = move()
        for each in services:
            alias.wait_served(each, WORKERS, version, traffic.check)
        done[kind] += 1

    def go_on(share: float) -> None:
        """Wait for this part of all operations, and for some writes since the last step."""
        writes = len(traffic.writes) + WRITES
        while traffic.is_running and (
            traffic.operations.done < share * options.operations or len(traffic.writes) < writes
        ):
            say(f"{traffic.operations.done:,} of {options.operations:,} operations")
            time.sleep(STEP_SECONDS)

    # To the other bundle, rolled back, and to the other bundle again: each place is a part of all operations.
    steps: list[tuple[float, str, Callable[[], None]]] = [
        (0.2, "a swap", partial(change, "swaps", partial(moved, 2))),
        (0.45, "a rollback", partial(change, "rollbacks", partial(moved, 1))),
        (0.7, "a swap", partial(change, "swaps", partial(moved, 2))),
    ]
    steps += [(0.8, "a refresh", partial(change, "refreshes", refresh))] if refresh else []
    for n in range(options.kills):
        steps.append(((n + 0.5) / options.kills, f"kill {n + 1} of {options.kills}", partial(kill, n)))
    for share, what, step in sorted(steps, key=lambda each: each[0]):
        go_on(share)
        traffic.check()
        say(what)
        step()
    traffic.operations.release()
    go_on(math.inf)
    return done


def _copy_runs(folder: Path) -> None:
    """Copy the tracking store, whose runs hold the trained towers: a gate of the refresh compares with them.

    Raises:
        MissingStage: it is no SQLite file, or is missing.
    """
    uri = store_uri()
    path = store_file(uri)
    if path is None:
        raise MissingStage(f"--config: the runs of the bundles are copied from an SQLite file, {uri} is none")
    folder.mkdir()
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(folder / "mlflow.db")) as target:
        source.backup(target)


def _refresh(config: Path, place: Path, url: str, traffic: Traffic) -> str:
    """Refresh the champion while the traffic goes on; returns the version of the new bundle.

    Raises:
        DataError: it is not refreshed; the message has the end of the log.
    """
    cache = place / "refresh-cache"
    cache.mkdir()
    if BUNDLES.parent.joinpath("data").exists():  # what was read of the data set stays where it is
        (cache / "data").symlink_to(BUNDLES.parent.absolute() / "data")
    arguments = ("refresh", "--json", "--config", str(config.absolute()), "--catalogue", url)
    with (place / "refresh.log").open("w") as log, (place / "refresh.json").open("w") as output:
        command = entry_points.command(entry_points.EXPORT, *arguments)
        variables = {**os.environ, **alias.variables(place / "registry", cache)}
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=log)
        try:
            while process.poll() is None:
                traffic.check()
                time.sleep(STEP_SECONDS)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        raise DataError(f"the refresh failed: {(place / 'refresh.log').read_text()[-2000:]}")
    found = json.loads((place / "refresh.json").read_text())
    if not found["refreshed"]:
        raise DataError("the refresh found nothing to do")
    return str(found["bundle_version"])


def _stored(address: str, maker: ItemMaker) -> dict[str, tuple[int, str | None]]:
    """The store's items as `history.check_last` takes them."""
    found: dict[str, tuple[int, str | None]] = {}
    with RetrievalClient(address) as client:
        for page in client.changes(timeout=START_SECONDS):
            for each in page.changes:
                is_deleted = each.origin is Origin.DELETED
                found[each.item.id] = each.sequence, None if is_deleted else maker.stamp(each.item.fields)
    return found
