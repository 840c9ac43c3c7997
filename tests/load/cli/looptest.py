"""`python -m tests.load looptest`: the loop of events, retraining and release, and what it promises.

Five parts, each of which can run alone: rounds of visits and retraining, and challengers that are worse by
design (`measure_loop.py`); a better challenger that is found by interleaving (`loop/interleaving.py`); the
intervals of off-policy estimates against known values (`tests/export/served_traffic/simulations.py`); events,
and kills meanwhile (`measure_events.py`); and what the served log costs (`measure_log.py`). All but the first
and the third take a bundle that is trained on what the first model of the rounds learns.
"""

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.export.served_traffic.simulations import coverage
from tests.load import measure_events, measure_log, measure_loop
from tests.load.loop import interleaving
from tests.load.measure_loop import EVENTS, Loop
from tests.load.plan import Target, missed
from tests.load.report import machine_text, show
from tests.load.services import ROOT
from twinspire.protos.cli import Result

TARGETS = (
    *measure_loop.TARGETS,
    *interleaving.TARGETS,
    Target("interval_coverage_of_100", "off-policy intervals that hold the truth, of 100", ">=", 90),
    Target("acknowledged_lost", "acknowledged events that are lost after kills", "<=", 0),
    Target("stored_twice", "events that are stored twice after kills", "<=", 0),
    Target("killed_at_events_per_s", "events/s that were acknowledged meanwhile", ">=", 475),
    Target("event_visible_p99_ms", "p99 from an acknowledgement to changed answers, ms", "<=", 50),
    Target("events_per_s", "events/s from 8 clients", ">=", 5000),
    Target("user_search_p50_ratio", "p50 of a search with a user, to one with the history", "<=", 1.15),
    Target("log_rps_share", "requests/s with a log of all answers, to none, 64 clients", ">=", 0.95),
    Target("log_p99_ratio", "p99 at 80 % load with the log, to none", "<=", 1.1),
)


def run(arguments: Namespace) -> Result:
    """Run the parts that are asked for.

    Raises:
        Unavailable: a process or a command of the loop fails.
        DataError: MovieLens cannot be read.
    """
    console, parts, seed = Console(stderr=True), arguments.only, arguments.seed
    report: dict[str, Any] = {"machine": machine_text(), "visits": arguments.visits, "seed": seed}
    if "intervals" in parts:
        report |= intervals()
    if parts != ("intervals",):
        cache = Path(os.environ.get("TWINSPIRE_CACHE", ROOT / ".cache")) / "data"
        with measure_loop.prepared(cache, seed) as loop:
            report["viewers"], report["judges"] = len(loop.viewers.liked), len(loop.viewers.judges)
            if "rounds" in parts:
                report |= measure_loop.rounds(loop, arguments.rounds, arguments.visits, seed, console)
                if arguments.bad:
                    refused = measure_loop.refused(loop, arguments.bad, console)
                    report["bad_refused_of_10"] = 10 * refused / arguments.bad
            report |= on_a_bundle(loop, arguments, console)
    report["targets_missed"] = missed(TARGETS, report)
    return report, lambda shown: show_all(shown, report)


def intervals(draws: int = 100) -> dict[str, Any]:
    """The fewest intervals that hold the truth, and those of each estimator."""
    held = {clicks: coverage(clicks, draws) for clicks in ("position", "cascade")}
    fewest = min(count for each in held.values() for count in each.values())
    shown = {clicks: {" ".join(key): count for key, count in each.items()} for clicks, each in held.items()}
    return {"interval_coverage_of_100": 100 * fewest / draws, "intervals": shown}


def on_a_bundle(loop: Loop, arguments: Namespace, console: Console) -> dict[str, Any]:
    """The parts that take a trained bundle."""
    parts, report = {"interleaving", "events", "log"} & {*arguments.only}, dict[str, Any]()
    if not parts:
        return report
    trained = loop.bundle(loop.write("trained.toml", EVENTS, seed=arguments.seed))
    if "interleaving" in parts:
        report |= interleaving.measure(loop, trained, arguments.seed, console)
    if "events" in parts:
        report |= events(measure_events.measure(trained, kill_count=arguments.kills))
    if "log" in parts:
        report |= log(measure_log.measure(trained))
    return report


def events(found: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of `TARGETS` in what `measure_events` has found, and all of that."""
    report = {
        "event_visible_p99_ms": found["changed_after_ms"]["p99"],
        "events_per_s": found["events_per_s"],
        "user_search_p50_ratio": found["search"]["ratio"],
        "events": found,
    }
    if "kills" in found:
        kills = found["kills"]
        report |= {"acknowledged_lost": kills["lost"], "stored_twice": kills["twice"]}
        report["killed_at_events_per_s"] = kills["events_per_s"]
    return report


def log(found: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of `TARGETS` in what `measure_log` has found, and all of that."""
    shares = {"log_rps_share": found["rps"], "log_p99_ratio": found["p99_us"]}
    return {**{key: each["ratio"] for key, each in shares.items()}, "log": found}


def show_all(console: Console, report: Mapping[str, Any]) -> None:
    """Print the report of a test."""
    if "rounds" in report:
        measure_loop.show(console, report)
    about = f"{report['machine']}; seed {report['seed']}"
    show(console, report, (), TARGETS, [about], title="the loop")
