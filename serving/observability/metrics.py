"""Every metric of the service, declared once.

The layout of the workers' shared memory (`layout.py`), the text of `/metrics` (`exporter.py`) and the table
in `serving/README.md` follow from this list. A scrape shows metrics in the order of the list.

To add a metric, declare it here. Then count it in a worker, by `WorkerMetrics.add`, `set` or `observe`; or
for `MetricSource.SCRAPE`, yield its samples from `ServiceStatus.metrics`.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import grpc

from twinspire.protos import catalogue_pb2, events_pb2
from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.filters.plan import Plan

OTHER = "other"
RETRIEVAL = tuple(method.name for method in wire.DESCRIPTOR.services_by_name["Retrieval"].methods)
CATALOGUE = tuple(method.name for method in catalogue_pb2.DESCRIPTOR.services_by_name["Catalogue"].methods)
EVENTS = tuple(method.name for method in events_pb2.DESCRIPTOR.services_by_name["Events"].methods)
METHODS = (*RETRIEVAL, *CATALOGUE, *EVENTS, OTHER)
CODES = tuple(code.name for code in grpc.StatusCode)
# Codes that are errors of the server, by OpenTelemetry's conventions for gRPC; a client's mistakes are not.
ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
STAGES = ("queue", "encode", "search", "serialise")
# Why a query was refused: no room in the queue, too many requests of its client, a deadline that passed or a
# client that went away before the query was worked on, or missing rights.
REASONS = ("no_room", "rate_limit", "deadline", "cancelled", "access", OTHER)
# Why the server closed a connection: no call in time, too many connections of its address, a worker that is
# nearly full, or a flood of frames.
CLOSED_REASONS = ("first_call", "address", "full", "flood")

# Upper bounds of buckets: 1, 2, 5 in each decade from 10 us to 10 s, so that all values of one bucket are
# within a factor of 2.5; and 1 to 1024 queries.
SECONDS = (*(float(f"{digit}e{power}") for power in range(-5, 1) for digit in (1, 2, 5)), 10.0)
SIZES = tuple(float(1 << power) for power in range(11))
BUCKETS = {"s": SECONDS, "queries": SIZES}


class Kind(StrEnum):
    """A metric's type, as Prometheus names it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricSource(StrEnum):
    """Where a metric's values are kept, and what a scrape makes of them."""

    SUM = "sum over the workers"
    WORKER = "each worker"  # its label is `worker`, the slot
    BUNDLE = "each bundle version"  # its first label is `version`
    SCRAPE = "read at the scrape"  # not in shared memory


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric.

    Args:
        kind: its type.
        name: without the suffixes that a scrape adds (`_total`, `_bucket`, `_count`, `_sum`).
        help: shown by a scrape.
        labels: label -> all values that it can have; none given where they are known only at a scrape. All
            labels of metrics in shared memory have known values, except `worker` and `version`.
        source: where its values are kept.
        buckets: upper bounds of a histogram's buckets, ascending.
    """

    kind: Kind
    name: str
    help: str
    labels: Mapping[str, Sequence[str]]
    unit: str
    source: MetricSource
    buckets: Sequence[float] = ()


METRICS: list[Metric] = []


def _declare(
    kind: Kind, name: str, help: str, unit: str, source: MetricSource, labels: Mapping[str, Sequence[str]]
) -> Metric:
    buckets = BUCKETS[unit] if kind is Kind.HISTOGRAM else ()
    metric = Metric(kind, f"twinspire_{name}", help, labels, unit, source, buckets)
    METRICS.append(metric)
    return metric


# Histograms get the buckets of their unit. Metrics in shared memory name the values of their labels; `worker`
# and `version` are added to those that have them.


def _sum(kind: Kind, name: str, help: str, unit: str = "", /, **labels: Sequence[str]) -> Metric:
    return _declare(kind, name, help, unit, MetricSource.SUM, labels)


def _worker(kind: Kind, name: str, help: str, unit: str = "", /, **labels: Sequence[str]) -> Metric:
    return _declare(kind, name, help, unit, MetricSource.WORKER, {"worker": (), **labels})


def _bundle(kind: Kind, name: str, help: str, unit: str = "", /, **labels: Sequence[str]) -> Metric:
    return _declare(kind, name, help, unit, MetricSource.BUNDLE, {"version": (), **labels})


def _scrape(kind: Kind, name: str, help: str, unit: str = "", *labels: str) -> Metric:
    return _declare(kind, name, help, unit, MetricSource.SCRAPE, dict.fromkeys(labels, ()))


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

REQUESTS = _sum(_C, "requests", "Calls that have ended.", method=METHODS, code=CODES)
QUERIES = _sum(_C, "queries", "Queries answered.", method=METHODS)
PLANS = _sum(
    _C,
    "filter_plans",
    "Queries with a filter, by how the items that pass were searched.",
    plan=tuple(plan.value for plan in Plan if plan not in (Plan.UNFILTERED, Plan.UNKNOWN)),
)
INTERLEAVED = _sum(
    _C,
    "interleaved",
    "Searches that were to be interleaved, by who answered.",
    by=("both", "champion"),
)
REFUSED = _sum(_C, "refused", "Queries that were refused.", reason=REASONS)
CONNECTIONS_CLOSED = _sum(
    _C, "connections_closed", "Connections that the server closed.", reason=CLOSED_REASONS
)
REQUEST_SECONDS = _sum(_H, "request_seconds", "Duration of a call.", "s", method=METHODS)
STAGE_SECONDS = _sum(_H, "stage_seconds", "Time of a query in each stage.", "s", stage=STAGES)
BATCH_SIZE = _sum(_H, "batch_size", "Queries in a batch.", "queries")

WORKER_UP = _worker(_G, "worker_up", "1 while a worker runs in the slot.")
WORKER_START = _worker(_G, "worker_start_time_seconds", "Unix time of the worker's last start.", "s")
QUEUE_DEPTH = _worker(_G, "queue_depth", "Number of queued queries.", "queries")
IN_FLIGHT = _worker(_G, "in_flight", "Calls in progress.", "calls")
STREAMS = _worker(_G, "streams", "Open streams.")
RESTARTS = _worker(_C, "worker_restarts", "Restarts of the slot's worker.")
HANGS = _worker(_C, "worker_hangs", "Workers killed because their heartbeat stopped.")

BUNDLE = _scrape(_G, "bundle_info", "Model and bundle version of the champion.", "", "name", "version")
BUNDLE_AGE = _scrape(_G, "bundle_age_seconds", "Time since the bundle was written to this disk.", "s")
INDEX_ITEMS = _scrape(_G, "index_items", "Items in the index.", "items")
INDEX_BYTES = _scrape(_G, "index_bytes", "Size of the index and the vectors.", "bytes")
BUNDLE_REQUESTS = _bundle(_C, "bundle_requests", "Calls that a bundle has answered or refused.", code=CODES)
BUNDLE_SECONDS = _bundle(_H, "bundle_request_seconds", "Duration of a call, by bundle.", "s")
BUNDLE_SHARE = _scrape(
    _G, "bundle_share", "Share of the requests that a bundle answers.", "", "role", "version", "model_version"
)

FOLLOW_LAST_CHECK = _scrape(
    _G, "follow_last_check_timestamp_seconds", "Unix time of the last poll of the registry.", "s"
)
FOLLOW_FAILURES = _scrape(_G, "follow_failures", "Failed polls in a row.")
FOLLOW_PENDING = _scrape(_G, "follow_pending", "1 while the alias names a version that is not served.")
FOLLOW_SWAPS = _scrape(_C, "follow_swaps", "Swaps of the champion.")
FOLLOW_REFUSED = _scrape(_C, "follow_refused", "Versions that were refused.")
FOLLOW_LAST_SWAP = _scrape(
    _G,
    "follow_last_swap_timestamp_seconds",
    "Unix time of the champion's swap; 0 for the first champion.",
    "s",
)

SHADOW_QUERIES = _scrape(_C, "shadow_queries", "Searches that the shadow has repeated.", "", "version")
SHADOW_DROPPED = _scrape(
    _C,
    "shadow_dropped",
    "Searches that were dropped, because the shadow was busy or they were too large.",
    "",
    "version",
)
SHADOW_ERRORS = _scrape(_C, "shadow_errors", "Searches that failed in the shadow.", "", "version")
SHADOW_EMPTY = _scrape(_C, "shadow_empty", "Searches without a hit in the shadow.", "", "version")
SHADOW_OVERLAP = _scrape(
    _G, "shadow_overlap", "Mean share of the champion's first ten items that the shadow found.", "", "version"
)
SHADOW_SCORE_SHIFT = _scrape(
    _G,
    "shadow_score_shift",
    "Mean of the shadow's score minus the champion's, of items that both found.",
    "",
    "version",
)

CATALOGUE_SEQUENCE = _scrape(_G, "catalogue_sequence", "Highest sequence of the store of live items.")
CATALOGUE_DERIVED = _scrape(
    _G, "catalogue_derived_sequence", "Sequence up to which a bundle's items are encoded.", "", "version"
)
CATALOGUE_WORKER_SEQUENCE = _scrape(
    _G, "catalogue_worker_sequence", "Sequence up to which the worker's searches see changes.", "", "worker"
)
CATALOGUE_WORKER_LAG = _scrape(
    _G,
    "catalogue_worker_lag",
    "Changes of the store that the worker's searches do not see yet.",
    "changes",
    "worker",
)
CATALOGUE_OVERLAY = _scrape(
    _G,
    "catalogue_overlay_rows",
    "Live items that the worker's searches compare beside the champion's own, outdated versions included.",
    "items",
    "worker",
)
CATALOGUE_ITEMS = _scrape(_G, "catalogue_items", "Live items that the champion was built without.", "items")
CATALOGUE_TOMBSTONES = _scrape(
    _G, "catalogue_tombstones", "Deletes since the snapshot that the champion was built from.", "items"
)
CATALOGUE_COMMITS = _scrape(_C, "catalogue_commits", "Transactions that this host has committed.")
CATALOGUE_WRITES = _scrape(_C, "catalogue_writes", "Items that this host has written or deleted.", "items")
CATALOGUE_COMMIT_SECONDS = _scrape(_C, "catalogue_commit_seconds", "Time spent in commits.", "s")
CATALOGUE_ENCODE_SECONDS = _scrape(
    _C, "catalogue_encode_seconds", "Time spent on encoding live items.", "s", "version"
)
CATALOGUE_FAILED = _scrape(
    _G, "catalogue_failed", "1 while the store cannot be used or items not be encoded."
)

EVENTS_STORED = _scrape(_C, "events_stored", "Events of users that this host has stored.", "events")
EVENTS_COMMITS = _scrape(_C, "events_commits", "Transactions that this host has committed for them.")
EVENTS_COMMIT_SECONDS = _scrape(_C, "events_commit_seconds", "Time spent in these commits.", "s")
EVENTS_FAILED = _scrape(_G, "events_failed", "1 while the store of events cannot be written.")
EVENTS_SHOWN_DROPPED = _sum(
    _C, "events_shown_dropped", "Answers to users of which the items shown could not be kept."
)

LOG_ROWS = _scrape(_C, "served_log_rows", "Answers in files of the served log.", "answers")
LOG_DROPPED = _scrape(
    _C, "served_log_dropped", "Answers for the served log that are in no file.", "answers", "reason"
)
LOG_BYTES = _scrape(_G, "served_log_bytes", "Size of the files of the served log.", "bytes")
LOG_FAILED = _scrape(_G, "served_log_failed", "1 while the served log cannot be written.")

DRIFT_PSI = _scrape(
    _G, "drift_psi", "Population stability index of a feature against training.", "", "feature"
)
DRIFT_DETECTED = _scrape(_G, "drift_detected", "1 where a feature has drifted from training.", "", "feature")
DRIFT_TIME = _scrape(_G, "drift_timestamp_seconds", "Unix time at which drift was last measured.", "s")

FILE_STALE = _scrape(
    _G,
    "access_file_stale",
    "1 while the file is missing or unusable, and the content read before is used.",
    "",
    "file",
)

RESIDENT_BYTES = _scrape(
    _G, "process_resident_bytes", "Resident memory, shared pages included.", "bytes", "process"
)
PROPORTIONAL_BYTES = _scrape(
    _G,
    "process_proportional_bytes",
    "Resident memory, each shared page divided by the processes that share it.",
    "bytes",
    "process",
)
OPEN_FILES = _scrape(_G, "process_open_fds", "Open file descriptors.", "", "process")
CPU_SECONDS = _scrape(_C, "process_cpu_seconds", "Processor time, user and system.", "s", "process")


# Metric -> its samples, each the values of its labels, in the order of `Metric.labels`, and a value. A metric
# that is given without samples is shown without values.
Samples = Sequence[tuple[Sequence[str], float]]
Reading = tuple[Metric, Samples]


def table() -> Iterator[str]:
    """The metrics as the lines of a Markdown table; `serving/README.md` holds it."""
    yield "| metric | type | labels | unit | meaning |"
    yield "|---|---|---|---|---|"
    for each in METRICS:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        name = f"{each.name}_total" if each.kind is Kind.COUNTER else each.name
        yield f"| `{name}` | {each.kind} | {labels} | {each.unit} | {each.help} |"


if __name__ == "__main__":
    sys.stdout.write("\n".join(table()) + "\n")
