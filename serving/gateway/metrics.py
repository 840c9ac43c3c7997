"""The gateway's metrics.

The names begin with `twinspire_gateway_`. The service's own metrics are those of `serving.observability`.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

OTHER = "other"  # path of requests to unknown paths, of which clients could send any number
CLIENT_GONE = 499  # as nginx counts a request without an answer, usually because the client has disconnected
# Upper bounds of buckets in seconds: 1, 2, 5 in each decade from 100 us to 10 s.
SECONDS = (*(float(f"{digit}e{power}") for power in range(-4, 1) for digit in (1, 2, 5)), 10.0)
REQUESTS = "twinspire_gateway_requests"
DURATION = "twinspire_gateway_request_seconds"
CLOSED = "twinspire_gateway_connections_closed"
GAUGES = {
    "twinspire_gateway_in_progress": "Requests that are being answered.",
    "twinspire_gateway_connections": "Open HTTP connections.",
    "twinspire_gateway_pending_body_bytes": "Bytes of bodies whose rest has not arrived.",
}
# head: no whole head of a request came in time; stall: the client did not read an answer; evicted: it made
# room for a new one, idle or with a request; full: a new one found no room; rate: its client opened too many.
REASONS = ("head", "stall", "evicted", "full", "rate")


class GatewayMetrics(Collector):
    """What one gateway has done; written by the thread of its event loop, read by scrapes.

    Attributes:
        closed: connections closed by a bound, by reason; see `REASONS`.
        gauges: name -> function that gives the value at a scrape; names as in `GAUGES`.
    """

    def __init__(self) -> None:
        self.closed: Counter[str] = Counter()
        self.gauges: dict[str, Callable[[], float]] = {}
        self.registry = CollectorRegistry()
        self._answered: Counter[tuple[str, int]] = Counter()
        self._seconds = Histogram(
            DURATION,
            "Seconds from a request's head to the end of its answer; streams may exceed the last bucket.",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.registry.register(self)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            path: of its operation, or `OTHER`.
            status: of its answer; `CLIENT_GONE` if there was none.
            seconds: from its head to the end of its answer.
        """
        self._answered[path, status] += 1
        self._seconds.labels(path).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """All metrics but the durations, which are registered by themselves."""
        answered = CounterMetricFamily(
            REQUESTS,
            "Requests by path and status of HTTP. A stream that fails after its first line counts as 200.",
            labels=["path", "status"],
        )
        for (path, status), count in sorted(self._answered.copy().items()):
            answered.add_metric([path, str(status)], count)
        yield answered
        closed = CounterMetricFamily(
            CLOSED,
            "Connections that a bound of the gateway has closed.",
            labels=["reason"],
        )
        for reason in REASONS:
            closed.add_metric([reason], self.closed[reason])
        yield closed
        for name, text in GAUGES.items():
            if name in self.gauges:
                yield GaugeMetricFamily(name, text, self.gauges[name]())
