"""`/metrics` over HTTP, in the text formats of Prometheus and OpenMetrics.

    with serve_metrics(shared, "127.0.0.1", 9464, status.metrics) as port:
        print(port)

The official client serves it in a process of its own, so that a scrape takes no time from a worker, and
negotiates the format with the scraper. The values are read during the scrape: the workers' rows
(`worker_metrics.py`), what `collect` yields, and what the operating system reports of the processes.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, chain
from math import inf

import psutil
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from twinspire.protos.errors import Unavailable
from twinspire.serving.address import join, listen_error
from twinspire.serving.observability import layout, metrics
from twinspire.serving.observability.metrics import METRICS, Kind, Metric, MetricSource, Reading
from twinspire.serving.observability.worker_metrics import SharedMetrics, sum_by_version

OF_PROCESSES = (metrics.RESIDENT_BYTES, metrics.PROPORTIONAL_BYTES, metrics.OPEN_FILES, metrics.CPU_SECONDS)


@contextmanager
def serve_metrics(
    shared: SharedMetrics,
    host: str = "127.0.0.1",
    port: int = 0,
    collect: Callable[[], Iterable[Reading]] = tuple,
    processes: Callable[[], Mapping[str, int]] = dict,
) -> Iterator[int]:
    """Answer scrapes until the block ends; yields the port.

    Args:
        shared: the workers' metrics.
        port: to listen on; 0 lets the system choose.
        collect: called at each scrape; yields the metrics that are not in shared memory.
        processes: called at each scrape; gives name -> id of the service's processes beside the workers.

    Raises:
        Unavailable: the address cannot be listened on.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ServiceCollector(shared, collect, processes))
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"{join(host, port)}: cannot serve metrics there: {listen_error(error)}") from None
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _ServiceCollector(Collector):
    """Collects the metrics of a service at each scrape; arguments as of `serve_metrics`."""

    def __init__(
        self,
        shared: SharedMetrics,
        collect: Callable[[], Iterable[Reading]],
        processes: Callable[[], Mapping[str, int]],
    ) -> None:
        self._shared, self._collect, self._processes = shared, collect, processes

    def collect(self) -> Iterator[Family]:
        """All metrics, in the order of `METRICS`."""
        rows = self._shared.read()
        workers = {f"worker-{slot}": int(row[layout.PID]) for slot, row in enumerate(rows) if row[layout.UP]}
        named = {
            "supervisor": self._shared.supervisor,
            "metrics": os.getpid(),
            **self._processes(),
            **workers,
        }
        by_id = {pid: name for name, pid in named.items()}  # one process may have all roles: show it once
        readings = chain(self._collect(), process_readings({name: pid for pid, name in by_id.items()}))
        families = {metric: _family(metric, samples) for metric, samples in readings}
        families.update(_shared_families(rows))
        yield from (families[metric] for metric in METRICS if metric in families)


def process_readings(processes: Mapping[str, int]) -> Iterator[Reading]:
    """Memory, open files and processor time of each process; none of a process that has ended.

    The proportional set size counts a page that n processes share as 1/n, so that its sum over all processes
    is the memory that they use together; only Linux reports it.

    Args:
        processes: value of the label `process` -> process id.
    """
    found: dict[Metric, list[tuple[list[str], float]]] = {metric: [] for metric in OF_PROCESSES}
    for name, pid in processes.items():
        try:
            process = psutil.Process(pid)
            memory, times = process.memory_full_info(), process.cpu_times()
            pss = getattr(memory, "pss", None)
            values = (memory.rss, pss, process.num_fds(), times.user + times.system)
        except psutil.Error:
            continue
        for metric, value in zip(OF_PROCESSES, values, strict=True):
            if value is not None:
                found[metric].append(([name], value))
    yield from found.items()


def _shared_families(rows: Sequence[Sequence[float]]) -> Iterator[tuple[Metric, Family]]:
    """The metrics in shared memory."""
    total = [sum(each) for each in zip(*rows, strict=True)]
    called = [
        method
        for method, codes in layout.REQUESTS.items()
        if method in metrics.RETRIEVAL or any(total[cell] for cell in codes.values())
    ]
    versions = sum_by_version(rows)
    for metric, cells in layout.CELLS.items():
        family = _family(metric, ())
        if metric.source is MetricSource.WORKER:
            for slot, row in enumerate(rows):
                _add(family, metric, [str(slot)], row, cells[()])
        elif metric.source is MetricSource.BUNDLE:
            for version, block in versions.items():
                for labels, cell in cells.items():
                    if metric.kind is not Kind.COUNTER or block[cell]:  # most codes never occur
                        _add(family, metric, [version, *labels], block, cell)
            if not versions:
                continue
        else:
            for labels, cell in cells.items():
                if "method" not in metric.labels or labels[0] in called:
                    _add(family, metric, labels, total, cell)
        yield metric, family


def _add(family: Family, metric: Metric, labels: Sequence[str], row: Sequence[float], cell: int) -> None:
    """Add one series to a family, from cells in shared memory."""
    if isinstance(family, HistogramMetricFamily):
        *counts, observed = row[cell : cell + layout.width(metric.buckets)]
        bounds = [str(floatToGoString(each)) for each in (*metric.buckets, inf)]  # type: ignore[no-untyped-call]
        family.add_metric(labels, [*zip(bounds, accumulate(counts), strict=True)], observed)
    elif isinstance(family, CounterMetricFamily | GaugeMetricFamily):
        family.add_metric(labels, row[cell])


def _family(metric: Metric, samples: metrics.Samples) -> Family:
    """A metric in the official client's form."""
    labels = list(metric.labels)
    if metric.kind is Kind.HISTOGRAM:
        return HistogramMetricFamily(metric.name, metric.help, labels=labels)
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
