"""What to serve, and how: the flags of `python -m serving serve` as one record."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from serving.bundles import BUNDLES
from serving.limits import Bounds, Limits
from serving.tls import TlsFiles


@dataclass(frozen=True)
class Follow:
    """An alias of the registry to serve, whatever it names.

    Args:
        model: such as `models:/pydocs@champion`.
        poll_seconds: between two looks at the registry.
        canary: an alias whose bundle answers a part of the requests; none where it is empty.
        canary_share: of the requests, 0 to 1.
        shadow: an alias whose bundle is asked too, off the answers' path; none where it is empty.
        shadow_share: of the searches that it is asked.
        memory_mib: MiB that a new bundle may take in all workers; 0: what the machine has left.
        cache: folder that keeps the bundles.
    """

    model: str
    poll_seconds: float = 10.0
    canary: str = ""
    canary_share: float = 0.05
    shadow: str = ""
    shadow_share: float = 0.1
    memory_mib: int = 0
    cache: Path = BUNDLES


@dataclass(frozen=True)
class Plan:
    """What to serve, and how.

    Args:
        folder: of the bundle that is served first.
        host, port: to listen on; port 0 lets the system choose.
        port_file: receives the port once requests are answered.
        workers: processes that answer.
        threads: of the query tower in one call.
        grace: seconds in which requests may be finished at the end.
        worker_timeout: seconds without a heartbeat after which a worker is replaced; 0: never.
        limits: of a request.
        bounds: of a worker.
        tls: files to speak TLS with.
        tokens: file of the tokens that count.
        insecure: serve beyond this machine in the clear.
        rate, burst: tokens (`ratelimit.tokens`) a second, and at once, that each client may spend; no bound
            where the rate is 0.
        metrics_host, metrics_port: where Prometheus finds metrics; nowhere where the port is None.
        log_rate: the part of requests that gets a line in the log.
        log_queries: the lines hold the texts of queries.
        trace_endpoint, trace_ratio: where traces go, and of which part of the requests.
        item_tower: offer the item tower too, to who speaks the Open Inference Protocol.
        model_version: of the registry, where the bundle is from there.
        follow: the alias that says what is served from then on; without, it is that bundle for good.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 0
    port_file: Path | None = None
    workers: int = 1
    threads: int = 1
    grace: float = 10.0
    worker_timeout: float = 30.0
    limits: Limits = field(default_factory=Limits)
    bounds: Bounds = field(default_factory=Bounds)
    tls: TlsFiles | None = None
    tokens: Path | None = None
    insecure: bool = False
    rate: float = 0.0
    burst: int = 100
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    log_rate: float = 0.0
    log_queries: bool = False
    trace_endpoint: str | None = None
    trace_ratio: float = 0.01
    item_tower: bool = False
    model_version: str = ""
    follow: Follow | None = None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
