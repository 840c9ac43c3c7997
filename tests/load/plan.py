"""What a load test measures: its options, and the lists of its measurements, ratios and targets."""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Part = Literal["closed", "batch", "overload", "workers"]
PARTS: tuple[Part, ...] = ("closed", "batch", "overload", "workers")
SERVERS = {"search": "Twinspire", "naive": "naive", "noop": "no-op"}  # prefix of the figures -> name
CLIENTS = (1, 16, 64)  # of closed loops
CAPACITY_CLIENTS = 64  # closed-loop clients whose throughput is a server's capacity
CONNECTIONS = 64  # of the overload, and of the comparison of workers
BATCHES = {32: 2, 256: 1}  # queries in a batch -> batches in flight, as many as fit into the service's queue


@dataclass(frozen=True)
class Measurement:
    """One measurement of a round."""

    key: str  # prefix of its figures in the report
    kind: str  # of the load, such as `closed loop`
    server: str  # `in-process` is the bundle without a server
    size: int  # clients, queries in a batch, or workers
    parts: tuple[Part, ...] = ()  # of the load test that need it


MEASUREMENTS = (
    *(
        Measurement(f"{server}_c{clients}", "closed loop", server, clients, ("closed",))
        for clients in CLIENTS
        for server in SERVERS
    ),
    *(Measurement(f"search_batch{size}", "batches", "search", size, ("batch",)) for size in BATCHES),
    Measurement("inprocess_single", "in process", "in-process", 1, ("closed", "batch")),
    *(
        Measurement(f"inprocess_batch{size}", "in process", "in-process", size, ("closed", "batch"))
        for size in BATCHES
    ),
    Measurement("one_worker", "workers", "search", 1, ("workers",)),
    Measurement("two_workers", "workers", "search", 2, ("workers",)),
)
RATIOS = (  # name, numerator, and denominators, which are added up
    *(
        (f"ratio_to_{other}_c{clients}", f"search_c{clients}_rps", f"{other}_c{clients}_rps")
        for clients in CLIENTS
        for other in ("naive", "noop")
    ),
    ("p50_c1_over_parts", "search_c1_p50_us", "noop_c1_p50_us", "inprocess_single_us"),
    *((f"batch{size}_share", f"search_batch{size}_qps", f"inprocess_batch{size}_qps") for size in BATCHES),
    ("two_workers_ratio", "two_workers_rps", "one_worker_rps"),
    ("two_workers_pss_ratio", "two_workers_pss_mib", "one_worker_pss_mib"),
)


@dataclass(frozen=True)
class Target:
    """A bound of one figure."""

    key: str  # of the figure in the report
    text: str  # its description
    sign: Literal[">=", "<=", "<", ""] = ""  # empty for a figure that is shown and has no bound
    bound: float = 0.0

    def is_met(self, report: Mapping[str, Any]) -> bool | None:
        """Whether the figure is within its bound; None where it was not measured or has none."""
        if self.key not in report or not self.sign:
            return None
        compare = {">=": operator.ge, "<=": operator.le, "<": operator.lt}[self.sign]
        value = report[self.key]
        return value is not None and bool(compare(value, self.bound))


def missed(targets: Iterable[Target], report: Mapping[str, Any]) -> list[str]:
    """Keys of the measured figures that miss their targets."""
    return [each.key for each in targets if each.is_met(report) is False]


TARGETS = (  # on two cores
    Target("ratio_to_naive_c16", "throughput against naive, 16 clients", ">=", 1.6),
    Target("ratio_to_naive_c64", "throughput against naive, 64 clients", ">=", 1.6),
    Target("ratio_to_noop_c16", "throughput against no-op, 16 clients", ">=", 0.45),
    Target("ratio_to_noop_c64", "throughput against no-op, 64 clients", ">=", 0.45),
    Target("p50_c1_over_parts", "p50 of 1 client over no-op p50 + in-process single", "<=", 1.2),
    Target("batch32_share", "SearchBatch of 32 against in process", ">=", 0.85),
    Target("batch256_share", "SearchBatch of 256 against in process", ">=", 0.95),
    Target("two_workers_ratio", "throughput of two workers against one", ">=", 1.5),
    Target("two_workers_pss_ratio", "memory of two workers against one", "<=", 1.25),
    Target("overload_goodput_share", "goodput at 10 times the capacity against its peak", ">=", 0.9),
    Target("overload_other_codes", "answers with other codes than OK, refused or too late", "<=", 0),
    Target(
        "overload_p99_ratio",
        "p99 of the requests answered in the overload (the generator sends the newest first), against "
        "80 % load",
        "<",
        3.0,
    ),
    Target("overload_memory_growth", "memory growth after the first tenth of the overload", "<=", 0.02),
    Target("recovered_p99_ratio", "p99 a second after the overload, against before", "<=", 1.5),
    Target("recovered_errors", "errors later than a second after the overload", "<=", 0),
)


@dataclass(frozen=True)
class Plan:
    """The options of a test in rounds."""

    bundle: Path  # folder of the served bundle
    rounds: int = 5  # repetitions of all measurements; every other round runs in reverse order
    seconds: float = 2.0  # of each measurement in a round
    k: int = 10  # items in an answer
    seed: int = 0  # of all random choices

    @property
    def warm_up(self) -> float:
        """Seconds before each measurement that are not measured."""
        return min(1.0, self.seconds / 4)


@dataclass(frozen=True)
class LoadPlan(Plan):
    """The options of a load test."""

    parts: tuple[Part, ...] = PARTS
    overload_seconds: float = 30.0  # duration of the overload

    @property
    def measurements(self) -> list[Measurement]:
        return [each for each in MEASUREMENTS if {*each.parts} & {*self.parts}]
