"""The gateway under load, beside gRPC without a gateway.

All servers run on one core, the gateway and its service together, and the load on another.
"""

from argparse import Namespace
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from tests.load import report, rounds
from tests.load.cli.steps import run_rounds, tested_folder
from tests.load.plan import CLIENTS, Measurement, Plan, Target
from tests.load.report import Report, Table, latencies
from tests.load.rounds import RoundsTest
from tests.load.services import Service, pinned, serve_bundle, started
from twinspire.protos.bundle import Manifest
from twinspire.protos.cli import Result
from twinspire.serving import environment
from twinspire.serving.retrieval.answer import FusionMode

KINDS = {
    "gateway": "gateway and service",
    "grpc": "service over gRPC",
}
MEASUREMENTS = [
    Measurement(f"{kind}_c{clients}", "closed loop", kind, clients) for clients in CLIENTS for kind in KINDS
]
PACKAGES = ("grpcio", "h11", "onnxruntime", "starlette", "uvicorn")
TARGETS = [Target(f"gateway_to_grpc_c{n}", f"throughput against gRPC, {n} clients") for n in CLIENTS]


def run(arguments: Namespace) -> Result:
    """Run the test.

    Raises:
        DataError: answers differ from the bundle's own; the report has been shown.
        MissingStage: there is no bundle.
        Unavailable: a server does not start, or does not answer.
    """
    names = ("rounds", "seconds", "k", "seed")
    plan = Plan(tested_folder(arguments), **{name: getattr(arguments, name) for name in names})
    return run_rounds(arguments, plan, GatewayTest, duration(plan), show, FusionMode.DEFAULT)


def duration(plan: Plan) -> float:
    """Approximate seconds of a plan, for the progress bar."""
    return 10.0 + plan.rounds * len(MEASUREMENTS) * (plan.seconds + plan.warm_up)


class GatewayTest(RoundsTest):
    """Measures the gateway."""

    def run(self) -> None:
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
            self.servers = {"gateway": gateway, "grpc": service}
            stack.enter_context(pinned(self.cores.load))
            self.measure(MEASUREMENTS)
        for clients in CLIENTS:
            ratio = f"gateway_to_grpc_c{clients}"
            self.figures.divide(ratio, f"gateway_c{clients}_rps", f"grpc_c{clients}_rps")

    def report(self, manifest: Manifest) -> dict[str, Any]:
        """The document of a test that has run."""
        return self.document(manifest, PACKAGES, TARGETS, {})

    def once(self, each: Measurement, number: int) -> None:
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
