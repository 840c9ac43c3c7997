"""`python -m tests.load swaptest`: swap two bundles under load, and compare every answer.

The test creates a registry, starts the service on an alias, and moves the alias to and fro under load. Then
it compares the service's memory with the memory before.
"""

import gc
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers import query_generator
from tests.helpers.scores import Hits, difference
from tests.load import alias, measure_swap
from tests.load.cli.steps import result_or_failure
from tests.load.load import Requests
from tests.load.measure_swap import WARM_UP, Schedule, SwapClients, Versions, expecting
from tests.load.plan import missed
from tests.load.report import machine_text, progress
from tests.load.services import Service
from tests.load.workload import Workload, expected_answers
from twinspire.protos import bundle
from twinspire.protos.cli import Result, UsageError
from twinspire.protos.errors import DataError, InvalidInput, MissingStage, Unavailable
from twinspire.serving import bundles
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.rollout.bundle_cache import BUNDLES

K = 10
READY_SECONDS = 120.0  # longest wait for the service's first request to the registry
# Memory has settled where this many readings differ by no more than this share; longest wait in seconds.
READINGS, SETTLED, SETTLE_SECONDS = 4, 0.005, 20.0
MIB = 2**20


@dataclass(frozen=True)
class _Test:
    """The parameters that all steps of the test share."""

    folders: Sequence[Path]
    names: Sequence[str]  # versions of the bundles
    requests: Requests
    versions: Versions
    arguments: Namespace
    say: Callable[[str], None]
    tick: Callable[[], None]

    def clients(self) -> SwapClients:
        return SwapClients(self.requests, self.versions, self.arguments.clients)


def run(arguments: Namespace) -> Result:
    """Run the swap test.

    Raises:
        DataError: a request failed, or an answer mixed two bundles; the report has been shown. Or the
            answers of a bundle cannot be compared.
        UsageError: both bundles are the same.
        MissingStage: there are no two bundles.
        Unavailable: the service does not start, or does not load a bundle.
    """
    folders = pair(arguments.bundle or BUNDLES, arguments.other)
    manifests = [bundle.read(each) for each in folders]
    queries = query_generator.of_bundle(manifests[0], seed=0)
    names = [each.bundle_version for each in manifests]
    expected = _expected(folders, queries)
    versions = Versions(names, [*map(expecting, expected)])
    telling = sum(bool(difference(*hits)) for hits in zip(*expected, strict=True))
    if not telling:  # only these queries can reveal a mixture
        raise MissingStage("both bundles give the same answers to all queries, so a mixture cannot be seen")
    gc.collect()  # frees the bundles that were loaded here
    requests = Workload(queries, K, None).searches()
    with progress(arguments.seconds + 3 * WARM_UP) as (say, tick):
        report = _measure(_Test(folders, names, requests, versions, arguments, say, tick))
    report["distinct_queries"], report["telling_queries"] = len(queries), telling
    result: Result = report, lambda console: measure_swap.show(console, report)
    fault = ""
    if report["failed"] or report["mixed"]:
        fault = f"{report['failed']} requests failed, and {report['mixed']} answers mixed two bundles"
    return result_or_failure(result, arguments, fault)


def pair(path: Path, other: Path | None) -> tuple[Path, Path]:
    """The bundles to swap.

    Args:
        path: a bundle, or a folder whose newest is taken.
        other: likewise; if not given, the newest other bundle of the same model in the first one's folder.

    Raises:
        UsageError: both are the same.
        MissingStage: there is none, or no second.
    """
    first = bundles.newest(path)
    if other is not None:
        second = bundles.newest(other)
        if bundle.read_manifest(first).bundle_version == bundle.read_manifest(second).bundle_version:
            raise UsageError("--other: is the same bundle")
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


def _expected(folders: Sequence[Path], queries: Sequence[Query]) -> list[list[Hits]]:
    found = []
    for folder in folders:
        retriever = Retriever.load(folder)
        try:
            found.append(expected_answers(retriever, queries, K))
        except InvalidInput as error:
            raise DataError(f"{folder}: refuses a query of the other bundle: {error}") from None
    return found


def _measure(test: _Test) -> dict[str, Any]:
    arguments = test.arguments
    with tempfile.TemporaryDirectory(prefix="swaptest-") as place:
        folder = Path(place)
        test.say("creating a registry")
        with (
            alias.registry(folder, test.folders) as moved,
            alias.follow(folder, folder / "cache", arguments.workers) as server,
        ):
            workers = _warm_up(test, server, moved)
            start = settled(server)
            test.say(f"{arguments.clients} clients, {arguments.swaps} swaps")
            schedule = Schedule(arguments.seconds, arguments.swaps)
            done = measure_swap.run(server.address, test.clients(), moved, schedule, test.tick)
            end = settled(server)
    report = {
        "failed": done.failed.total(),
        "mixed": test.versions.mixed,
        "swaps": len(done.swaps),
        **measure_swap.latency_figures(done),
        **measure_swap.swap_figures(done),
        "requests": done.requests,
        "seconds": round(done.stop - done.start, 2),
        "memory_ratio": round(end / start, 4),
        "memory_start_mib": round(start / MIB, 1),
        "memory_end_mib": round(end / MIB, 1),
        "versions": list(test.names),
        "workers": workers,
        "clients": arguments.clients,
        "errors": dict(done.failed),
        "mixed_first": test.versions.first,
        "machine": machine_text(),
    }
    return {**report, "targets_missed": missed(measure_swap.TARGETS, report)}


def _warm_up(test: _Test, server: Service, moved: Service) -> int:
    """Wait for the service's first request to the registry, and put load on it; returns its workers."""
    test.say("warming up")
    until = time.monotonic() + READY_SECONDS
    with RetrievalClient(server.address) as client:
        while not (state := client.info().state)["following"].get("next_check"):
            if time.monotonic() > until:
                raise Unavailable(f"the service has not asked the registry after {READY_SECONDS:g} s")
            time.sleep(0.1)
    clients = test.clients()
    done = measure_swap.run(server.address, clients, moved, Schedule(WARM_UP, 0, 0.0))
    if done.failed:
        raise Unavailable(f"the service fails before the first swap: {clients.failures()}")
    return int(state["workers"])


def settled(server: Service) -> int:
    """Bytes of the service's memory once its readings no longer change."""
    until = time.monotonic() + SETTLE_SECONDS
    readings: list[int] = []
    while time.monotonic() < until:
        readings = [*readings[-READINGS + 1 :], server.memory()]
        if len(readings) == READINGS and max(readings) - min(readings) <= SETTLED * readings[-1]:
            break
        time.sleep(0.5)
    return readings[-1]
