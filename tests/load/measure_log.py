"""`python -m tests.load.measure_log BUNDLE`: what the served log of all answers costs, and what it loses.

Two services of one worker, with the log and without, share one core, and the load has another. They are
measured in turn: a closed loop of 64 clients, and an open loop at 80 % of what the service without took.
"""

from twinspire.serving import environment  # noqa: F401  # before gRPC is imported

# isort: split
import json
import statistics
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.helpers import query_generator
from tests.load.load import closed_loop
from tests.load.open_loop import OfferedLoad, Segment, open_loop
from tests.load.services import SERVE, Service, choose_cores, pinned, started
from tests.load.workload import Workload
from twinspire.protos.bundle import read_manifest
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.answer import FusionMode

CLIENTS = 64
LOAD = 0.8  # of the requests that the service without a log answers


def seconds_used(service: Service) -> dict[str, float]:
    """Processor seconds of the worker, and of all other processes of a service."""
    with RetrievalClient(service.address) as client:
        worker = client.info().state["worker_pid"]
    used = {"worker": 0.0, "others": 0.0}
    for process in service.processes():
        times = process.cpu_times()
        used["worker" if process.pid == worker else "others"] += times.user + times.system
    return used


def measure(bundle: Path, rounds: int = 9, seconds: float = 4.0) -> dict[str, Any]:
    """Medians, and the ratios of the rounds, sorted; `answers`, and how many of them were `dropped`.

    Args:
        seconds: of each loop.
    """
    manifest = read_manifest(bundle)
    fusion = FusionMode.DEFAULT if manifest.hybrid is None else FusionMode.DENSE
    queries = query_generator.of_bundle(manifest, 0)
    searches = Workload(queries, 10, None, fusion).searches(checked=False)
    cores, found = choose_cores(), dict[str, dict[str, list[float]]]()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        command = (*SERVE[1:], "--bundle", str(bundle), "--workers", "1")
        logged = (*command, "--served-log", str(folder / "log"), "--served-log-share", "1")
        services = {
            name: stack.enter_context(started(name, SERVE[0], *flags, cores=cores.servers))
            for name, flags in {"none": command, "log": logged}.items()
        }
        rows = 0
        for number in range(rounds + 1):  # the first is for warming up
            rate = found["none"]["rps"][-1] * LOAD if number > 1 else 1000.0
            for name in [*services][:: 1 if number % 2 else -1]:
                service, figures = services[name], found.setdefault(name, {})
                before = seconds_used(service)
                with pinned(cores.load):
                    closed = closed_loop(service.address, searches, CLIENTS, seconds, 0.5, number)
                used = {key: value - before[key] for key, value in seconds_used(service).items()}
                answered = sum(closed.codes.values())
                measured = {f"{key}_us": 1e6 * value / answered for key, value in used.items()}
                with pinned(cores.load):
                    offered = OfferedLoad((Segment(rate, seconds),), seed=number)
                    (opened,) = open_loop(service.address, searches, offered)
                measured |= {"rps": closed.rps, "p99_us": opened.percentile_us(99)}
                rows += sum(each.codes["OK"] for each in (closed, opened)) if name == "log" else 0
                if number:
                    for key, value in measured.items():
                        figures.setdefault(key, []).append(value)
        with RetrievalClient(services["log"].address) as client:
            dropped = client.info().state["served_log"]["dropped"]
        stack.pop_all().close()
    return _report(found) | {"dropped": dropped, "answers": rows}


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each loop")
    given = parser.parse_args()
    json.dump(measure(given.bundle, given.rounds, given.seconds), sys.stdout, indent=1)


def _report(found: Mapping[str, Mapping[str, list[float]]]) -> dict[str, Any]:
    """Medians, and the ratios of the rounds."""
    report: dict[str, Any] = {}
    for key, values in found["log"].items():
        ratios = sorted(a / b for a, b in zip(values, found["none"][key], strict=True) if b)
        medians = {name: round(statistics.median(each[key]), 1) for name, each in found.items()}
        report[key] = {**medians, "ratios": [round(each, 3) for each in ratios]}
    return report


if __name__ == "__main__":
    main()
