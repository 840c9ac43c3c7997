"""The gateway under load, beside FastAPI with the same search in its process, and gRPC without a gateway.

All servers run on one core, the gateway and its service together, and the load on another.
"""

import os
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from protos.bundle import Manifest
from serving import environment
from tests.load import report, rounds
from tests.load.plan import CLIENTS, Measurement, Plan, Target
from tests.load.report import Report, Table, latencies
from tests.load.rounds import RoundsTest
from tests.load.services import Service, pinned, serve_bundle, started

KINDS = {
    "gateway": "gateway and service",
    "fastapi": "FastAPI, search in process",
    "grpc": "service over gRPC",
}
MEASUREMENTS = [
    Measurement(f"{kind}_c{clients}", "closed loop", kind, clients) for clients in CLIENTS for kind in KINDS
]
PACKAGES = ("fastapi", "grpcio", "httptools", "onnxruntime", "pydantic", "starlette", "uvicorn")
TARGETS = (
    Target("gateway_to_fastapi_c1", "throughput against FastAPI, 1 client"),
    *(
        Target(f"gateway_to_fastapi_c{n}", f"throughput against FastAPI, {n} clients", ">=", 0.5)
        for n in CLIENTS[1:]
    ),
    # Where other programs share the core, two processes get more of it than one; this is the same then.
    *(
        Target(f"gateway_to_fastapi_cpu_c{n}", f"the same for each second of processor time, {n} clients")
        for n in CLIENTS
    ),
    *(Target(f"gateway_to_grpc_c{n}", f"throughput against gRPC, {n} clients") for n in CLIENTS),
)


def duration(plan: Plan) -> float:
    """Approximate seconds of a plan, for the progress bar."""
    return 10.0 + plan.rounds * len(MEASUREMENTS) * (plan.seconds + plan.warm_up)


class GatewayTest(RoundsTest):
    """Measures the gateway."""

    def run(self) -> None:
        """Measure in rounds."""
        bundle, cores = self.plan.bundle, self.cores.servers
        with ExitStack() as stack:
            self._say("starting")
            service = stack.enter_context(serve_bundle(bundle, cores))
            flags = ("--json", "--port", "0", "--address", service.address)
            # This process has set the variable for itself, and a gateway would leave it as it is.
            variables = {"GRPC_EXPERIMENTS": environment.GATEWAY_EXPERIMENTS}
            gateway = stack.enter_context(
                started("gateway", "serving", "gateway", *flags, cores=cores, environment=variables)
            )
            reference = "tests.load.http_reference", str(bundle.absolute())
            fastapi = stack.enter_context(started("fastapi", *reference, cores=cores))
            self.servers = {"gateway": gateway, "fastapi": fastapi, "grpc": service}
            stack.enter_context(pinned(self.cores.load))
            self.measure(MEASUREMENTS)
        for clients in CLIENTS:
            for other in ("fastapi", "grpc"):
                ratio = f"gateway_to_{other}_c{clients}"
                self.figures.divide(ratio, f"gateway_c{clients}_rps", f"{other}_c{clients}_rps")
            ratio = f"gateway_to_fastapi_cpu_c{clients}"
            self.figures.divide(ratio, f"fastapi_c{clients}_cpu_us", f"gateway_c{clients}_cpu_us")

    def report(self, manifest: Manifest) -> dict[str, Any]:
        """The document of a test that has run."""
        more = {"load_average": round(os.getloadavg()[0], 2)}
        return self.document(manifest, PACKAGES, TARGETS, more)

    def once(self, each: Measurement, number: int) -> None:
        """As `RoundsTest.once`."""
        plan, workload = self.plan, self.workload
        server = self.servers[each.server]
        requests = workload.searches() if each.server == "grpc" else workload.http_searches()
        involved = (server, self.servers["grpc"]) if each.server == "gateway" else (server,)
        before = sum(map(_processor_seconds, involved))
        result = self.closed_loop(server.address, requests, each.size, number)
        spent = sum(map(_processor_seconds, involved)) - before
        self.add_calls(each, result)
        # The warm-up's requests took processor time as well, at the same rate.
        share = plan.seconds / (plan.seconds + plan.warm_up)
        self.figures.add(**{f"{each.key}_cpu_us": spent * share / max(1, len(result.latencies)) * 1e6})


def _processor_seconds(service: Service) -> float:
    """Processor time of a process and its children, user and system."""
    times = [process.cpu_times() for process in service.processes()]
    return float(sum(each.user + each.system for each in times))


def show(console: Console, found: Report) -> None:
    """Throughput, latencies and processor time, the ratios, and remarks."""
    title = "closed loop, all servers on one core" if found["pinned"] else "closed loop"
    rows = {f"{kind}_c{n}": (str(n), name) for n in CLIENTS for kind, name in KINDS.items()}
    heads = ("clients", "server", "requests/s", "p50 / p99 ms", "processor us")
    tables = [Table(title, heads, rows, ("{}_rps", latencies, "{}_cpu_us"))]
    report.show(console, found, tables, TARGETS, rounds.about(found), title="ratios")
