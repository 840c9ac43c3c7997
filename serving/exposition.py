"""`/metrics` over HTTP, in the text formats of Prometheus and OpenMetrics.

    with serve_metrics(shared, "127.0.0.1", 9464, lambda: bundle_facts(manifest, folder)) as served:
        print(served.port)

Served by the official client in a process of its own, so that a scrape takes no time from a worker. Which
format a scraper gets is the client's to negotiate. What it shows is read at the moment of the scrape:
the workers' rows (`metrics.py`), and what the system says of the processes (`processes.py`).
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily as Histogram
from prometheus_client.core import InfoMetricFamily as Info
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from protos.bundle import INDEX, MANIFEST, VECTORS, Manifest
from protos.errors import Unavailable
from serving import cells
from serving.address import join
from serving.families import add_histogram
from serving.histogram import SECONDS, SIZES, width
from serving.metrics import SharedMetrics, restarts
from serving.processes import process_metrics


@dataclass(frozen=True)
class BundleFacts:
    """What a scrape tells of the bundle that is served.

    Args:
        name: of the model.
        version: of the bundle.
        made: when its manifest was written to this disk, in Unix seconds: at the end of the export, or when
            it was downloaded.
        items: in its index.
        index_bytes: size of its index and its vectors.
    """

    name: str
    version: str
    made: float
    items: int
    index_bytes: int


def bundle_facts(manifest: Manifest, folder: Path) -> BundleFacts:
    """What a scrape tells of the bundle in `folder`.

    Args:
        manifest: of the bundle.
        folder: that it was loaded from.

    Raises:
        OSError: it is gone.
    """
    return BundleFacts(
        manifest.name,
        manifest.bundle_version,
        (folder / MANIFEST).stat().st_mtime,
        manifest.count,
        sum(manifest.files[name].size for name in (INDEX, VECTORS)),
    )


class MetricsServer:
    """Answers scrapes until it is stopped. Made by `serve_metrics`."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread
        self.port = server.server_port

    def stop(self) -> None:
        """Answer no further scrape."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "MetricsServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def serve_metrics(
    shared: SharedMetrics,
    host: str = "127.0.0.1",
    port: int = 0,
    describe: Callable[[], BundleFacts | None] | None = None,
    more: Callable[[], Iterable[Metric]] = tuple,
    processes: Callable[[], Mapping[str, int]] = dict,
) -> MetricsServer:
    """Answer scrapes from now on, on threads of their own.

    Args:
        shared: what the workers count.
        host: to listen on.
        port: to listen on; 0 lets the system choose.
        describe: says at each scrape which bundle is served, if anybody knows.
        more: gives at each scrape what else there is to show.
        processes: gives at each scrape name -> id of the service's processes beside the workers.

    Raises:
        Unavailable: nobody can listen there, most likely because somebody does.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ServiceCollector(shared, describe, more, processes))
    try:
        return MetricsServer(*start_http_server(port, host, registry))
    except OSError as error:
        raise Unavailable(f"{join(host, port)}: cannot serve metrics there: {error.strerror}") from None


class _ServiceCollector(Collector):
    def __init__(
        self,
        shared: SharedMetrics,
        describe: Callable[[], BundleFacts | None] | None,
        more: Callable[[], Iterable[Metric]],
        processes: Callable[[], Mapping[str, int]],
    ) -> None:
        self._shared = shared
        self._describe = describe
        self._more = more
        self._processes = processes

    def collect(self) -> Iterator[Metric]:
        rows = self._shared.read()
        total = [sum(each) for each in zip(*rows, strict=True)]
        yield from _counters(total)
        yield from _histograms(total)
        yield from _workers(rows)
        facts = self._describe() if self._describe else None
        if facts:
            yield from _bundle(facts)
        yield from self._more()
        yield from process_metrics(_process_ids(self._shared.supervisor, rows, self._processes()))


def _counters(total: Sequence[float]) -> Iterator[Metric]:
    requests = Counter("twinspire_requests", "Calls that have ended.", labels=["method", "code"])
    queries = Counter("twinspire_queries", "Queries answered.", labels=["method"])
    for method in _called(total):
        for code, cell in cells.REQUESTS[method].items():
            requests.add_metric([method, code], total[cell])
        queries.add_metric([method], total[cells.QUERIES[method]])
    refused = Counter("twinspire_refused", "Queries that were not worked on.", labels=["reason"])
    for reason, cell in cells.REFUSED.items():
        refused.add_metric([reason], total[cell])
    closed = Counter("twinspire_connections_closed", "Connections that the server closed.", labels=["reason"])
    for reason, cell in cells.CONNECTIONS_CLOSED.items():
        closed.add_metric([reason], total[cell])
    yield from (requests, queries, refused, closed)


def _histograms(total: Sequence[float]) -> Iterator[Metric]:
    requests = Histogram("twinspire_request_seconds", "A call from start to end.", labels=["method"])
    for method in _called(total):
        _add(requests, [method], SECONDS, total, cells.REQUEST_SECONDS[method])
    stages = Histogram("twinspire_stage_seconds", "A query's time in each stage.", labels=["stage"])
    for stage, start in cells.STAGE_SECONDS.items():
        _add(stages, [stage], SECONDS, total, start)
    sizes = Histogram("twinspire_batch_size", "Queries that were worked on together.", labels=[])
    _add(sizes, [], SIZES, total, cells.BATCH_SIZE)
    yield from (requests, stages, sizes)


def _add(
    family: Histogram, labels: list[str], bounds: Sequence[float], total: Sequence[float], start: int
) -> None:
    add_histogram(family, labels, bounds, total[start : start + width(bounds)])


def _called(total: Sequence[float]) -> list[str]:
    """The service's own methods, and of the others those that somebody has called."""
    return [
        method
        for method, codes in cells.REQUESTS.items()
        if method in cells.RETRIEVAL or any(total[cell] for cell in codes.values())
    ]


def _workers(rows: Sequence[list[float]]) -> Iterator[Metric]:
    gauges = {
        cells.UP: Gauge("twinspire_worker_up", "1 while somebody works in the slot.", labels=["worker"]),
        cells.STARTED: Gauge(
            "twinspire_worker_start_time_seconds", "Unix time of its last start.", labels=["worker"]
        ),
        cells.QUEUE_DEPTH: Gauge("twinspire_queue_depth", "Queries that wait.", labels=["worker"]),
        cells.IN_FLIGHT: Gauge("twinspire_in_flight", "Calls that are being answered.", labels=["worker"]),
        cells.STREAMS: Gauge("twinspire_streams", "Streams that are open.", labels=["worker"]),
    }
    restarted = Counter("twinspire_worker_restarts", "Workers that had to be replaced.", labels=["worker"])
    hung = Counter(
        "twinspire_worker_hangs", "Workers killed because their heartbeat had stopped.", labels=["worker"]
    )
    for slot, row in enumerate(rows):
        for cell, gauge in gauges.items():
            gauge.add_metric([str(slot)], row[cell])
        restarted.add_metric([str(slot)], restarts(row))
        hung.add_metric([str(slot)], row[cells.HANGS])
    yield from (*gauges.values(), restarted, hung)


def _bundle(facts: BundleFacts) -> Iterator[Metric]:
    yield Info("twinspire_bundle", "What is served.", {"name": facts.name, "version": facts.version})
    age = max(0.0, time.time() - facts.made)
    yield Gauge("twinspire_bundle_age_seconds", "Since the bundle was written to this disk.", age)
    yield Gauge("twinspire_index_items", "Items in the index.", facts.items)
    yield Gauge("twinspire_index_bytes", "Size of index and vectors.", facts.index_bytes)


def _process_ids(supervisor: int, rows: Sequence[list[float]], others: Mapping[str, int]) -> dict[str, int]:
    workers = {f"worker-{slot}": int(row[cells.PID]) for slot, row in enumerate(rows) if row[cells.UP]}
    named = {"supervisor": supervisor, "metrics": os.getpid(), **others, **workers}
    own = {pid: name for name, pid in named.items()}  # one process may be all of them: then a worker
    return {name: pid for pid, name in own.items()}
