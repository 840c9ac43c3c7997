"""Runs a load test: the rounds of measurements, the overload, and the recovery from it."""

import gc
import itertools
import math
import time
from argparse import Namespace
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from rich.console import Console

from tests.load import load, open_loop, report, rounds
from tests.load.cli.steps import run_rounds, tested_folder
from tests.load.load import LoadResult, Requests
from tests.load.open_loop import OfferedLoad, Segment
from tests.load.plan import (
    BATCHES,
    CAPACITY_CLIENTS,
    CLIENTS,
    CONNECTIONS,
    RATIOS,
    SERVERS,
    TARGETS,
    LoadPlan,
    Measurement,
)
from tests.load.report import Figures, Report, Table, latencies
from tests.load.rounds import RoundsTest
from tests.load.services import Service, pinned, serve_bundle, serve_reference
from twinspire.protos.bundle import Manifest
from twinspire.protos.cli import Result
from twinspire.protos.errors import Unavailable
from twinspire.serving.retrieval.retriever import Retriever

TIMES = 10  # load of the overload, as a multiple of the capacity
NORMAL = 0.8  # normal load, as a share of the capacity
ALLOWED = ("DEADLINE_EXCEEDED", "OK", "RESOURCE_EXHAUSTED")  # codes in the overload
AROUND = 2.5  # normal load before and after, in seconds per `Plan.seconds`: percentiles need many calls
RECOVERY_SECONDS = 1.0
WARM_UP_BATCHES = 8  # of the searches in process
FIRST = 0.1  # share of the time that memory may grow in
SERVER_START = 4.0  # seconds, usually; for the progress bar
MIB = 2**20
# Of the time of a request, in microseconds, that is neither encoding nor search: prefix -> the whole.
REST = {"inprocess_single": "search_c1_p50_us", "inprocess_batch32": "search_c64_us"}
PACKAGES = ("grpcio", "hnswlib", "onnxruntime", "numpy", "protobuf")


def run(arguments: Namespace) -> Result:
    """Run the load test.

    Raises:
        DataError: answers differ from the bundle's own; the report has been shown.
        MissingStage: there is no bundle.
        Unavailable: a server does not start, or does not answer.
    """
    names = ("rounds", "seconds", "k", "seed", "overload_seconds")
    given = {name: getattr(arguments, name) for name in names}
    plan = LoadPlan(tested_folder(arguments), **given, parts=arguments.only)
    return run_rounds(arguments, plan, LoadTest, duration(plan), show)


def duration(plan: LoadPlan) -> float:
    """Approximate seconds of a plan, for the progress bar."""
    one = plan.seconds + plan.warm_up
    workers = sum(each.kind == "workers" for each in plan.measurements)
    rounds = plan.rounds * (one * len(plan.measurements) + SERVER_START * workers)
    if "overload" not in plan.parts:
        return rounds
    around = 2 * (plan.rounds * one + AROUND * plan.seconds) + SERVER_START + RECOVERY_SECONDS
    return rounds + around + plan.overload_seconds


class LoadTest(RoundsTest):
    """Measures what a plan names."""

    plan: LoadPlan
    _retriever: Retriever | None = None

    def run(self) -> None:
        bundle, cores = self.plan.bundle, self.cores
        first = [each for each in self.plan.measurements if each.kind != "workers"]
        workers = [each for each in self.plan.measurements if each.kind == "workers"]
        with ExitStack() as stack:
            for name in sorted({each.server for each in first}):
                self._say(f"starting {name}")
                if name == "in-process":
                    self._retriever = Retriever.load(bundle)
                else:
                    start = serve_bundle if name == "search" else partial(serve_reference, name)
                    self.servers[name] = stack.enter_context(start(bundle, cores.servers))
            stack.enter_context(pinned(cores.load))
            self.measure(first)
        self.figures.combine("search_c64_us", lambda rps: 1e6 / rps if rps else math.nan, "search_c64_rps")
        self._retriever = None  # it shares pages with the servers, whose memory would look smaller
        gc.collect()
        if "overload" in self.plan.parts:
            with serve_bundle(bundle, cores.servers) as server, pinned(cores.load):
                self.figures.add(**self._measure_overload(server))
        self.measure(workers)
        for ratio in RATIOS:
            self.figures.divide(*ratio)
        for prefix, whole in REST.items():
            names = whole, f"{prefix}_encode_us", f"{prefix}_search_us"
            self.figures.combine(f"{prefix}_rest_us", lambda total, *parts: total - sum(parts), *names)

    def report(self, manifest: Manifest) -> dict[str, Any]:
        """The document of a test that has run."""
        setting = {"parts": list(self.plan.parts), "overload_seconds": self.plan.overload_seconds}
        return self.document(manifest, PACKAGES, TARGETS, {**setting, "connections": CONNECTIONS})

    def once(self, each: Measurement, number: int) -> None:
        measures = {
            "closed loop": self._closed_loop,
            "batches": self._batches,
            "in process": self._in_process,
            "workers": self._workers,
        }
        measures[each.kind](each, number)

    def _closed_loop(self, each: Measurement, number: int) -> None:
        """Clients that send their next search when the answer is there."""
        self.add_calls(each, self._searches(self.servers[each.server], each.size, number))

    def _batches(self, each: Measurement, number: int) -> None:
        address, batches = self.servers[each.server].address, self.workload.batches(each.size)
        result = self.closed_loop(address, batches, BATCHES[each.size], number)
        self.figures.add(**{f"{each.key}_qps": result.qps})
        self.add_errors(each.key, result)

    def _in_process(self, each: Measurement, number: int) -> None:
        """The same searches without a server, on the servers' core."""
        assert self._retriever is not None
        retriever, workload, size, seconds = self._retriever, self.workload, each.size, self.plan.seconds
        queries = itertools.cycle(workload.queries)
        batches = [[*itertools.islice(queries, size)] for _ in range(-(-len(workload.queries) // size))]
        following = itertools.cycle(batches)
        answers_to = partial(retriever.search, k=workload.k, exclude_history=False, fusion=workload.fusion)

        encode, search_alone = array("d"), array("d")

        def search() -> None:
            answers = answers_to(next(following))
            timing = answers[0].timing  # of the whole batch
            encode.append(timing.encode_us / len(answers))
            search_alone.append(timing.search_us / len(answers))
            for answer in answers:
                for hit in answer.hits:
                    len(hit.fields)  # display fields are looked up when they are read, as the service does

        taken = array("d")
        with pinned(self.cores.servers):
            for _ in batches[:WARM_UP_BATCHES]:
                search()
            del encode[:], search_alone[:]
            started = now = time.perf_counter()
            while now - started < seconds:
                before = now
                search()
                now = time.perf_counter()
                taken.append(now - before)
        stages = {"encode": encode, "search": search_alone}
        self.figures.add(**{f"{each.key}_{name}_us": load.percentile(us, 50) for name, us in stages.items()})
        if size == 1:
            self.figures.add(**{f"{each.key}_us": load.percentile(taken, 50) * 1e6})
        else:
            self.figures.add(**{f"{each.key}_qps": len(taken) * size / (now - started)})

    def _workers(self, each: Measurement, number: int) -> None:
        """Some workers, with the load on the same two cores.

        They run one at a time: memory that two services share would be counted as half of each.
        """
        cores = self.cores.both
        with serve_bundle(self.plan.bundle, cores, each.size) as server, pinned(cores):
            result = self._searches(server, CONNECTIONS, number)
            self.figures.add_calls(each.key, result)
            errors, memory = sum(result.errors.values()), server.memory() / MIB
            self.figures.add(**{f"{each.key}_pss_mib": memory, f"{each.key}_errors": errors})

    def _known(self, capacity: float) -> float:
        """The capacity, unless nothing was answered."""
        if not capacity:
            raise Unavailable(f"no request was answered within {self.plan.seconds:g} s")
        return capacity

    def _requests(self, server: Service) -> Requests:
        return self.workload.searches(checked=server.name != "noop")

    def _searches(self, server: Service, clients: int, number: int) -> LoadResult:
        return self.closed_loop(server.address, self._requests(server), clients, number)

    def _measure_overload(self, server: Service) -> dict[str, float]:
        """The overload; the capacity is measured around it, as a shared machine's speed drifts."""
        probes = Figures()

        def measure_capacity() -> None:
            for number in range(self.plan.rounds):
                self._say("capacity")
                probes.add(rps=self._searches(server, CAPACITY_CLIENTS, number).rps)

        measure_capacity()
        capacity = self._known(probes.median("rps"))
        found = self._overload(server, capacity)
        measure_capacity()
        found["overload_peak_rps"] = peak = probes.median("rps")
        found["overload_goodput_share"] = found["overload_goodput_rps"] / peak
        return found

    def _overload(self, server: Service, capacity: float) -> dict[str, float]:
        plan, normal = self.plan, NORMAL * capacity
        segments = (
            Segment(normal, plan.warm_up),
            Segment(normal, AROUND * plan.seconds),
            # Clients leave at its end, or it would last for its deadline.
            Segment(TIMES * capacity, plan.overload_seconds, leaves=True),
            Segment(normal, RECOVERY_SECONDS),
            Segment(normal, AROUND * plan.seconds),
        )
        self._say(f"{TIMES} times the capacity")
        memory = [server.memory()]
        due = time.perf_counter() + plan.warm_up + AROUND * plan.seconds + FIRST * plan.overload_seconds

        def tick() -> None:
            if len(memory) == 1 and time.perf_counter() >= due:
                memory.append(server.memory())
            self._tick()

        offered = OfferedLoad(segments, connections=CONNECTIONS, seed=plan.seed)
        results = open_loop.open_loop(server.address, self.workload.searches(), offered, tick)
        _, before, over, recovering, after = results
        memory.append(server.memory())
        found: dict[str, float] = {}
        named = {"normal": before, "overload": over, "recovering": recovering, "recovered": after}
        for name, result in named.items():
            self.figures.count_calls(name, result)
            found |= {f"{name}_p{percent}_us": result.percentile_us(percent) for percent in (50, 99)}
        self.add_errors("80 %", before)
        self.add_errors("overload", over, ALLOWED)
        self.add_errors("after the overload", after)
        return found | {
            "overload_offered_rps": over.offered / over.seconds,
            "overload_goodput_rps": over.rps,
            "normal_errors": sum(before.errors.values()),
            "overload_left_over": len(over.left_over),
            "overload_given_up": over.given_up,
            "overload_p99_ratio": found["overload_p99_us"] / found["normal_p99_us"],
            **{f"overload_{code.lower()}_share": over.codes[code] / max(1, over.offered) for code in ALLOWED},
            "overload_other_codes": sum(count for code, count in over.codes.items() if code not in ALLOWED),
            "overload_memory_mib": memory[-1] / MIB,
            "overload_memory_growth": memory[-1] / memory[-2] - 1,
            "overload_memory_added_mib": (memory[-1] - memory[0]) / MIB,
            "recovered_p99_ratio": found["recovered_p99_us"] / found["normal_p99_us"],
            "recovered_errors": sum(after.errors.values()),
        }


def show(console: Console, found: Report) -> None:
    """Throughput and latency by clients, the targets, and remarks."""
    report.show(console, found, TABLES, TARGETS, rounds.about(found), title="targets")


def _latencies(server: str) -> Callable[[Report, str], str]:
    return lambda found, row: f"[dim]{latencies(found, f'{server}_{row}')}[/]"


TABLES = (
    Table(
        "closed loop",
        [
            "clients",
            *(
                head
                for name in SERVERS.values()
                for head in (f"{name} [dim]requests/s[/]", "[dim]p50 / p99 ms[/]")
            ),
        ],
        {f"c{clients}": [str(clients)] for clients in CLIENTS},
        [cell for server in SERVERS for cell in (f"{server}_{{}}_rps", _latencies(server))],
    ),
    Table(
        "a request of Twinspire, microseconds (stages in process, in batches of 1 and 32)",
        ["", "transport and queue", "encode", "search"],
        {"inprocess_single": ["1 client, p50"], "inprocess_batch32": ["64 clients, 1 / (requests/s)"]},
        ["{}_rest_us", "{}_encode_us", "{}_search_us"],
    ),
)
