"""A swap test: clients send requests while an alias moves to and fro, and every answer is compared.

The window of a swap reaches from moving the alias until every worker serves the other bundle: the last answer
of each client is from it, and `Info` reports no version that waits to be served.

An answer is right where its ids and scores are those that the bundle of its `bundle_version` gives in this
process, compared as `tests/helpers/scores.py` says.
"""

import statistics
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
import numpy as np
from rich.console import Console

from tests.helpers.answers import hits_of
from tests.helpers.scores import Hits, difference
from tests.helpers.serving.http2 import PREFIX_BYTES, Call, Connection, ConnectionPool, Status
from tests.load import report
from tests.load.load import Clients, Requests, Tick, percentile
from tests.load.plan import Target
from tests.load.report import Report, Table, number, rounded
from tests.load.services import Service
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos.errors import Unavailable
from twinspire.protos.system.timing import p99_remark

MIXED = -1  # in the place of a version: the answer mixes bundles
CACHED = 65_536  # beginnings of answers; the last bit of a score depends on the size of the batch
VERSION_TAG = bytes([wire.SearchResponse.DESCRIPTOR.fields_by_name["bundle_version"].number << 3 | 2])
RECONNECT_SECONDS = 0.1  # before a client connects again
SILENCE_SECONDS = 20.0  # without any answer, after which the service counts as gone
STEP_SECONDS = 0.01  # between two checks of a swap
OFTEN, SELDOM = 0.1, 1.0  # seconds between two `Info` requests
INFO_SECONDS = 10.0  # timeout of such a request
SWAP_SECONDS = 120.0  # longest swap
WARM_UP = 2.0  # seconds that are not measured
NO_PROXY = (("grpc.enable_http_proxy", 0),)
REST = 1.0  # longest load between a swap and the next, in seconds
TARGETS = (
    Target("failed", "requests that failed", "<=", 0),
    Target("mixed", "answers whose items are not those of their bundle", "<=", 0),
    Target("p99_ratio", "p99 during swaps, against p99 between them", "<=", 3.0),
    Target("memory_ratio", "memory after all swaps, against before", "<=", 1.1),
)
TABLE = Table(
    "",
    ("requests", "answered", "p50 ms", "p99 ms"),
    {name: [f"{name} swaps"] for name in ("between", "during")},
    ("requests_{}", "p50_{}_ms", "p99_{}_ms"),
)


class Versions:
    """Finds the bundle that an answer is from.

    Args:
        names: versions of the bundles that may answer.
        differences: for each bundle, how hits for a query differ from its own; empty if they do not.
    """

    def __init__(self, names: Sequence[str], differences: Sequence[Callable[[int, Hits], str]]) -> None:
        self.mixed = 0  # answers whose items are not those of their version, or whose version is unknown
        self.first = ""  # description of the first of those
        self.names, self._differences = names, differences
        self._fields = [VERSION_TAG + bytes([len(each)]) + each.encode() for each in names]
        self._right: set[tuple[int, int, bytes]] = set()  # query, place of the version, bytes up to it

    def of(self, number: int, body: bytes) -> int:
        """The place of the version that an answer to query `number`, with gRPC's prefix, is from, or `MIXED`.

        The service writes the times after the version, so an answer that begins like an earlier right one
        needs no comparison.
        """
        for place, version in enumerate(self._fields):
            begin, found, rest = body[PREFIX_BYTES:].partition(version)
            if found and (number, place, begin) in self._right:
                times = wire.SearchResponse.FromString(rest)
                if not times.hits and not times.bundle_version:
                    return place
        answer = wire.SearchResponse.FromString(body[PREFIX_BYTES:])
        known = answer.bundle_version in self.names
        place, hits = self.names.index(answer.bundle_version) if known else MIXED, hits_of(answer)
        wrong = "unknown version" if place == MIXED else self._differences[place](number, hits)
        if wrong:
            self.mixed += 1
            text = f"query {number}: bundle {answer.bundle_version[:12] or 'unknown'} with {hits[:3]}..."
            self.first = self.first or f"{text}: {wrong}"
            return MIXED
        begin = body[PREFIX_BYTES:].partition(self._fields[place])[0]
        if len(wire.SearchResponse.FromString(begin).hits) == len(hits):
            if len(self._right) >= CACHED:
                self._right.clear()
            self._right.add((number, place, begin))
        return place


def expecting(hits: Sequence[Hits]) -> Callable[[int, Hits], str]:
    """A difference for `Versions`: to the hits of each query."""
    return lambda number, found: difference(hits[number], found)


@dataclass
class Swap:
    """One swap; times on the clock of `time.perf_counter()`."""

    to: int  # place of the version that is to answer
    started: float  # when the alias was moved
    done: float = 0.0  # when every worker served the version


@dataclass
class SwapRun:
    """What happened under a load with swaps; times on the clock of `time.perf_counter()`."""

    swaps: list[Swap] = field(default_factory=list)
    start: float = 0.0  # of the measurement
    stop: float = 0.0  # of the load
    requests: int = 0  # calls that have ended, failed ones included
    failed: Counter[str] = field(default_factory=Counter)  # failed calls and connections by message
    # For each right answer: when it arrived, its latency in seconds, and the place of its version.
    ends: "array[float]" = field(default_factory=lambda: array("d"))
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    versions: "array[int]" = field(default_factory=lambda: array("b"))


class SwapClients(Clients):
    """The clients of a swap test."""

    def __init__(self, requests: Requests, versions: Versions, count: int) -> None:
        super().__init__(requests, count, seed=0, check_every=1)
        self.run = SwapRun()
        self.latest = [MIXED] * count  # place of the version that last answered each client
        self.versions = versions
        self._due: deque[tuple[float, int]] = deque((0.0, slot) for slot in range(count))
        self._stopped = False
        self._heard = time.perf_counter()

    def poll(self, seconds: float) -> None:
        """Send requests and handle responses for some seconds."""
        until = time.perf_counter() + seconds
        while (now := time.perf_counter()) < until:
            while self._due and self._due[0][0] <= now:
                self._send(self._due.popleft()[1])
            wait = min(until, self._due[0][0]) if self._due else until
            self.pool.poll(max(0.0, wait - now))
        if now - self._heard > SILENCE_SECONDS:
            raise Unavailable(f"the service has not answered for {SILENCE_SECONDS:g} s: {self.failures()}")

    def stop(self) -> None:
        """Send no more requests, and wait for the open calls."""
        self._stopped = True
        self.pool.drain()
        if left := sum(len(each.calls) for each in self.pool.open_connections()):
            self.run.failed["not answered before the end of the test"] += left
        self.run.stop = time.perf_counter()

    def failures(self) -> str:
        failed = self.run.failed.most_common(3)
        return ", ".join(f"{count} x {text}" for text, count in failed) or "nothing"

    def finished(self, connection: Connection, call: Call, status: Status) -> None:
        """Record a response, and send the client's next request."""
        run, slot, now = self.run, connection.slot, connection.now
        run.requests += 1
        if status.code == "OK":
            self._heard = now
            version = self.latest[slot] = self.versions.of(call.number, b"".join(call.parts or ()))
            if version != MIXED:
                run.ends.append(now)
                run.latencies.append(now - call.started)
                run.versions.append(version)
        else:
            run.failed[f"{status.code}: {status.message}"] += 1
        if not self._stopped:
            self._send(slot)

    def _send(self, slot: int) -> None:
        try:
            self.send_next(slot)
        except Unavailable as error:
            self.run.failed[str(error)] += 1
            self._due.append((time.perf_counter() + RECONNECT_SECONDS, slot))


class Schedule(NamedTuple):
    """When the alias moves."""

    seconds: float  # of load; longer where the swaps take longer
    swaps: int  # spread evenly over them
    warm_up: float = WARM_UP  # seconds of load before those


def run(
    address: str,
    clients: SwapClients,
    alias: Service,
    schedule: Schedule,
    tick: Tick = lambda: None,
) -> SwapRun:
    """Put the service under load and swap; `tick` is called between polls.

    `alias` is the process that moves it, at first on version 1 of the registry. The versions 1 and 2 are
    those of `clients`.
    """
    with (
        grpc.insecure_channel(address, NO_PROXY) as channel,
        ConnectionPool(address, len(clients.latest), clients.finished) as clients.pool,
    ):
        clients.run.start = time.perf_counter() + schedule.warm_up
        for _ in _swaps(clients, alias, schedule, retrieval_pb2_grpc.RetrievalStub(channel)):
            clients.poll(STEP_SECONDS)
            tick()
        clients.stop()
    return clients.run


def _swaps(clients: SwapClients, alias: Service, schedule: Schedule, stub: Any) -> Iterator[None]:
    """Move the alias as scheduled, and follow each swap until it is done; yields between two checks."""
    spacing, start, rested = schedule.seconds / max(1, schedule.swaps), clients.run.start, 0.0
    for place in range(schedule.swaps):
        while time.perf_counter() < max(start + spacing * (place + 0.5), rested):
            yield
        swap = Swap((place + 1) % 2, time.perf_counter())
        clients.run.swaps.append(swap)
        alias.send(swap.to + 1)
        while not alias.has_answer():
            yield
        alias.answer()
        yield from _until_served(clients, swap, stub)
        swap.done = time.perf_counter()
        rested = swap.done + min(REST, spacing / 4)
    while time.perf_counter() < max(start + schedule.seconds, rested):
        yield


def _until_served(clients: SwapClients, swap: Swap, stub: Any) -> Iterator[None]:
    """Wait until all clients and `Info` report the new version, and none waits to be served."""
    asked, call = 0.0, None
    while (now := time.perf_counter()) < swap.started + SWAP_SECONDS:
        all_new = all(each == swap.to for each in clients.latest)
        if call is None and now >= asked + (OFTEN if all_new else SELDOM):
            asked, call = now, stub.Info.future(wire.InfoRequest(), timeout=INFO_SECONDS)
        elif call is not None and call.done():
            if error := call.exception():
                clients.run.failed[f"Info: {error.code().name}: {error.details()}"] += 1
            else:
                state, version = call.result().state, clients.versions.names[swap.to]
                if state.following.candidate_stage == "refused":
                    text = f"the service refuses the other bundle: {state.following.last_error}"
                    raise Unavailable(text)
                served = [each.bundle_version for each in state.bundles[:1]]
                if all_new and served == [version] and not state.following.candidate:
                    return
            call = None
        yield
    raise Unavailable(f"a swap takes longer than {SWAP_SECONDS:g} s")


def latency_figures(run: SwapRun) -> dict[str, Any]:
    """Latencies of the requests that overlap a window and of the others, without those of the warm-up."""
    ends, latencies = np.asarray(run.ends), np.asarray(run.latencies)
    during = np.zeros(len(ends), bool)
    for swap in run.swaps:
        during |= (ends >= swap.started) & (ends - latencies <= swap.done)
    counted = ends - latencies >= run.start
    inside, outside = latencies[counted & during] * 1000, latencies[counted & ~during] * 1000
    found: dict[str, Any] = {}
    for percent in (50, 99):
        name, pair = f"p{percent}", (percentile(inside, percent), percentile(outside, percent))
        found[f"{name}_during_ms"], found[f"{name}_between_ms"] = map(rounded, pair)
        found[f"{name}_ratio"] = rounded(pair[0] / pair[1])
    found["requests_during"], found["requests_between"] = len(inside), len(outside)
    found["requests_per_s"] = rounded((len(inside) + len(outside)) / (run.stop - run.start))
    return found


def swap_figures(run: SwapRun) -> dict[str, Any]:
    """Duration of the swaps: until the last answer of the old bundle, and of the whole window."""
    ends, versions = np.asarray(run.ends), np.asarray(run.versions)
    found: dict[str, Any] = {}
    lasting = []
    for swap in run.swaps:
        old = ends[(versions != swap.to) & (ends >= swap.started) & (ends <= swap.done)]
        lasting.append(float(old.max() - swap.started) if len(old) else 0.0)
    for name, seconds in (("swap", lasting), ("window", [swap.done - swap.started for swap in run.swaps])):
        found[f"{name}_seconds_median"] = rounded(statistics.median(seconds))
        found[f"{name}_seconds_max"] = rounded(max(seconds))
    return found


def show(console: Console, found: Report) -> None:
    first, second = (each[:12] for each in found["versions"])
    about = (
        f"{found['requests']:,} answers, all compared; {found['swaps']} swaps between {first} and "
        f"{second} under load",
        f"from the alias to the last answer of the old bundle: {number(found['swap_seconds_median'])} s, "
        f"at most {number(found['swap_seconds_max'])} s",
        f"memory: {found['memory_start_mib']:,.0f} MiB before, {found['memory_end_mib']:,.0f} MiB after",
        f"{found['machine']}; {found['workers']} workers, {found['clients']} clients, "
        f"{found['requests_per_s']:,.0f} requests/s, {found['seconds']:.0f} s",
    )
    uncertain = p99_remark({text: found[f"requests_{name}"] for name, (text,) in TABLE.rows.items()})
    remarks = [each for each in (found["mixed_first"], uncertain) if each]
    report.show(console, found, [TABLE], TARGETS, about, remarks)
