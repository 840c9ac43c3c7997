"""The live test: short ones run from command to report, on SQLite, and with two services on PostgreSQL."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.postgres import postgres, without_postgres
from tests.helpers.serving.shown import shown
from tests.load.live import report
from tests.load.live.load_run import of_plan
from tests.load.live.swap_run import SwapOptions
from tests.load.live.swap_run import run as run_swap
from tests.load.plan import Plan
from tests.serving.load.commands import measured

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(400)]


def livetest(folders: tuple[Path, Path], *flags: str) -> dict[str, Any]:
    """The report of a history."""
    bundles = ["--bundle", str(folders[0]), "--other", str(folders[1])]
    found: dict[str, Any] = measured("livetest", *bundles, "--only", "history", *flags)
    return found


def check(found: dict[str, Any], operations: int, kills: int) -> None:
    assert found["targets_missed"] == []
    assert found["violations"] == {}
    assert found["acknowledged_lost"] == found["deleted_seen"] == found["stale_seen"] == 0
    assert found["operations"] >= operations
    assert found["writes"] > operations / 5
    assert found["answers"] > operations / 2
    assert found["kills_catalogue"] + found["kills_worker"] == kills
    assert (found["swaps"], found["rollbacks"], found["refreshes"]) == (2, 1, 0)
    assert found["versions_seen"] == 2
    assert found["own_first_share"] > 0.99
    assert f"history: {found['operations']:,} operations" in shown(report.show, found)


@pytest.mark.quiet
def test_a_history_on_sqlite(folders: tuple[Path, Path]) -> None:
    check(livetest(folders, "--operations", "1500", "--kills", "4"), 1500, 4)


@pytest.mark.quiet
@pytest.mark.skipif(bool(without_postgres()), reason=without_postgres() or "it is there")
def test_a_history_of_two_services_on_postgresql(folders: tuple[Path, Path]) -> None:
    with postgres() as url:
        flags = ("--services", "2", "--catalogue", url, "--operations", "800", "--kills", "2")
        found = livetest(folders, *flags)
    check(found, 800, 2)
    assert (found["services"], found["store"]) == (2, "postgresql")


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that uses gRPC, in a process of its own: later tests fork this one."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def quiet(*_: object) -> None:
    """Shows nothing."""


def run_load(folder: Path, place: Path) -> dict[str, Any]:
    """The figures of a short load test, with fewer live items."""
    test = of_plan(Plan(folder, rounds=1, seconds=0.5), quiet, quiet)
    return test.run(place, {"few": (100, 50), "many": (200, 100)})


@pytest.mark.quiet
def test_a_swap_with_live_items(folders: tuple[Path, Path], tmp_path: Path) -> None:
    options = SwapOptions(live=300, deletes=50, clients=8, swaps=2, seconds=3.0)
    found = apart(run_swap, folders, options, tmp_path, quiet, quiet)
    assert (found["failed"], found["mixed"], found["deleted_in_answers"]) == (0, 0, 0)
    assert found["live_found_share"] >= 0.99
    assert found["requests"] > 100
    assert found["swaps"] == 2


@pytest.mark.quiet
def test_the_load_with_live_items(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found = apart(run_load, folders[0], tmp_path)
    assert found["load_errors"] == 0
    assert found["visible_calls"] == 60
    made = report.joined({"load": found})
    keys = {"rps_share_with_live", "rps_share_with_many", "rps_share_while_writing", "upserts_per_s"}
    assert all(made[key] > 0 for key in keys)
    assert report.faults(made) == ""
    assert report.faults({**made, "load_errors": 2}) == "2 searches that failed under load"


def test_wrong_answers_fail_the_test() -> None:
    found = report.joined({"history": {"deleted_seen": 2}, "swap": {"deleted_in_answers": 1, "mixed": 3}})
    assert report.faults(found) == ("3 deleted items in answers, 3 answers in swaps that mix two bundles")
    assert report.faults({**found, "deleted_seen": 0, "swap_mixed": 0}) == ""
