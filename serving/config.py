"""The configuration of a service: the flags of `python -m twinspire.serving serve` as one record."""

from dataclasses import dataclass, field
from pathlib import Path

from twinspire.serving import flag_types as flags
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.events.config import EventsConfig
from twinspire.serving.flag_types import option
from twinspire.serving.live.config import CatalogueConfig
from twinspire.serving.rollout.follower import FollowConfig
from twinspire.serving.security.tls import TlsFiles
from twinspire.serving.wire.converters import RequestLimits


@dataclass(frozen=True)
class ServiceConfig:
    """What to serve, and how.

    Args:
        folder: of the first bundle to serve.
        port: to listen on; 0 lets the system choose.
        workers: number of worker processes.
        limits: bounds of one request.
        bounds: bounds of one worker: its queue, connections and calls.
        tls: certificate and key files; without them connections are not encrypted.
        tokens: file of bearer tokens; without it every client may call.
        insecure: allows listening on an address that other machines reach, without TLS.
        rate, burst: tokens (`rate_limit.tokens`) a second, and at once, that each client may spend; no limit
            if the rate is 0.
        metrics_host, metrics_port: address of `/metrics`; none if the port is None.
        trace_endpoint, trace_ratio: where traces are sent, and the share of the requests that is traced.
        model_version: the bundle's version in the registry; empty if it is not from there.
        follow: the alias whose bundle is served after the first one; if not given, the bundle never changes.
        catalogue: the store of live items; if not given, the service takes no writes.
        events: the store of events; if not given, the service records none, and knows no users.
    """

    folder: Path
    host: str = option("127.0.0.1", "address to listen on", flags.host)
    port: int = 0
    port_file: Path | None = option(None, "write the port here once requests are answered", flags.output_file)
    workers: int = 1
    threads: int = option(1, "threads of the query tower in one call")
    grace: float = option(10.0, "seconds for running requests to finish", flags.seconds)
    worker_timeout: float = option(
        30.0, "seconds without a heartbeat after which a process is replaced; 0: never", flags.seconds_or_none
    )
    limits: RequestLimits = field(default_factory=RequestLimits)
    bounds: WorkerLimits = field(default_factory=WorkerLimits)
    tls: TlsFiles | None = None
    tokens: Path | None = None
    insecure: bool = False
    rate: float = 0.0
    burst: int = 100
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    trace_endpoint: str | None = None
    trace_ratio: float = 0.01
    item_tower: bool = option(False, "offer the item tower too: `items` of Encode")
    model_version: str = ""
    follow: FollowConfig | None = None
    catalogue: CatalogueConfig | None = None
    events: EventsConfig | None = None
