"""`python -m tests.load livetest`: live items under load, under kills and under swaps, and filters.

Four parts, each of which can run alone: a history of writes and searches that is checked as a whole, swaps
with many live items, throughput and the times of writes, and searches with filters.
"""

import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protos import bundle
from protos.cli import Result, UsageError
from protos.errors import MissingStage
from serving import bundles
from serving.live.store.store import Store
from tests.load.cli import filtertest
from tests.load.cli.options import LIVE_PARTS, LivePart
from tests.load.cli.steps import result_or_failure, tested_folder
from tests.load.cli.swaptest import pair
from tests.load.live import history_run, load_run, report, swap_run
from tests.load.live.history_run import HistoryOptions
from tests.load.live.items import ItemMaker
from tests.load.live.swap_run import SwapOptions
from tests.load.plan import Plan, missed
from tests.load.report import machine_text, progress

# Usual durations, for the progress bar.
OPERATION_SECONDS, ROUND_SECONDS, SWAP_SECONDS = 0.004, 25.0, 90.0


def run(arguments: Namespace) -> Result:
    """Run the live test.

    Raises:
        DataError: a write was lost, a request failed, or an answer was wrong; the report has been shown.
        UsageError: both bundles are the same, or options contradict each other.
        MissingStage: there are no two bundles, or they cannot be tested so.
        Unavailable: a service does not start, or does not answer for too long.
    """
    if arguments.services > 1 and not (arguments.catalogue or "").startswith("postgresql"):
        raise UsageError("--services: several services need --catalogue with a PostgreSQL database")
    folders: Sequence[Path] = (tested_folder(arguments),)
    if {"history", "swap"} & set(arguments.only or LIVE_PARTS):
        folders = pair(arguments.bundle or bundles.BUNDLES, arguments.other)
    parts = _parts(arguments, folders[0])
    if "history" in parts and arguments.catalogue:
        _expect_empty(arguments.catalogue)
    found: dict[str, dict[str, Any]] = {}
    usual = {
        "history": OPERATION_SECONDS * arguments.operations,
        "swap": SWAP_SECONDS,
        "load": (ROUND_SECONDS + 5 * arguments.seconds) * arguments.rounds,
    }
    with (
        progress(sum(usual.get(part, 0.0) for part in parts)) as (say, tick),
        tempfile.TemporaryDirectory(prefix="livetest-") as folder,
    ):
        place = Path(folder)
        if "history" in parts:
            options = HistoryOptions(
                operations=arguments.operations,
                kills=arguments.kills,
                services=arguments.services,
                url=arguments.catalogue or "",
                config=arguments.config,
                seed=arguments.seed,
            )
            found["history"] = history_run.run(folders, options, _new_folder(place / "history"), say)
        if "swap" in parts:
            swaps = SwapOptions(seed=arguments.seed)
            found["swap"] = swap_run.run(folders, swaps, _new_folder(place / "swap"), say, tick)
        if "load" in parts:
            plan = Plan(folders[0], arguments.rounds, arguments.seconds, seed=arguments.seed)
            found["load"] = load_run.of_plan(plan, say, tick).run(_new_folder(place / "load"))
    if "filters" in parts:
        found["filters"] = filtertest.measure(folders[0], seed=arguments.seed)
    made = report.joined(found)
    made["bundles"] = [bundle.read_manifest(each).bundle_version for each in folders]
    made["machine"] = machine_text()
    made["targets_missed"] = missed(report.TARGETS, made)
    result: Result = made, lambda console: report.show(console, made)
    return result_or_failure(result, arguments, report.faults(made))


def _parts(arguments: Namespace, folder: Path) -> Sequence[LivePart]:
    """The parts to run: those that were named, or all that the bundle allows.

    Raises:
        MissingStage: the bundle does not allow a part that was named, or any but filters.
    """
    manifest = bundle.read_manifest(folder)
    parts: Sequence[LivePart] = arguments.only or LIVE_PARTS
    if not manifest.filters:
        if arguments.only and "filters" in parts:
            raise MissingStage(f"{folder}: has no filter fields; `[filter]` of the experiment names them")
        parts = [each for each in parts if each != "filters"]
    if {*parts} - {"filters"}:
        ItemMaker(manifest)
    return parts


def _expect_empty(url: str) -> None:
    """Refuse a store that holds items: the test would write to it, and delete some.

    Raises:
        UsageError: it does.
    """
    store = Store.open(url)
    try:
        if sequence := store.sequence():
            raise UsageError(f"--catalogue: expected an empty store, this one is at sequence {sequence}")
    finally:
        store.close()


def _new_folder(path: Path) -> Path:
    path.mkdir()
    return path
