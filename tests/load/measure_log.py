"""`python -m tests.load.measure_log BUNDLE`: what the served log of all answers costs, and what it loses.

Two services of one worker, with the log and without, share one core, and the load has another. They are
measured in turn: a closed loop of 64 clients, and an open loop at 80 % of what the service without took. This
is done for several pairs, because equal services differ by some per cent for as long as they run.
"""

from twinspire.serving import environment  # noqa: F401  # before gRPC is imported

# isort: split
import json
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.helpers import query_generator
from tests.load.load import Requests, closed_loop
from tests.load.open_loop import OfferedLoad, Segment, open_loop
from tests.load.services import SERVE, Service, choose_cores, pinned, started
from tests.load.workload import Workload
from twinspire.protos.bundle import read_manifest
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.answer import FusionMode

CLIENTS = 64
Figures = dict[str, dict[str, list[float]]]  # name of a service -> figure -> its values in the rounds
SETTLE_SECONDS = 15.0  # at most, until the log has been written
STEP_SECONDS = 0.5
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


def settle(service: Service) -> None:
    """Wait until the service uses hardly any processor time, so that it is not counted with another's."""
    until, used = time.monotonic() + SETTLE_SECONDS, seconds_used(service)
    while time.monotonic() < until:
        time.sleep(STEP_SECONDS)
        before, used = used, seconds_used(service)
        if sum(used.values()) - sum(before.values()) < STEP_SECONDS / 10:
            return


def measure(bundle: Path, rounds: int = 9, seconds: float = 2.0, pairs: int = 4) -> dict[str, Any]:
    """Medians and ratios, and how many of the `answers` were `dropped`.

    Args:
        rounds: of each pair.
        seconds: of each loop.
        pairs: of a service without and one with the log, one pair after the other.
    """
    manifest = read_manifest(bundle)
    fusion = FusionMode.DEFAULT if manifest.hybrid is None else FusionMode.DENSE
    queries = query_generator.of_bundle(manifest, 0)
    searches = Workload(queries, 10, None, fusion).searches(checked=False)
    found, dropped, answers = list[Figures](), 0, 0
    for pair in range(pairs):
        figures, of_pair = _measure_pair(bundle, searches, rounds, seconds, pair)
        found.append(figures)
        dropped, answers = dropped + of_pair[0], answers + of_pair[1]
    return _report(found) | {"dropped": dropped, "answers": answers}


def _measure_pair(
    bundle: Path, searches: Requests, rounds: int, seconds: float, seed: int
) -> tuple[Figures, tuple[int, int]]:
    """The figures of two services, and how many answers were dropped, of how many that were to be logged."""
    cores, found, answers = choose_cores(), Figures(), 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        command = (*SERVE[1:], "--bundle", str(bundle), "--workers", "1")
        logged = (*command, "--served-log", str(folder / "log"), "--served-log-share", "1")
        services = {
            name: stack.enter_context(started(name, SERVE[0], *flags, cores=cores.servers))
            for name, flags in {"none": command, "log": logged}.items()
        }
        for number in range(rounds + 1):  # the first is for warming up
            rates = found.get("none", {}).get("rps", [])
            rate = statistics.median(rates) * LOAD if rates else 1000.0
            for name in [*services][:: 1 if (number + seed) % 2 else -1]:
                service, figures = services[name], found.setdefault(name, {})
                before = seconds_used(service)
                with pinned(cores.load):
                    closed = closed_loop(service.address, searches, CLIENTS, seconds, 0.0, number)
                settle(service)
                used = {part: value - before[part] for part, value in seconds_used(service).items()}
                answered = sum(closed.codes.values())
                measured = {f"{part}_us": 1e6 * value / answered for part, value in used.items()}
                with pinned(cores.load):
                    offered = OfferedLoad((Segment(rate, seconds),), seed=number)
                    (opened,) = open_loop(service.address, searches, offered)
                settle(service)
                measured |= {"rps": closed.rps, "p99_us": opened.percentile_us(99)}
                answers += sum(each.codes["OK"] for each in (closed, opened)) if name == "log" else 0
                if number:
                    for key, value in measured.items():
                        figures.setdefault(key, []).append(value)
        with RetrievalClient(services["log"].address) as client:
            dropped = client.info().state["served_log"]["dropped"]
        stack.pop_all().close()
    return found, (dropped, answers)


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each loop")
    parser.add_argument("--pairs", type=int, default=4, help="of services with and without the log")
    given = parser.parse_args()
    json.dump(measure(given.bundle, given.rounds, given.seconds, given.pairs), sys.stdout, indent=1)


def _report(found: Sequence[Figures]) -> dict[str, Any]:
    """Of each figure the median, and the median ratio of a pair's medians, with those of all pairs."""
    report: dict[str, Any] = {}
    for key in found[0]["log"]:
        medians = [[statistics.median(pair[name][key]) for pair in found] for name in ("none", "log")]
        none, log = map(statistics.median, medians)
        ratios = sorted(b / a for a, b in zip(*medians, strict=True) if a)
        report[key] = {
            "none": round(none, 1),
            "log": round(log, 1),
            "ratio": round(statistics.median(ratios), 3) if ratios else None,
            "pairs": [round(each, 3) for each in ratios],
        }
    return report


if __name__ == "__main__":
    main()
