"""The whole service: a bundle loaded once, workers that answer from it, and metrics over HTTP.

serve(Plan(folder, port=50051, workers=4), ready=lambda serving: print(serving.address))
"""

import gc
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric

from protos import bundle
from protos.bundle import Manifest, write_file
from protos.errors import BundleError
from serving.access_files import NOTE as ACCESS
from serving.access_files import AccessFiles, access_metrics
from serving.address import is_loopback, join
from serving.board import Board
from serving.exposition import BundleFacts, bundle_facts, serve_metrics
from serving.following.cache import Cache
from serving.following.follow import SHADOW_TARGET, follower
from serving.following.target import Target, bundle_at
from serving.metrics import SharedMetrics
from serving.plan import Plan
from serving.ratelimit import RateLimit
from serving.releases import FOLLOWING, Releases
from serving.requestlog import RequestLog
from serving.served import Lineup, Served
from serving.server import Access, RetrievalServer
from serving.shadow.channel import Channel, ShadowTap
from serving.shadow.process import NOTE as SHADOW
from serving.shadow.process import Shadow
from serving.swap import NEXT, TARGET, Swapper, lineup_of, worker_name
from serving.tls import ServerTls, check_exposure
from serving.tokens import TokenFile
from serving.tracing import Tracing, prepare
from serving.workers import Lifeline, Role, Supervisor, blocked, reserved

log = logging.getLogger(__name__)

GARBAGE = 20_000  # objects between two looks for cycles, of which requests leave none


@dataclass(frozen=True)
class Serving:
    """What is being served, and where."""

    address: str
    port: int
    metrics_port: int | None
    workers: int
    manifest: Manifest

    def document(self) -> dict[str, Any]:
        """As JSON gives it."""
        return {
            "address": self.address,
            "port": self.port,
            "metrics_port": self.metrics_port,
            "workers": self.workers,
            "name": self.manifest.name,
            "bundle_version": self.manifest.bundle_version,
            "item_count": self.manifest.count,
        }


def serve(plan: Plan, ready: Callable[[Serving], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is called as soon as requests are answered.

    SIGHUP makes all workers read the files of tokens and certificates again.

    Raises:
        BundleError: the bundle cannot be used.
        ConfigError: TLS or token files cannot be used, or the service would be open to strangers.
        MissingStage: traces are asked for and their extra is not installed.
        Unavailable: nobody can listen there, or a process did not come up.
        ValueError: a rate, a ratio or the traces' endpoint is none.
    """
    if plan.port_file:
        plan.port_file.unlink(missing_ok=True)
    access = _access(plan)
    if plan.trace_endpoint:
        prepare(plan.trace_endpoint, plan.trace_ratio)
    # A SIGHUP that comes while the bundle is loaded waits for the supervisor.
    with blocked((signal.SIGHUP,)), reserved(plan.host, plan.port) as port:
        log.info("loading %s", plan.folder)
        service = _Service(plan, access, port)
        roles = [
            Role(worker_name(n), service.worker(n), partial(service.shared.heartbeat, n))
            for n in range(plan.workers)
        ]
        metrics = Role("metrics", service.metrics)
        watched = [*roles, *service.followers()]
        if plan.metrics_port is not None:
            watched.append(metrics)

        def started() -> None:
            metrics_port = int(metrics.says) if plan.metrics_port is not None else None
            serving = Serving(join(plan.host, port), port, metrics_port, plan.workers, service.manifest)
            if plan.port_file:
                write_file(plan.port_file, f"{port}\n".encode())
            log.info("serving at %s with %d workers", serving.address, plan.workers)
            ready(serving)

        def died(role: Role) -> None:
            if role in roles:
                service.shared.ended(roles.index(role))

        def hung(role: Role) -> None:
            service.shared.hung(roles.index(role))

        files = AccessFiles(access, service.board)
        files.check()
        supervisor = Supervisor(
            watched, plan.grace, died, plan.worker_timeout, hung, tick=files.check, reload=files.reload
        )
        try:
            supervisor.run(started)
        finally:
            if plan.port_file:
                plan.port_file.unlink(missing_ok=True)


class _Service:
    """What all processes share, and what each of them does."""

    def __init__(self, plan: Plan, access: Access, port: int) -> None:
        self._plan, self._access, self._port = plan, access, port
        # A bundle that is served for good is loaded once, and the workers share its memory. One that may be
        # swapped each of them loads for itself: what is swapped in later could not be shared either, but for
        # its catalogue.
        self._for_good = None if plan.follow else self._load(plan.folder, plan.model_version)
        self.manifest = self._for_good.manifest if self._for_good else bundle.read_manifest(plan.folder)
        self.shared = SharedMetrics.create(plan.workers)
        notes = (TARGET, NEXT, FOLLOWING, SHADOW_TARGET, SHADOW, ACCESS)
        self.board = Board.create((*notes, *map(worker_name, range(plan.workers))))
        first = bundle_at(plan.folder, self.manifest.bundle_version, plan.model_version)
        self.board.write(TARGET, Target(1, first).note())
        has_shadow = plan.follow is not None and plan.follow.shadow
        self._channel = Channel.create(plan.workers) if has_shadow else None
        self._told: BundleFacts | None = None  # to whoever scraped last
        self._releases = Releases(self.board, self.shared.read, self._channel)

    def followers(self) -> Iterator[Role]:
        """Who else there is where an alias is followed."""
        plan = self._plan
        if plan.follow:
            yield Role("follower", follower(plan.follow, self.board, plan.workers, plan.item_tower))
            if self._channel:
                shadow = Shadow(self._channel, self.board, plan.follow.shadow, plan.limits)
                yield Role("shadow", shadow.run)

    def worker(self, slot: int) -> Callable[[Lifeline], None]:
        """What the worker of a slot does."""

        def run(lifeline: Lifeline) -> None:
            plan = self._plan
            gc.set_threshold(GARBAGE)
            self._access.quiet()  # the supervisor logs what is read
            if self._for_good and plan.threads > 1:  # a session's own threads do not survive a fork
                self._for_good.retriever.open_encoder(plan.folder, plan.threads)
            target = self.board.read(TARGET)
            lineup = Lineup(self._for_good or self._champion(target))
            endpoint = plan.trace_endpoint
            tracing = Tracing(endpoint, plan.trace_ratio, slot) if endpoint else None
            server = RetrievalServer(
                lineup.champion.retriever,
                plan.limits,
                plan.host,
                self._port,
                plan.bounds,
                self._access,
                lineup.champion.packed,
                lineup.champion.item_tower,
                self.shared,
                slot,
                RequestLog(plan.log_rate, slot, plan.log_queries),
                tracing,
                share_port=True,
                release=self._releases.state,
                tap=self._tap(slot),
            )
            # A canary comes as all that is swapped in does: if it cannot be had, the champion answers.
            serial = 0 if target["canary"] else target["serial"]
            swapper = Swapper(self.board, worker_name(slot), lineup, serial, self._load, server.swap)
            del lineup  # or the first bundle would stay for as long as the worker
            server.start()
            if plan.follow:
                swapper.start()
            lifeline.ready()
            lifeline.wait(server.reload)
            swapper.stop()
            server.stop(plan.grace)
            if tracing:
                tracing.stop()

        return run

    def metrics(self, lifeline: Lifeline) -> None:
        """Answer scrapes."""
        plan = self._plan
        self._facts()
        with serve_metrics(
            self.shared,
            plan.metrics_host,
            plan.metrics_port or 0,
            self._facts,
            self._metrics,
            self._releases.processes,
        ) as server:
            lifeline.ready(str(server.port))
            lifeline.wait()

    def _metrics(self) -> Iterator[Metric]:
        yield from self._releases.metrics()
        yield from access_metrics(self.board.read(ACCESS))

    def _facts(self) -> BundleFacts | None:
        """Of the champion; None where nobody has looked at its folder before it was gone."""
        champion = Target.of(self.board.read(TARGET)).champion
        if self._told is None or self._told.version != champion.bundle_version:
            folder = Path(champion.folder)
            try:
                self._told = bundle_facts(bundle.read_manifest(folder), folder)
            except (BundleError, OSError):
                return None
        return self._told

    def _tap(self, slot: int) -> ShadowTap | None:
        """What hands a part of a worker's answers to the shadow."""
        if self._channel is None or self._plan.follow is None:
            return None
        return self._channel.tap(slot, self._plan.follow.shadow_share)

    def _champion(self, target: Mapping[str, Any]) -> Served:
        return lineup_of({"champion": target["champion"]}, self._load).champion

    def _load(self, folder: Path, model_version: str) -> Served:
        # Where workers are forked from what is loaded here, the tower's threads are made in each of them.
        plan = self._plan
        if plan.follow is None:
            return Served.load(folder, 1, plan.item_tower, model_version)
        ready = Cache(plan.follow.cache).ready(folder)
        return Served.load(folder, plan.threads, plan.item_tower, model_version, ready)


def _access(plan: Plan) -> Access:
    check_exposure(plan.host, plan.tls is not None, plan.tokens is not None, plan.insecure)
    if plan.metrics_port is not None and not is_loopback(plan.metrics_host):
        log.warning("%s: whoever reaches this address can read the metrics", plan.metrics_host)
    RequestLog(plan.log_rate)  # refuses a rate that is none
    return Access(
        ServerTls(plan.tls) if plan.tls else None,
        TokenFile(plan.tokens) if plan.tokens else None,
        RateLimit.create(plan.rate, plan.burst) if plan.rate else None,
    )
