"""Histograms of cells as the official client's families of metrics."""

from collections.abc import Sequence

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from serving.histogram import cumulative


def add_histogram(
    family: HistogramMetricFamily, labels: list[str], bounds: Sequence[float], cells: Sequence[float]
) -> None:
    """Add a histogram to its family.

    Args:
        family: of it.
        labels: their values.
        bounds: of its buckets.
        cells: of it, `histogram.width(bounds)` of them.
    """
    buckets, observed = cumulative(bounds, cells)
    family.add_metric(labels, [(_text(bound), count) for bound, count in buckets], observed)


def _text(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]
