"""The gateway's metrics.

The names begin with `twinspire_gateway_`. The service's own metrics are those of `serving.observability`.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

OTHER = "other"  # path of requests to unknown paths, of which clients could send any number
CLIENT_GONE = 499  # as nginx counts a request without an answer, usually because the client has disconnected
# Upper bounds of buckets in seconds: 1, 2, 5 in each decade from 100 us to 10 s.
SECONDS = (*(float(f"{digit}e{power}") for power in range(-4, 1) for digit in (1, 2, 5)), 10.0)
# head: no whole head of a request came in time; stall: the client did not read an answer; full: its client
# has its share of all connections; rate: its client opened too many in a short time.
REASONS = ("head", "stall", "full", "rate")


class GatewayMetrics:
    """What one gateway has done.

    Attributes:
        closed: counts connections closed by a bound, by reason; see `REASONS`.
        registry: of all of them, for scrapes.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._answered = Counter(
            "twinspire_gateway_requests",
            "Requests by path and status of HTTP.",
            ["path", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "twinspire_gateway_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.closed = Counter(
            "twinspire_gateway_connections_closed",
            "Connections that a bound of the gateway has closed.",
            ["reason"],
            registry=registry,
        )
        for reason in REASONS:
            self.closed.labels(reason)  # 0 is shown, too

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            path: of its operation, or `OTHER`.
            status: of its answer; `CLIENT_GONE` if there was none.
            seconds: from its head to the end of its answer.
        """
        self._answered.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def show(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show a gauge, which a function reads at each scrape."""
        Gauge(f"twinspire_gateway_{name}", text, registry=self.registry).set_function(read)
