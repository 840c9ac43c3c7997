"""The configuration of a service: the flags of `python -m twinspire.serving serve` as one record."""

from dataclasses import dataclass, field
from pathlib import Path

from twinspire.serving import flag_types as flags
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.events.config import EventsConfig
from twinspire.serving.flag_types import option
from twinspire.serving.live.config import CatalogueConfig
from twinspire.serving.rate_limit import ITEMS_PER_TOKEN
from twinspire.serving.rollout.follower import FollowConfig
from twinspire.serving.security.tls import TlsFiles
from twinspire.serving.served_log.config import ServedLogConfig
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
        model_version: the bundle's version in the registry; empty if it is not from there.
        follow: the alias whose bundle is served after the first one; if not given, the bundle never changes.
        catalogue: the store of live items; if not given, the service takes no writes.
        events: the store of events; if not given, the service records none, and knows no users.
        served_log: the log of answers, and exploration; if not given, there is neither.
    """

    folder: Path
    host: str = option("127.0.0.1", "address to listen on", flags.host)
    port: int = 0
    port_file: Path | None = option(None, "write the port here once requests are answered", flags.output_file)
    workers: int = 1
    grace: float = option(10.0, "seconds for running requests to finish", flags.seconds)
    worker_timeout: float = option(
        30.0, "seconds without a heartbeat after which a process is replaced; 0: never", flags.seconds_or_none
    )
    limits: RequestLimits = field(default_factory=RequestLimits)
    bounds: WorkerLimits = field(default_factory=WorkerLimits)
    tls: TlsFiles | None = None
    tokens: Path | None = option(
        None,
        "TOML file of tokens, as `python -m twinspire.serving token` writes it; read again when it changes; "
        "deleting it revokes no token, `token = []` in it revokes all",
        Path,
        "access",
    )
    insecure: bool = option(False, "listen beyond this machine without TLS", group="access")
    rate: float = option(
        0,
        "tokens a second that a client may spend; 0: no limit. A query costs 1 token, and 1 more for each "
        f"{ITEMS_PER_TOKEN} items that it asks for or excludes, or a filter's work that takes as long",
        flags.number_up_to(1e9),
        "access",
    )
    burst: int = option(
        100, "tokens that a client may spend at once, with --rate", group="access", partner="rate"
    )
    metrics_port: int | None = option(
        None, "port of /metrics for Prometheus; 0 for any free port", flags.port, "observability"
    )
    metrics_host: str = option(
        "127.0.0.1", "address of the metrics", str, "observability", partner="metrics_port"
    )
    trace_endpoint: str | None = option(
        None, "OTLP collector for OpenTelemetry traces, such as http://127.0.0.1:4317", str, "observability"
    )
    trace_ratio: float = option(
        0.01,
        "share of the requests to trace",
        flags.number_up_to(1),
        "observability",
        partner="trace_endpoint",
    )
    item_tower: bool = option(False, "offer the item tower too: `items` of Encode")
    model_version: str = ""
    follow: FollowConfig | None = None
    catalogue: CatalogueConfig | None = None
    events: EventsConfig | None = None
    served_log: ServedLogConfig | None = None
