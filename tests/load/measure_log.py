"""`python -m tests.load.measure_log BUNDLE`: what the served log of all answers costs, and what it loses.

A service of one worker has one core, its log's process included, and the load has another. The log is
switched on and off in turn, because equal services differ by more than it costs: in a closed loop of 64
clients, and in an open loop at 80 % of what the closed loop of the same round took without it. Each ratio is
that of two loops of one round; of all rounds there is the median, and its interval by bootstrap.
"""

from twinspire.serving import environment  # noqa: F401  # before gRPC is imported

# isort: split
import json
import mmap
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers import query_generator
from tests.load.load import Requests, closed_loop
from tests.load.open_loop import OfferedLoad, Segment, open_loop
from tests.load.services import SERVE, Service, choose_cores, pinned, started
from tests.load.workload import Workload
from twinspire.protos.bundle import read_manifest
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.answer import FusionMode

CLIENTS = 64
SETTLE_SECONDS = 15.0  # at most, until the log has been written
STEP_SECONDS = 0.25
LOAD = 0.8  # of the requests that the service without a log answers
DRAWS = 2000  # of the rounds, for intervals
STATES = ("none", "log")
Figures = dict[str, dict[str, float]]  # state of the log -> figure -> its value


def seconds_used(service: Service) -> dict[str, float]:
    """Processor seconds of the worker, and of all other processes of a service."""
    with RetrievalClient(service.address) as client:
        worker = client.info().state["worker_pid"]
    used = {"worker": 0.0, "others": 0.0}
    for process in service.processes():
        times = process.cpu_times()
        used["worker" if process.pid == worker else "others"] += times.user + times.system
    return used


def settle(service: Service) -> None:
    """Wait until the service uses hardly any processor time, so that it is not counted with another's."""
    until, used = time.monotonic() + SETTLE_SECONDS, seconds_used(service)
    while time.monotonic() < until:
        time.sleep(STEP_SECONDS)
        before, used = used, seconds_used(service)
        if sum(used.values()) - sum(before.values()) < STEP_SECONDS / 10:
            return


def measure(bundle: Path, rounds: int = 24, seconds: float = 1.0, services: int = 3) -> dict[str, Any]:
    """Medians and ratios, and how many of the `answers` were `dropped`.

    Args:
        rounds: of each service.
        seconds: of each loop.
        services: that are started, one after the other.
    """
    manifest = read_manifest(bundle)
    fusion = FusionMode.DEFAULT if manifest.hybrid is None else FusionMode.DENSE
    queries = query_generator.of_bundle(manifest, 0)
    searches = Workload(queries, 10, None, fusion).searches(checked=False)
    found, dropped, answers = list[Figures](), 0, 0
    for number in range(services):
        figures, of_service = _measure_service(bundle, searches, rounds, seconds, number)
        found += figures
        dropped, answers = dropped + of_service[0], answers + of_service[1]
    return _report(found) | {"dropped": dropped, "answers": answers}


def _measure_service(
    bundle: Path, searches: Requests, rounds: int, seconds: float, seed: int
) -> tuple[list[Figures], tuple[int, int]]:
    """The figures of each round, and how many answers were dropped, of how many that were to be logged."""
    cores, found, answers = choose_cores(), list[Figures](), 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "switch"
        path.write_bytes(bytes(1))
        flags = ("--bundle", str(bundle), "--workers", "1", "--served-log", f"{folder}/log")
        command = (str(path), *SERVE[1:], *flags, "--served-log-share", "1")
        with (
            started("search", "tests.load.switched_log", *command, cores=cores.servers) as service,
            path.open("r+b") as file,
            mmap.mmap(file.fileno(), 1) as switch,
        ):
            for number in range(rounds + 1):  # the first is for warming up
                figures: Figures = {name: {} for name in STATES}
                order = STATES[:: 1 if (number + seed) % 2 else -1]
                for name in order:
                    switch[0] = name == "log"
                    before = seconds_used(service)
                    with pinned(cores.load):
                        closed = closed_loop(service.address, searches, CLIENTS, seconds, 0.0, number)
                    settle(service)
                    used = {part: value - before[part] for part, value in seconds_used(service).items()}
                    answered = sum(closed.codes.values())
                    figures[name] |= {f"{part}_us": 1e6 * value / answered for part, value in used.items()}
                    figures[name]["rps"] = closed.rps
                    answers += closed.codes["OK"] if name == "log" else 0
                offered = OfferedLoad((Segment(figures["none"]["rps"] * LOAD, seconds),), seed=number)
                for name in order:
                    switch[0] = name == "log"
                    with pinned(cores.load):
                        (opened,) = open_loop(service.address, searches, offered)
                    settle(service)
                    figures[name]["p99_us"] = opened.percentile_us(99)
                    answers += opened.codes["OK"] if name == "log" else 0
                if number:
                    found.append(figures)
            with RetrievalClient(service.address) as client:
                dropped = client.info().state["served_log"]["dropped"]
    return found, (dropped, answers)


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=24, help="of each service")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each loop")
    parser.add_argument("--services", type=int, default=3, help="that are started, one after the other")
    given = parser.parse_args()
    json.dump(measure(given.bundle, given.rounds, given.seconds, given.services), sys.stdout, indent=1)


def _report(found: Sequence[Figures]) -> dict[str, Any]:
    """Of each figure the medians, and the median of the rounds' ratios, with its interval of 95 %."""
    report: dict[str, Any] = {}
    draws = np.random.default_rng(0).integers(len(found), size=(DRAWS, len(found)))
    for key in found[0]["log"]:
        none, log = (np.array([each[name][key] for each in found]) for name in STATES)
        report[key] = {"none": round(float(np.median(none)), 1), "log": round(float(np.median(log)), 1)}
        if none.all():
            ratios = log / none
            low, high = np.percentile(np.median(ratios[draws], axis=1), (2.5, 97.5)).tolist()
            ratio, interval = round(float(np.median(ratios)), 3), [round(low, 3), round(high, 3)]
            report[key] |= {"ratio": ratio, "interval": interval}
    return report


if __name__ == "__main__":
    main()
