"""The whole service: workers that answer from a bundle, and the processes beside them.

serve(ServiceConfig(folder, port=50051, workers=4), ready=print)
"""

from twinspire.serving import environment  # noqa: F401  # before gRPC is imported

# isort: split
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from twinspire.protos import bundle
from twinspire.protos.bundle import write_file
from twinspire.protos.errors import ConfigError, Unavailable
from twinspire.serving import heap
from twinspire.serving.address import is_loopback, join
from twinspire.serving.config import ServiceConfig
from twinspire.serving.descriptors import fitting
from twinspire.serving.engine.limits import OTHER_FILES
from twinspire.serving.events.config import EventsConfig
from twinspire.serving.live.config import PATIENCE_SECONDS, CatalogueConfig
from twinspire.serving.live.live_items import NO_WRITES, LivePlace
from twinspire.serving.live.process.frames import Channel as StoreChannel
from twinspire.serving.live.process.frames import StoreClient
from twinspire.serving.observability.exporter import serve_metrics
from twinspire.serving.observability.tracing import Tracing, prepare
from twinspire.serving.observability.worker_metrics import SharedMetrics
from twinspire.serving.rate_limit import RateLimit
from twinspire.serving.rollout.bundle_cache import BundleCache
from twinspire.serving.rollout.bundle_validation import validate_bundle
from twinspire.serving.rollout.follower import follower
from twinspire.serving.rollout.hot_swap import HotSwapper, load_split
from twinspire.serving.rollout.interleaving import check_share
from twinspire.serving.rollout.loaded_bundle import LoadedBundle, TrafficSplit
from twinspire.serving.rollout.target import Target, bundle_at
from twinspire.serving.security.auth import Access
from twinspire.serving.security.tls import ServerTls, check_exposure
from twinspire.serving.security.tokens import TokenFile
from twinspire.serving.served_log.config import ServedLogConfig, reserve
from twinspire.serving.served_log.shared_queue import SharedQueues
from twinspire.serving.server import RetrievalServer
from twinspire.serving.service_status import ServiceStatus
from twinspire.serving.shadow.mirror import MOST_WAITING, TrafficMirror
from twinspire.serving.shadow.process import Shadow
from twinspire.serving.shared_state import (
    CATALOGUE,
    ENTRIES,
    EVENTS,
    SERVED_LOG,
    TARGET,
    SharedState,
    worker_name,
)
from twinspire.serving.supervisor import Heartbeat, ProcessSpec, Supervisor, WorkerHandle, reserved

log = logging.getLogger(__name__)

GARBAGE = 20_000  # objects between two collections of the youngest generation; requests leave no cycles


def serve(config: ServiceConfig, ready: Callable[[dict[str, Any]], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        ready: called as soon as requests are answered, with the addresses, the number of workers, and the
            name, version and size of the first bundle.

    SIGHUP is ignored: files of tokens and certificates are read again when they change. If systemd has
    started this process, the service notifies systemd when it is ready, and pings its watchdog.

    Raises:
        BundleError: the bundle cannot be used.
        ConfigError: TLS or token files cannot be used, or the service would be open to strangers.
        MissingStage: traces are asked for and their extra is not installed.
        Unavailable: the address cannot be listened on, or a process did not start.
        ValueError: a rate, a ratio or the endpoint of traces is out of its range.
    """
    if config.port_file:
        config.port_file.unlink(missing_ok=True)
    heap.use_one_arena()
    access = _access(config)
    if config.metrics_port is not None:
        _check_free(config.metrics_host, config.metrics_port)
    if config.trace_endpoint:
        prepare(config.trace_endpoint, config.trace_ratio)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with reserved(config.host, config.port) as port:
        log.info("loading %s", config.folder)
        service = _Service(config, access, port)
        workers = [
            ProcessSpec(worker_name(n), service.worker(n), partial(service.shared.heartbeat, n))
            for n in range(config.workers)
        ]
        metrics = service.metrics_process()
        processes = [*workers, *service.processes]
        if config.metrics_port is not None:
            processes.append(metrics)

        def started() -> None:
            address, manifest = join(config.host, port), service.manifest
            if config.port_file:
                write_file(config.port_file, f"{port}\n".encode())
            log.info("serving at %s with %d workers", address, config.workers)
            notify("READY=1", f"STATUS=serving {manifest.name} at {address}")
            ready(
                {
                    "address": address,
                    "port": port,
                    "metrics_port": int(metrics.report) if config.metrics_port is not None else None,
                    "workers": config.workers,
                    "name": manifest.name,
                    "bundle_version": manifest.bundle_version,
                    "item_count": manifest.count,
                }
            )

        def died(process: ProcessSpec) -> None:
            if process in workers:
                service.shared.ended(workers.index(process))

        def hung(process: ProcessSpec) -> None:
            if process in workers:
                service.shared.hung(workers.index(process))

        def tick() -> None:
            notify("WATCHDOG=1")
            access.publish(service.shared_state)

        access.publish(service.shared_state)
        supervisor = Supervisor(processes, config.grace, died, config.worker_timeout, hung, tick)
        try:
            supervisor.run(started)
        finally:
            if config.port_file:
                config.port_file.unlink(missing_ok=True)


class _Service:
    """The state that all processes share, and the functions that the processes run."""

    def __init__(self, config: ServiceConfig, access: Access, port: int) -> None:
        bounds = config.bounds
        # At the limit of descriptors the C core could accept no connection, and would log each attempt.
        connections = fitting(bounds.connections, OTHER_FILES, "--connections")
        self._config = replace(config, port=port, bounds=replace(bounds, connections=connections))
        self._access = access
        # A bundle that never changes is loaded once, and the workers share its memory. If bundles can be
        # swapped, each worker loads its own, because a later bundle could not be shared either, except for
        # its catalogue.
        self._shared_bundle = None if config.follow else self._load(config.folder, config.model_version)
        self.manifest = (
            self._shared_bundle.manifest if self._shared_bundle else bundle.read_manifest(config.folder)
        )
        if self.manifest.is_remote and not config.follow:  # a followed bundle has been validated
            validate_bundle(config.folder)
        if config.catalogue and self.manifest.is_remote:
            raise ConfigError(f"{NO_WRITES} {self.manifest.index.kind}, as that of {config.folder}")
        if config.follow:
            check_share(config.follow.interleave_share, self.manifest)
        self.shared = SharedMetrics(config.workers)
        self.shared_state = SharedState((*ENTRIES, *map(worker_name, range(config.workers))))
        first = bundle_at(config.folder, self.manifest.bundle_version, config.model_version)
        self.shared_state.write(TARGET, asdict(Target(1, first)))
        self.processes: list[ProcessSpec] = []  # beside the workers
        self._shadow_queues: SharedQueues | None = None
        self._catalogue: StoreChannel | None = None
        self._events: StoreChannel | None = None
        self._live: LivePlace | None = None
        self._log_queues: SharedQueues | None = None
        if config.catalogue:
            self._add_catalogue(config.catalogue)
        if config.events:
            self._add_events(config.events)
        if config.served_log:
            self._add_log(config.served_log)
        if config.follow:
            follow = follower(config.follow, self.shared_state, config.item_tower)
            self.processes.append(ProcessSpec("follower", follow))
            if config.follow.shadow:
                self._shadow_queues = SharedQueues(config.workers, MOST_WAITING)
                alias, limits = config.follow.shadow, config.limits
                shadow = Shadow(self._shadow_queues, self.shared_state, alias, limits, self._live)
                self.processes.append(ProcessSpec("shadow", shadow.run))
        folder = config.served_log.folder if config.served_log else None
        self._status = ServiceStatus(
            self.shared_state, self.shared, self._shadow_queues, self._log_queues, folder
        )

    def _add_catalogue(self, config: CatalogueConfig) -> None:
        """Add the process of live items."""
        # Only here: it needs SQLAlchemy.
        from twinspire.serving.live.process.catalogue_process import CatalogueProcess, initial_catalogue_entry

        self._held = ExitStack()  # until the last process has ended
        entry = initial_catalogue_entry(config, self.manifest.catalogue, self._held, self._config.grace)
        self.shared_state.write(CATALOGUE, entry)
        self._live = LivePlace(config.place, partial(self.shared_state.read, CATALOGUE))
        self._catalogue = self._add_store("catalogue", partial(CatalogueProcess, config))

    def _add_events(self, config: EventsConfig) -> None:
        """Add the process that stores events."""
        from twinspire.serving.events.process import EventsProcess, initial_events_entry

        self.shared_state.write(EVENTS, initial_events_entry(config))
        self._events = self._add_store("events", partial(EventsProcess, config))

    def _add_store(self, name: str, make: Callable[..., Any]) -> StoreChannel:
        """Add the process of a store; returns the channel to it."""
        channel, heartbeat, grace = StoreChannel(), Heartbeat(), self._config.grace

        def run(handle: WorkerHandle) -> None:
            make(channel, self.shared_state, grace, heartbeat).run(handle)

        self.processes.append(ProcessSpec(name, run, heartbeat.count, PATIENCE_SECONDS))
        return channel

    def _add_log(self, config: ServedLogConfig) -> None:
        """Add the process of the served log."""
        self._log_folder = reserve(config.folder)  # until the last process has ended
        self.shared_state.write(SERVED_LOG, {"rows": 0, "lost": 0, "bytes": 0, "last_error": ""})
        self._log_queues = queues = SharedQueues(self._config.workers)

        def run(handle: WorkerHandle) -> None:
            from twinspire.serving.served_log.process import LogWriter  # which needs pyarrow

            LogWriter(config, queues, self.shared_state, self.shared, self._config.grace).run(handle)

        self.processes.append(ProcessSpec("served log", run))

    def worker(self, slot: int) -> Callable[[WorkerHandle], None]:
        """The function that the worker of a slot runs until it has to stop."""

        def run(handle: WorkerHandle) -> None:
            config = self._config
            gc.set_threshold(GARBAGE)
            target = self.shared_state.read(TARGET)
            own = self._shared_bundle
            if own and self._live:  # each worker has live items of its own
                own = own.with_live(self._live)
            split = TrafficSplit(own) if own else load_split({"champion": target["champion"]}, self._load)
            follow, endpoint = config.follow, config.trace_endpoint
            mirror = None
            if self._shadow_queues and follow:
                share, most = follow.shadow_share, config.limits.max_exclude
                mirror = TrafficMirror(self._shadow_queues, self.shared_state, slot, share, most)
            tracing = Tracing(endpoint, config.trace_ratio, slot) if endpoint else None
            catalogue, events = (
                StoreClient(channel) if channel else None for channel in (self._catalogue, self._events)
            )
            clients = [each for each in (catalogue, events) if each]
            for each in clients:
                each.start()
            server = RetrievalServer(
                split.champion,
                config,
                self._access,
                self.shared,
                slot,
                mirror,
                tracing,
                share_port=True,
                status=self._status.state,
                catalogue=catalogue,
                shared_state=self.shared_state,
                events=events,
                log_queues=self._log_queues,
            )
            # A canary is loaded like any later change: if it cannot be loaded, the champion answers.
            serial = 0 if target["canary"] else target["serial"]
            swapper = HotSwapper(self.shared_state, worker_name(slot), split, serial, self._load, server.swap)
            del split  # otherwise the first bundle would live as long as the worker
            server.start()
            if follow or self._live:
                swapper.start()
            handle.ready()
            handle.wait()
            swapper.stop()
            server.stop(config.grace)
            for each in clients:
                each.stop()
            if tracing:
                tracing.stop()

        return run

    def metrics_process(self) -> ProcessSpec:
        """The process of `/metrics`, which answers Prometheus's scrapes.

        If it is started again, it takes the port that it reported at the start of the service.
        """
        config, status = self._config, self._status

        def run(handle: WorkerHandle) -> None:
            list(status.champion_readings())  # keeps them, because the bundle's folder may be removed later
            port = int(process.report or config.metrics_port or 0)
            with serve_metrics(
                self.shared, config.metrics_host, port, status.metrics, status.processes
            ) as found:
                handle.ready(str(found))
                handle.wait()

        process = ProcessSpec("metrics", run)
        return process

    def _load(self, folder: Path, model_version: str) -> LoadedBundle:
        config = self._config
        if config.follow is None:
            return LoadedBundle.load(folder, config.item_tower, model_version)
        ready = BundleCache(config.follow.cache).ready(folder)
        loaded = LoadedBundle.load(folder, config.item_tower, model_version, ready)
        return loaded.with_live(self._live) if self._live else loaded


def notify(*lines: str) -> None:
    """Tell the service manager, such as systemd, lines such as `READY=1`.

    They go in one datagram to the Unix socket that `NOTIFY_SOCKET` names; the protocol is that of
    sd_notify(3). Without that variable nothing is sent. A message that cannot be sent is logged, and the
    service goes on.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    name = f"\0{address[1:]}" if address[0] == "@" else address  # "@": Linux's abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)  # a manager that does not read must not stop the service
            connection.sendto("\n".join(lines).encode(), name)
    except OSError as error:
        log.warning("%s: cannot notify the service manager there: %s", address, error)


def _check_free(host: str, port: int) -> None:
    """Refuse an address of the metrics that is in use, before a bundle is loaded.

    Raises:
        Unavailable: it cannot be listened on.
    """
    try:
        with reserved(host, port):
            pass
    except Unavailable as error:
        free = "--metrics-port 0 takes any free port (make serve METRICS_PORT=0)"
        raise Unavailable(f"{error}; does another service serve metrics there? {free}") from None


def _access(config: ServiceConfig) -> Access:
    """Read the files that protect the service, and refuse a configuration that cannot work.

    Raises:
        ConfigError, ValueError: as `serve`.
    """
    client_ca = config.tls is not None and config.tls.client_ca is not None
    check_exposure(config.host, config.tls is not None, config.tokens is not None, config.insecure, client_ca)
    if config.metrics_port is not None and not is_loopback(config.metrics_host):
        log.warning("%s: any client that reaches this address can read the metrics", config.metrics_host)
    return Access(
        ServerTls(config.tls) if config.tls else None,
        TokenFile(config.tokens) if config.tokens else None,
        RateLimit(config.rate, config.burst) if config.rate else None,
    )
