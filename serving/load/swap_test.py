"""`python -m serving swaptest`: bundles are swapped under load, and every answer is looked at.

It makes a registry, starts the service on an alias of it, and moves the alias to and fro while clients ask.
Then it swaps on under light load, and compares the service's memory with what it was before.
"""

import gc
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos import bundle
from protos.bundle import Manifest
from protos.errors import DataError, InvalidInput, MissingStage, Unavailable
from protos.scores import Hits, is_bounded
from serving import bundles, command, varied
from serving.client import RetrievalClient
from serving.command import Misuse, Result
from serving.load import alias, content, services, swap_plot, swap_report, swap_table, swapping
from serving.load.alias import Alias
from serving.load.content import Content
from serving.load.measured import Requests
from serving.load.progress import progress
from serving.load.report import machine
from serving.load.services import Service
from serving.load.swap_clients import Clients
from serving.load.swapping import Done, Schedule
from serving.load.versions import Versions
from serving.retriever import Retriever

K = 10
POLL = 0.5  # seconds between the service's looks at the registry
LIGHT_CLIENTS, LIGHT_PAUSE = 8, 0.05  # of the load while memory is measured
QUICK = 5.0  # seconds of a swap, for the progress bar
READY = 120.0  # seconds until the service has looked at the registry for the first time
SETTLED, READINGS, LONGEST_WAIT = 0.005, 4, 20.0  # memory is: part that readings differ by, how many, seconds
MIB = 2**20


@dataclass(frozen=True)
class _Test:
    """What is tested, and with what."""

    folders: Sequence[Path]
    manifests: Sequence[Manifest]
    requests: Requests
    versions: Versions
    arguments: Namespace
    say: Callable[[str], None]
    tick: Callable[[float], None]

    @property
    def names(self) -> list[str]:
        """The versions of the bundles."""
        return [each.bundle_version for each in self.manifests]

    def clients(self, count: int, pause: float = 0.0) -> Clients:
        """So many that ask."""
        return Clients(self.requests, self.versions, count, pause)


def run(arguments: Namespace) -> Result:
    """Do what the arguments say.

    Raises:
        DataError: a request failed, or an answer mixed two bundles; the report has been shown. Or the
            answers of a bundle cannot be compared.
        Misuse: the two bundles are one.
        MissingStage: there are no two bundles.
        Unavailable: the service does not come up, or does not take a bundle.
    """
    folders = pair(arguments.bundle or bundles.BUNDLES, arguments.other)
    manifests = [bundle.read(each) for each in folders]
    asked = varied.of_bundle(manifests[0], seed=0)
    versions = Versions([each.bundle_version for each in manifests], _expected(folders, asked))
    if not versions.telling:
        raise MissingStage("the two bundles answer every query alike, so that nobody could tell them apart")
    gc.collect()  # what is left of the bundles here
    requests = Content(asked, K, None).searches()
    light = max(0, _all_swaps(arguments) - arguments.swaps)
    with progress(arguments.seconds + 3 * swapping.WARM_UP + QUICK * light) as (say, tick):
        report, done = _measure(_Test(folders, manifests, requests, versions, arguments, say, tick))
    report["distinct_queries"], report["telling_queries"] = len(asked), versions.telling
    place = arguments.plot or bundles.BUNDLES.parent / "loadtest" / f"swap-{manifests[0].name}.png"
    windows = swap_report.windows(done.swaps, done.start)
    report["plot"] = str(swap_plot.save(report, swap_report.series(done), windows, place))
    result: Result = report, lambda console: swap_table.show(console, report)
    if report["failed"] or report["mixed"]:
        command.show(result, arguments.json)
        raise DataError(
            f"{report['failed']} requests failed, and {report['mixed']} answers mixed two bundles"
        )
    return result


def pair(path: Path, other: Path | None) -> tuple[Path, Path]:
    """The bundles to swap.

    Args:
        path: a bundle, or a folder whose newest is taken.
        other: likewise; if not given, the newest other bundle of the same model beside the first.

    Raises:
        Misuse: both are the same.
        MissingStage: there is none, or no second.
    """
    first = bundles.newest(path)
    if other is not None:
        second = bundles.newest(other)
        if bundle.read_manifest(first).bundle_version == bundle.read_manifest(second).bundle_version:
            raise Misuse("--other: is the same bundle")
        return first, second
    name, folder = bundle.read_manifest(first).name, first.absolute().parent
    manifests = [each for each in folder.glob(f"[!.]*/{bundle.MANIFEST}") if each.parent.name != first.name]
    for each in sorted(manifests, key=lambda each: each.stat().st_mtime_ns, reverse=True):
        if bundle.read_manifest(each.parent).name == name:
            return first, each.parent
    raise MissingStage(
        f"{folder}: holds one bundle of {name}; for a second train again, with another seed or fewer epochs "
        "in the CONFIG of `make train export`, or name one with --other"
    )


def _expected(folders: Sequence[Path], asked: Sequence[Any]) -> list[list[Hits]]:
    """What each bundle finds for each query."""
    found = []
    for folder in folders:
        retriever = Retriever.load(folder)
        if not is_bounded(retriever.manifest):
            raise DataError(
                f"{folder}: the query tower computes in int8, so scores depend on the batch; "
                "expected a bundle whose answers can be compared"
            )
        try:
            found.append(content.expected(retriever, asked, K))
        except InvalidInput as error:
            raise DataError(f"{folder}: cannot be asked what the other bundle can: {error}") from None
    return found


def _measure(test: _Test) -> tuple[dict[str, Any], Done]:
    arguments = test.arguments
    with tempfile.TemporaryDirectory(prefix="swaptest-") as place:
        folder = Path(place)
        test.say("making a registry")
        with (
            alias.registry(folder, test.folders) as moved,
            services.following(
                alias.MODEL, moved.store, folder / "cache", None, POLL, arguments.workers
            ) as server,
        ):
            workers = _ready(test, server, moved)
            start = settled(server)
            test.say(f"{arguments.clients} clients, {arguments.swaps} swaps")
            clients = test.clients(arguments.clients, arguments.pause)
            schedule = Schedule(arguments.seconds, arguments.swaps)
            done = swapping.run(server.address, clients, moved, test.names, schedule, test.tick)
            quick, each = _quick(test, server, moved)
            end = settled(server)
    failed = done.seen.failed + quick.seen.failed
    report = {
        "failed": failed.total(),
        "mixed": test.versions.mixed,
        "swaps": len(done.swaps),
        **swap_report.latency_figures(done),
        **swap_report.swap_figures(done),
        "requests": done.seen.requests + quick.seen.requests,
        "seconds": round(done.stop - done.start, 2),
        "memory_ratio": round(end / start, 4),
        "memory_start_mib": round(start / MIB, 1),
        "memory_end_mib": round(end / MIB, 1),
        "memory_swaps": len(done.swaps) + len(quick.swaps),
        "memory_after_swaps_mib": [round(value / MIB, 1) for value in each],
        "versions": test.names,
        "workers": workers,
        "clients": arguments.clients,
        "pause_seconds": arguments.pause,
        "errors": dict(failed),
        "mixed_first": test.versions.first,
        "machine": machine(),
    }
    return {**report, "targets_missed": swap_report.missed(report)}, done


def _ready(test: _Test, server: Service, moved: Alias) -> int:
    """Wait until the service has looked at the registry, and put load on it once; gives its workers."""
    test.say("warming up")
    until = time.monotonic() + READY
    with RetrievalClient(server.address) as client:
        while not (state := client.info().state)["following"].get("next_check"):
            if time.monotonic() > until:
                raise Unavailable(f"the service has not asked the registry after {READY:g} s")
            time.sleep(0.1)
    clients = test.clients(test.arguments.clients)
    done = swapping.run(server.address, clients, moved, test.names, Schedule(swapping.WARM_UP, 0, 0.0))
    if done.seen.failed:
        raise Unavailable(f"the service fails before anything is swapped: {clients.failures()}")
    test.tick(swapping.WARM_UP)
    return int(state["workers"])


def _quick(test: _Test, server: Service, moved: Alias) -> tuple[Done, list[int]]:
    """The swaps that are left, under light load, and the memory after each."""
    left = max(0, _all_swaps(test.arguments) - test.arguments.swaps)
    after: list[int] = []

    def swapped() -> None:
        after.append(server.memory())
        test.say(f"light load, {len(after)} of {left} swaps")
        test.tick(QUICK)

    test.say(f"light load, {left} swaps")
    schedule = Schedule(0.01 * left, left, 0.5, test.arguments.swaps % 2)
    clients = test.clients(LIGHT_CLIENTS, LIGHT_PAUSE)
    return swapping.run(server.address, clients, moved, test.names, schedule, swapped=swapped), after


def _all_swaps(arguments: Namespace) -> int:
    """Swaps under load and after it: as many as are asked for, and back to the first bundle."""
    count = max(arguments.swaps, arguments.memory_swaps)
    return int(count + count % 2)


def settled(server: Service) -> int:
    """Bytes of the service's memory, once they do not change any more."""
    until = time.monotonic() + LONGEST_WAIT
    readings: list[int] = []
    while time.monotonic() < until:
        readings = [*readings[-READINGS + 1 :], server.memory()]
        if len(readings) == READINGS and max(readings) - min(readings) <= SETTLED * readings[-1]:
            break
        time.sleep(0.5)
    return readings[-1]
