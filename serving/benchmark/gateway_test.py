"""The gateway under load, beside FastAPI with the same search in its process, and gRPC without a gateway.

All servers run on one core, the gateway and its service together, and the load on another. They are measured
in turn, round after round, every other round in reverse order, and each ratio is of figures of one round.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from serving import environment
from serving.benchmark.http_load import http_closed_loop
from serving.benchmark.load import LoadResult, Tick, closed_loop
from serving.benchmark.plan import Target
from serving.benchmark.report import Figures
from serving.benchmark.services import Cores, Service, pinned, serve_bundle, started
from serving.benchmark.workload import Workload

KINDS = {
    "gateway": "gateway and service",
    "fastapi": "FastAPI, search in process",
    "grpc": "service over gRPC",
}
CLIENTS = (1, 16, 64)
TARGETS = (
    *(
        Target(f"gateway_to_fastapi_c{clients}", f"throughput against FastAPI, {clients} clients", *bound)
        for clients, bound in ((1, ()), (16, (">=", 0.5)), (64, (">=", 0.5)))
    ),
    *(
        # Where other programs share the core, two processes get more of it than one; this is the same then.
        Target(
            f"gateway_to_fastapi_cpu_c{clients}",
            f"the same for each second of processor time, {clients} clients",
        )
        for clients in CLIENTS
    ),
    *(
        Target(f"gateway_to_grpc_c{clients}", f"throughput against gRPC, {clients} clients")
        for clients in CLIENTS
    ),
)


@dataclass(frozen=True)
class GatewayPlan:
    """The options of the test."""

    bundle: Path  # folder of the served bundle
    rounds: int = 5  # repetitions of all measurements
    seconds: float = 2.0  # of each measurement in a round
    queries: Path | None = None  # file; if not given, queries are generated from the bundle's examples
    k: int = 10  # items in an answer
    seed: int = 0  # of all random choices

    @property
    def warm_up(self) -> float:
        """Seconds before each measurement that are not measured."""
        return min(1.0, self.seconds / 4)

    @property
    def duration(self) -> float:
        """Approximate seconds of all of it, for the progress bar."""
        return 10.0 + self.rounds * len(KINDS) * len(CLIENTS) * (self.seconds + self.warm_up)


class GatewayTest:
    """Measures what a plan names.

    Args:
        plan: options of the test.
        workload: requests and expected answers.
        cores: of servers and load.
        say: shows what is being measured.
        tick: advances the progress bar.

    Attributes:
        figures: values of each round.
        errors: number of failed requests by server, code and first message.
    """

    def __init__(
        self, plan: GatewayPlan, workload: Workload, cores: Cores, say: Callable[[str], None], tick: Tick
    ) -> None:
        self.plan, self.workload, self.cores = plan, workload, cores
        self.figures, self.errors = Figures(), dict[str, int]()
        self._say, self._tick = say, tick
        self._asked = {"grpc": workload.searches(), "gateway": workload.http_searches()}
        self._asked["fastapi"] = self._asked["gateway"]
        self._servers: dict[str, tuple[Service, ...]] = {}  # the first of them is asked

    def run(self) -> None:
        """Measure in rounds.

        Raises:
            Unavailable: a server does not start, or ends too early.
        """
        bundle, cores = str(self.plan.bundle.absolute()), self.cores.servers
        with ExitStack() as stack:
            self._say("starting")
            service = stack.enter_context(serve_bundle(self.plan.bundle, cores))
            flags = ("--json", "--port", "0", "--address", service.address)
            # This process has set the variable for itself, and a gateway would leave it as it is.
            variables = {"GRPC_EXPERIMENTS": environment.GATEWAY_EXPERIMENTS}
            gateway = stack.enter_context(
                started("gateway", "serving", "gateway", *flags, cores=cores, environment=variables)
            )
            reference = "serving.benchmark.http_reference"
            fastapi = stack.enter_context(started("fastapi", reference, bundle, cores=cores))
            self._servers = {"gateway": (gateway, service), "fastapi": (fastapi,), "grpc": (service,)}
            stack.enter_context(pinned(self.cores.load))
            for number in range(self.plan.rounds):
                measurements = [(kind, clients) for clients in CLIENTS for kind in KINDS]
                for kind, clients in measurements if number % 2 == 0 else reversed(measurements):
                    self._say(f"round {number + 1} of {self.plan.rounds}: {kind}, {clients} clients")
                    self._measure(kind, clients, number)
        for clients in CLIENTS:
            for other in ("fastapi", "grpc"):
                name = f"gateway_to_{other}_c{clients}"
                self.figures.divide(name, f"gateway_c{clients}_rps", f"{other}_c{clients}_rps")
            name = f"gateway_to_fastapi_cpu_c{clients}"
            self.figures.divide(name, f"fastapi_c{clients}_cpu_us", f"gateway_c{clients}_cpu_us")

    def _measure(self, kind: str, clients: int, number: int) -> None:
        plan, servers = self.plan, self._servers[kind]
        loop = closed_loop if kind == "grpc" else http_closed_loop
        before = sum(map(_processor_seconds, servers))
        result = loop(
            servers[0].address,
            self._asked[kind],
            clients,
            plan.seconds,
            plan.warm_up,
            plan.seed + number,
            self._tick,
        )
        spent = sum(map(_processor_seconds, servers)) - before
        key = f"{kind}_c{clients}"
        self.figures.add_calls(key, result)
        # The warm-up's requests took processor time as well, at the same rate.
        share = plan.seconds / (plan.seconds + plan.warm_up)
        self.figures.add(**{f"{key}_cpu_us": spent * share / max(1, len(result.latencies)) * 1e6})
        self._add_errors(kind, result)

    def _add_errors(self, kind: str, result: LoadResult) -> None:
        for code, count in result.errors.items():
            key = f"{kind}: {code}: {result.messages.get(code, '')}"
            self.errors[key] = self.errors.get(key, 0) + count


def _processor_seconds(service: Service) -> float:
    """Processor time of a process and its children, user and system."""
    root = psutil.Process(service.process.pid)
    times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))
