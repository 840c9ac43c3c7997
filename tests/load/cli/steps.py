"""Steps that the test commands share: find the bundle, run in rounds, and fail."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.load.plan import Plan
from tests.load.report import progress
from tests.load.rounds import workload_of
from tests.load.services import choose_cores, pinned
from twinspire.protos.cli import Result, print_result
from twinspire.protos.errors import DataError
from twinspire.serving import bundles
from twinspire.serving.cli import tables
from twinspire.serving.retrieval.answer import FusionMode
from twinspire.serving.rollout.bundle_cache import BUNDLES


def tested_folder(arguments: Namespace) -> Path:
    """The bundle that `--bundle` names, or the newest.

    Raises:
        MissingStage: there is none.
    """
    return bundles.newest(arguments.bundle or BUNDLES)


def run_rounds(
    arguments: Namespace,
    plan: Plan,
    make: Callable[..., Any],
    seconds: float,
    show: Callable[[Console, dict[str, Any]], None],
    fusion: FusionMode | None = None,
) -> Result:
    """Run a test in rounds, with a progress bar, on the cores that generate the load.

    Args:
        arguments: with `--json`.
        plan: of the test.
        make: class of the test, with `run` and `report`.
        seconds: that the test takes, approximately.
        show: prints the report.
        fusion: as of `workload_of`.

    Raises:
        DataError: answers differ from the bundle's own; the report has been shown.
    """
    manifest, workload = workload_of(plan, fusion)
    cores = choose_cores()
    with progress(seconds) as (say, tick), pinned(cores.load):
        test = make(plan, workload, cores, say, tick)
        test.run()
    document = test.report(manifest)
    fault = ""
    if document["content_different"]:
        counts = f"{document['content_different']} of {document['content_checked']}"
        fault = f"{counts} answers differ from the bundle's own; {document['content_first_difference']}"
    return result_or_failure((document, lambda console: show(console, document)), arguments, fault)


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
