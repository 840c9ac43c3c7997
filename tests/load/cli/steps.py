"""Steps that the test commands share: find the bundle, run in rounds, check the plot's file, and fail."""

import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from protos.bundle import Manifest
from protos.cli import Result, print_result
from protos.errors import DataError
from serving import bundles
from serving.cli import tables
from serving.retrieval.answer import FusionMode
from tests.load.cli.options import PLOTS
from tests.load.plan import Plan
from tests.load.report import progress
from tests.load.rounds import workload_of
from tests.load.services import choose_cores, pinned


class _Runnable(Protocol):
    """A test that needs nothing more to run."""

    def run(self) -> None:
        """Measure."""


Test = TypeVar("Test", bound=_Runnable)


def tested_folder(arguments: Namespace) -> Path:
    """The bundle that `--bundle` names, or the newest.

    Raises:
        MissingStage: there is none.
    """
    return bundles.newest(arguments.bundle or bundles.BUNDLES)


def run_rounds(
    plan: Plan, make: Callable[..., Test], seconds: float, fusion: FusionMode | None = None
) -> tuple[Test, Manifest]:
    """Run a test in rounds, with a progress bar, on the cores that generate the load.

    Args:
        plan: of the test.
        make: class of the test.
        seconds: that the test takes, approximately.
        fusion: as of `workload_of`.

    Returns:
        The test after its run, and the manifest of the bundle.
    """
    manifest, workload = workload_of(plan, fusion)
    cores = choose_cores()
    with progress(seconds) as (say, tick), pinned(cores.load):
        test = make(plan, workload, cores, say, tick)
        test.run()
    return test, manifest


def plot_file(given: Path | None, name: str) -> Path:
    """The file of the plot: that of `--plot`, or one of this name in the usual folder.

    Call it before the measurement, so that a wrong path is reported first.

    Raises:
        DataError: it cannot be written.
    """
    path = given or PLOTS / name
    if is_folder(path):
        raise DataError(f"{path}: the plot cannot be written: is a folder")
    check_folder(path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise DataError(f"{path}: the plot cannot be written: Permission denied")
    return path


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; False also where the folder around it cannot be entered."""
    try:
        return path.is_dir()
    except OSError:
        return False


def check_folder(folder: Path) -> None:
    """Make the folder of a plot.

    Raises:
        DataError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: the plot cannot be written there: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(f"{folder}: the plot cannot be written there: Permission denied")


def result_or_failure(result: Result, arguments: Namespace, fault: str) -> Result:
    """The result of a test; if the test has failed, show the result and raise.

    Args:
        result: report, and the function that shows it.
        arguments: with `--json`.
        fault: why the test has failed; empty if it has not.

    Raises:
        DataError: the test has failed.
    """
    if fault:
        print_result(result, arguments.json, tables.console)
        raise DataError(fault)
    return result


def different_answers(report: dict[str, Any]) -> str:
    """The fault of a report whose answers are not the bundle's own; empty if all are."""
    if not report["content_different"]:
        return ""
    return (
        f"{report['content_different']} of {report['content_checked']} answers differ from the "
        f"bundle's own; {report['content_first_difference']}"
    )
