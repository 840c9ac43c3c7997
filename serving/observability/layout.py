"""Where each metric's values are in the memory that the workers share; follows from `metrics.py`.

The memory has a row of 64-bit floats (cells) for each worker. Every label in it has a fixed set of values. So
a row has a fixed width, no client can enlarge it by inventing a label, and all rows are laid out before the
first worker is forked.

A histogram of B bounds takes B + 2 cells: the number of values in each bucket, those above the last bound
included, and then the sum of all values. The count is the sum of the buckets. So a histogram is valid
whenever it is read, even if its process was killed between two of its cells.
"""

from collections.abc import Sequence
from itertools import product

from twinspire.serving.observability import metrics
from twinspire.serving.observability.metrics import METRICS, Kind, Metric, MetricSource

CELL_BYTES = 8

# A row begins with the state of its worker; no metric is kept in these cells.
PID = 0
HEARTBEAT = 1  # turns of the worker's event loop; 0 until the loop has started
SEEN_SEQUENCE = 2  # of the catalogue, up to which the worker's searches see changes
OVERLAY_ROWS = 3  # that the worker's searches compare beside the champion's own items
_COUNTED = 4

# Metrics by bundle version: a row has room for this many versions, and the version that was not served for
# longest is replaced. The first cell of a version's block identifies it, by the first 13 hexadecimal digits:
# as many bits as a float has for integers.
VERSIONS = 4
DIGITS = 13


def width(bounds: Sequence[float]) -> int:
    """Cells that a histogram with these bounds takes."""
    return len(bounds) + 2


def _allocate(
    sources: Sequence[MetricSource], start: int
) -> tuple[dict[Metric, dict[tuple[str, ...], int]], int]:
    """Of each metric of these sources the cell of each combination of label values; the first free cell."""
    cells: dict[Metric, dict[tuple[str, ...], int]] = {}
    for metric in METRICS:
        if metric.source in sources:
            values = [each for label, each in metric.labels.items() if label not in ("worker", "version")]
            size = width(metric.buckets) if metric.kind is Kind.HISTOGRAM else 1
            cells[metric] = {labels: start + n * size for n, labels in enumerate(product(*values))}
            start += size * len(cells[metric])
    return cells, start


_ROW_CELLS, _FIRST_VERSION = _allocate((MetricSource.SUM, MetricSource.WORKER), _COUNTED)
_VERSION_CELLS, VERSION_WIDTH = _allocate((MetricSource.BUNDLE,), 1)  # from the start of a version's block
CELLS = {
    **_ROW_CELLS,
    **_VERSION_CELLS,
}  # metric -> values of its labels beside `worker` and `version` -> cell
VERSION_STARTS = tuple(_FIRST_VERSION + v * VERSION_WIDTH for v in range(VERSIONS))
_USED = _FIRST_VERSION + VERSIONS * VERSION_WIDTH
ROW = -(-_USED // 8) * 8  # whole cache lines of 64 bytes, so that two workers never write to the same line


def cell(metric: Metric) -> int:
    """The cell of a metric in shared memory that has no labels beside `worker` and `version`.

    The first of its cells if the metric is a histogram.
    """
    return CELLS[metric][()]


def cells(metric: Metric) -> dict[str, int]:
    """Label value -> `cell`, of a metric with one label beside `worker` and `version`."""
    return {value: found for (value,), found in CELLS[metric].items()}


REQUESTS = {  # method -> code -> cell
    method: {code: CELLS[metrics.REQUESTS][method, code] for code in metrics.CODES}
    for method in metrics.METHODS
}
QUERIES = cells(metrics.QUERIES)
PLANS = cells(metrics.PLANS)
INTERLEAVED = cells(metrics.INTERLEAVED)
REFUSED = cells(metrics.REFUSED)
CONNECTIONS_CLOSED = cells(metrics.CONNECTIONS_CLOSED)
REQUEST_SECONDS = cells(metrics.REQUEST_SECONDS)
STAGE_SECONDS = cells(metrics.STAGE_SECONDS)
SHOWN_DROPPED = cell(metrics.EVENTS_SHOWN_DROPPED)
BATCH_SIZE = cell(metrics.BATCH_SIZE)
UP = cell(metrics.WORKER_UP)
STARTED = cell(metrics.WORKER_START)
QUEUE_DEPTH = cell(metrics.QUEUE_DEPTH)
IN_FLIGHT = cell(metrics.IN_FLIGHT)
STREAMS = cell(metrics.STREAMS)
RESTARTS = cell(metrics.RESTARTS)
HANGS = cell(metrics.HANGS)
VERSION_REQUESTS = cells(metrics.BUNDLE_REQUESTS)
VERSION_SECONDS = cell(metrics.BUNDLE_SECONDS)

# Gauges that are 0 once their worker has ended.
GAUGES = (
    SEEN_SEQUENCE,
    OVERLAY_ROWS,
    *(
        cell(metric)
        for metric in METRICS
        if metric.kind is Kind.GAUGE
        and metric.source is MetricSource.WORKER
        and metric is not metrics.WORKER_START
    ),
)


def version_cell(version: str) -> float:
    """The value that identifies a bundle version in shared memory; 0 is no version."""
    return float(int(version[:DIGITS] or "0", 16))


def version_text(value: float) -> str:
    """The first 12 digits of the version that a value identifies, as the bundle's folder is named."""
    return f"{int(value):0{DIGITS}x}"[:12]
