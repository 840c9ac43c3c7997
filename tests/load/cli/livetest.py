"""`python -m tests.load livetest`: live items under load, under kills and under swaps.

Three parts, each of which can run alone: a history of writes and searches that is checked as a whole, swaps
with many live items, and throughput and the times of writes.
"""

import tempfile
from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.load.cli.steps import result_or_failure, tested_folder
from tests.load.cli.swaptest import pair
from tests.load.live import history_run, load_run, report, swap_run
from tests.load.live.history_run import HistoryOptions
from tests.load.live.items import ItemMaker
from tests.load.live.swap_run import SwapOptions
from tests.load.plan import Plan, missed
from tests.load.report import machine_text, progress
from twinspire.protos import bundle
from twinspire.protos.cli import Result, UsageError
from twinspire.serving.live.store.store import Store
from twinspire.serving.rollout.bundle_cache import BUNDLES

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
    parts = arguments.only
    if {"history", "swap"} & {*parts}:
        folders = pair(arguments.bundle or BUNDLES, arguments.other)
    ItemMaker(bundle.read_manifest(folders[0]))  # or says that the bundle cannot be tested
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
        for part in parts:
            (place / part).mkdir()
        if "history" in parts:
            options = HistoryOptions(
                operations=arguments.operations,
                kills=arguments.kills,
                services=arguments.services,
                url=arguments.catalogue or "",
                config=arguments.config,
                seed=arguments.seed,
            )
            found["history"] = history_run.run(folders, options, place / "history", say)
        if "swap" in parts:
            swaps = SwapOptions(seed=arguments.seed)
            found["swap"] = swap_run.run(folders, swaps, place / "swap", say, tick)
        if "load" in parts:
            plan = Plan(folders[0], arguments.rounds, arguments.seconds, seed=arguments.seed)
            found["load"] = load_run.of_plan(plan, say, tick).run(place / "load")
    made = report.joined(found)
    made["bundles"] = [bundle.read_manifest(each).bundle_version for each in folders]
    made["machine"] = machine_text()
    made["targets_missed"] = missed(report.TARGETS, made)
    result: Result = made, lambda console: report.show(console, made)
    return result_or_failure(result, arguments, report.faults(made))


def _expect_empty(url: str) -> None:
    """Refuse a store that holds items: the test would write to it, and delete some.

    Raises:
        UsageError: it does.
    """
    with closing(Store.open(url)) as store:
        if sequence := store.sequence():
            raise UsageError(f"--catalogue: expected an empty store, this one is at sequence {sequence}")
