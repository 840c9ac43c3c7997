"""Throughput with live items and while they are written, and the times of writes.

Services with the same bundle and one worker each, on one core, are put under load in turns: without a
catalogue, with few live items, and with many. Each ratio is of one round, in which all were measured. For the
writes the service, its writers and the load share both cores, as on a machine with two.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from protos import bundle
from serving.benchmark import query_generator
from serving.benchmark.live.live_services import Say, ask, served, shared_ids, writing
from serving.benchmark.load import LoadResult, Requests, Tick, closed_loop
from serving.benchmark.report import Figures, rounded
from serving.benchmark.services import Cores, CoreSet, Service, choose_cores, pinned
from serving.benchmark.workload import Workload

CLIENTS = 64
K = 10
LIVE = {"few": (1_000, 1_000), "many": (10_000, 5_000)}  # live items, and deleted items of the bundle
UPSERTS_PER_S = 200.0  # during the search load, single items
SINGLE_PER_S = 20.0  # of single items without other load
BATCH = 100
WRITER_THREADS, BATCH_THREADS = 8, 2
SPARE_SECONDS = 60.0  # beyond those that writes last by plan
SINGLE_SECONDS = 3.0  # in a round; at 20 a second 60 calls


@dataclass(frozen=True)
class LoadOptions:
    """A load test.

    Args:
        rounds: repetitions of all measurements.
        seconds: of each in a round.
        seed: of the queries and the items.
        live: live items of the services, by name, and deletes: those of at most half of the bundle's items.
    """

    rounds: int = 7
    seconds: float = 2.0
    seed: int = 0
    live: Mapping[str, tuple[int, int]] = field(default_factory=lambda: LIVE)


def run(folder: Path, options: LoadOptions, place: Path, say: Say, tick: Tick) -> dict[str, Any]:
    """Run the test.

    Args:
        folder: of a bundle.
        options: of the test.
        place: an empty folder, for the services' files.
        say: receives what is being measured.
        tick: called during measurements.

    Returns:
        Figures, with `_min` and `_max` of the rounds.

    Raises:
        Unavailable: a service did not start, or a write failed.
        MissingStage: the bundle has no example queries.
    """
    cores, live = choose_cores(), options.live
    queries = query_generator.of_bundle(bundle.read_manifest(folder), options.seed)
    requests = Workload(queries, K, None).searches()
    figures = Figures()
    with contextlib.ExitStack() as stack:
        urls = {name: f"sqlite:///{place.absolute()}/{name}.db" for name in live}
        services = {
            name: stack.enter_context(served(folder, place / name, cores, urls.get(name, "")))
            for name in ("none", *live)
        }
        writers = {
            name: stack.enter_context(writing(services[name], folder, cores, options.seed)) for name in live
        }
        for name, (items, deletes) in live.items():
            deleted = shared_ids([folder], deletes)
            say(f"writing {items:,} live items and {len(deleted):,} deletes")
            ask(writers[name], "fill", items)
            ask(writers[name], "delete", deleted)
            figures.add(**{f"{name}_live_items": float(items), f"{name}_deletes": float(len(deleted))})
        test = _Round(services, writers, requests, cores, options, live, figures, tick)
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}: {CLIENTS} clients")
            test.searches(number)
            say(f"round {number + 1} of {options.rounds}: searches while items are written")
            test.while_writing(number)
            say(f"round {number + 1} of {options.rounds}: writes alone")
            test.writes()
    for name in live:
        figures.divide(f"rps_share_with_{name}", f"{name}_rps", "none_rps")
    figures.divide("rps_share_while_writing", "writing_rps", "not_writing_rps")
    figures.divide("p99_ratio_while_writing", "writing_p99_us", "not_writing_p99_us")
    return figures.document() | {
        "visible_p50_ms": rounded(_percentile(test.singles, 50)),
        "visible_p99_ms": rounded(_percentile(test.singles, 99)),
        "visible_calls": len(test.singles),
        "load_errors": test.errors.total(),
        "pinned": cores.note or "one core for a service, one for the load",
    }


@dataclass(frozen=True)
class _Round:
    """Measures everything once."""

    services: Mapping[str, Service]
    writers: Mapping[str, Service]
    requests: Requests
    cores: Cores
    options: LoadOptions
    live: Mapping[str, tuple[int, int]]
    figures: Figures
    tick: Tick
    singles: list[float] = field(default_factory=list)  # seconds of the writes of single items
    errors: Counter[str] = field(default_factory=Counter)  # failed searches by gRPC code

    def searches(self, number: int) -> None:
        """The closed loops, in another order each time."""
        names = [*self.services]
        names = names[number % len(names) :] + names[: number % len(names)]
        for name in names:
            with pinned(self.cores.load):
                self.figures.add_calls(name, self._load(self.services[name], number))

    def while_writing(self, number: int) -> None:
        """The closed loop with and without writes, on both cores, in turns."""
        name = next(iter(self.live))
        service, process = self.services[name], self.writers[name]
        with contextlib.ExitStack() as stack:
            for each in (service, process):
                stack.enter_context(_moved(each, self.cores.both))
            stack.enter_context(pinned(self.cores.both))
            for is_writing in (False, True) if number % 2 else (True, False):
                seconds = self.options.seconds
                if is_writing:  # begins before the load does, and ends after it
                    process.send("rate", UPSERTS_PER_S, 2 * seconds + 1.5, WRITER_THREADS, self.live[name][0])
                result = self._load(service, number)
                self.figures.add_calls("writing" if is_writing else "not_writing", result)
                if is_writing:
                    done = process.answer(SPARE_SECONDS + 2 * seconds)
                    self.figures.add(
                        writing_upserts_per_s=done["items"] / done["seconds"],
                        writing_visible_p99_ms=_percentile(done["calls"], 99),
                    )

    def writes(self) -> None:
        """Batches one after the other, and single items at a low rate, on both cores."""
        name = next(iter(self.live))
        items, process = self.live[name][0], self.writers[name]
        with contextlib.ExitStack() as stack:
            for each in (self.services[name], process):
                stack.enter_context(_moved(each, self.cores.both))
            seconds, size = self.options.seconds, min(BATCH, items)
            limit = seconds + SPARE_SECONDS
            done = ask(process, "batches", size, seconds, BATCH_THREADS, items, seconds=limit)
            self.figures.add(upserts_per_s=done["items"] / done["seconds"])
            done = ask(process, "rate", SINGLE_PER_S, SINGLE_SECONDS, 1, items)
            self.singles.extend(done["calls"])

    def _load(self, service: Service, seed: int) -> LoadResult:
        seconds = self.options.seconds
        result = closed_loop(
            service.address, self.requests, CLIENTS, seconds, min(1.0, seconds / 2), seed, self.tick
        )
        self.errors.update(result.errors)
        return result


@contextlib.contextmanager
def _moved(service: Service, cores: CoreSet) -> Iterator[None]:
    """Let a process and its children run on other cores."""
    if cores is None:
        yield
        return
    root = psutil.Process(service.process.pid)
    before = {each.pid: os.sched_getaffinity(each.pid) for each in (root, *root.children(recursive=True))}
    for pid in before:
        _set(pid, cores)
    try:
        yield
    finally:
        for pid, old in before.items():
            _set(pid, old)


def _set(pid: int, cores: "CoreSet | set[int]") -> None:
    """Set the cores of all threads of a process that has not ended."""
    with contextlib.suppress(OSError, psutil.Error):
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, cores or ())


def _percentile(seconds: Sequence[float], percent: float) -> float:
    return float(np.percentile(seconds, percent)) * 1000
