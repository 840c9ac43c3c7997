"""Closed loops, batches and the sweep of offered loads, all servers in turn, round after round.

A machine that is shared is faster in one minute than in the next. So what is compared is measured one right
after the other, every other round the other way round, and ratios are those of a round.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from serving.load import closed_loop, open_loop, services, stream
from serving.load.cores import on
from serving.load.figures import Figures
from serving.load.measured import Measured, Requests
from serving.load.open_loop import Offer, Segment
from serving.load.plan import CLIENTS, CONNECTIONS, OFFERED, Work
from serving.load.services import InProcess, Service

# Queries in a batch -> batches on their way at once: as many as fit into the service's queue.
BATCHES = {32: 2, 256: 1}
IN_FLIGHT = 64  # of a stream
SIZES = (1, 32, 256)  # of batches without a server
PROBE = 64  # clients whose load tells what a server bears


class Rounds:
    """Measures what the plan asks for, and keeps the figures.

    Args:
        work: to do.
        figures: receives the values.

    Attributes:
        errors: calls that did not end well, by server and code.
    """

    def __init__(self, work: Work, figures: Figures) -> None:
        self.work, self.figures = work, figures
        self.errors: dict[str, int] = {}
        self._cell: Callable[..., Measured] = partial(
            closed_loop.run, seconds=work.plan.seconds, warm_up=work.plan.warm_up
        )

    def run(self) -> None:
        """Start the servers, measure, and stop them."""
        work, plan = self.work, self.work.plan
        with ExitStack() as stack:
            work.say("starting servers")
            bundle, core = plan.bundle, work.cores.servers
            search = stack.enter_context(services.ours(bundle, core))
            others = []
            if {"closed", "open"} & {*plan.parts}:
                kinds = ("naive", "noop") if "closed" in plan.parts else ("naive",)
                others = [stack.enter_context(services.reference(kind, bundle, core)) for kind in kinds]
            without = stack.enter_context(services.in_process(bundle, core, plan.queries, plan.k, plan.seed))
            cells = self._cells([search, *others], without)
            stack.enter_context(on(work.cores.load))
            for number in range(plan.rounds):
                for say, cell in cells if number % 2 == 0 else reversed(cells):
                    work.say(f"round {number + 1} of {plan.rounds}: {say}")
                    cell(number)
            if "open" in plan.parts:
                for service in [search, *(each for each in others if each.name == "naive")]:
                    self._sweep(service)
        self._divide()

    def _cells(
        self, servers: Sequence[Service], without: InProcess
    ) -> list[tuple[str, Callable[[int], None]]]:
        """What is measured in a round: its name, and how."""
        parts = self.work.plan.parts
        cells: list[tuple[str, Callable[[int], None]]] = []
        if "closed" in parts:
            cells += [
                (f"{server.name}, {clients} clients", partial(self._closed, server, clients))
                for clients in CLIENTS
                for server in servers
            ]
        elif "open" in parts:
            cells += [
                (f"{each.name}, {PROBE} clients", partial(self._closed, each, PROBE)) for each in servers
            ]
        if "batch" in parts:
            cells += [(f"batches of {size}", partial(self._batch, servers[0], size)) for size in BATCHES]
            cells.append((f"a stream, {IN_FLIGHT} in flight", partial(self._stream, servers[0])))
        if {"closed", "batch"} & {*parts}:
            cells += [(f"without a server, {size}", partial(self._without, without, size)) for size in SIZES]
        if "closed" in parts:
            cells.append(("without a server, after pauses", partial(self._paced, without)))
        return cells

    def _closed(self, server: Service, clients: int, number: int) -> None:
        measured = self._cell(server.address, self._requests(server), clients, seed=number)
        self.figures.add_calls(f"{server.name}_c{clients}", measured)
        self._note(server.name, measured)

    def _batch(self, server: Service, size: int, number: int) -> None:
        requests = self.work.content.batches(size)
        measured = self._cell(server.address, requests, BATCHES[size], seed=number)
        self.figures.add(**{f"search_batch{size}_qps": measured.qps})
        self._note(f"search_batch{size}", measured)

    def _stream(self, server: Service, number: int) -> None:
        plan, requests = self.work.plan, self.work.content.searches("SearchStream")
        measured = stream.run(server.address, requests, IN_FLIGHT, plan.seconds, plan.warm_up, number)
        self.figures.add(**{f"search_stream{IN_FLIGHT}_qps": measured.qps})
        self._note("search_stream", measured)

    def _without(self, without: InProcess, size: int, number: int) -> None:
        seconds = self.work.plan.seconds
        found = without.measure(size, seconds)
        self.work.tick(seconds)
        if size == 1:
            self.figures.add(inprocess_single_us=found["p50_us"])
        else:
            self.figures.add(**{f"inprocess_batch{size}_qps": found["qps"]})

    def _paced(self, without: InProcess, number: int) -> None:
        """One query after the other, as far apart as a lone client's are on a server that does nothing."""
        seconds, pause = self.work.plan.seconds, self.figures.median("noop_c1_p50_us") / 1e6
        if not math.isnan(pause):  # the server has answered
            self.figures.add(inprocess_paced_us=without.measure(1, seconds, pause)["p50_us"])
        self.work.tick(seconds)

    def _sweep(self, server: Service) -> None:
        """Latency against offered load, in percent of what the server bore with 64 clients."""
        plan, figures = self.work.plan, self.figures
        saturation = figures.median(f"{server.name}_c{PROBE}_rps")
        for number in range(plan.rounds):
            for percent in OFFERED if number % 2 == 0 else reversed(OFFERED):
                self.work.say(f"round {number + 1} of {plan.rounds}: {server.name}, {percent} % offered")
                rate = saturation * percent / 100
                segments = (Segment(rate, plan.warm_up), Segment(rate, plan.seconds))
                offer = Offer(segments, plan.deadline, CONNECTIONS, plan.seed + 100 * number + percent)
                measured = open_loop.run(server.address, self._requests(server), offer)[1]
                prefix = f"{server.name}_open{percent}"
                figures.add_calls(prefix, measured)
                figures.add(**{f"{prefix}_offered_rps": measured.offered / measured.seconds})
                self.work.tick(plan.seconds + plan.warm_up)

    def _requests(self, server: Service) -> Requests:
        content = self.work.content
        return content.unchecked() if server.name == "noop" else content.searches()

    def _note(self, name: str, measured: Measured) -> None:
        measured.note(name, self.errors)
        self.work.tick(self.work.plan.seconds + self.work.plan.warm_up)

    def _divide(self) -> None:
        figures = self.figures
        for clients in CLIENTS:
            for other in ("naive", "noop"):
                name = f"ratio_to_{other}_c{clients}"
                figures.divide(name, f"search_c{clients}_rps", f"{other}_c{clients}_rps")
        figures.divide("p50_c1_over_parts", "search_c1_p50_us", "noop_c1_p50_us", "inprocess_single_us")
        figures.divide("p50_c1_over_paced_parts", "search_c1_p50_us", "noop_c1_p50_us", "inprocess_paced_us")
        for size in BATCHES:
            figures.divide(f"batch{size}_share", f"search_batch{size}_qps", f"inprocess_batch{size}_qps")
        figures.divide(f"stream{IN_FLIGHT}_share", f"search_stream{IN_FLIGHT}_qps", "inprocess_batch32_qps")
