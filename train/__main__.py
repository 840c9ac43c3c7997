"""python -m twinspire.train data | fit: from raw rows to a tracked run."""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from twinspire.protos.cli import as_typed, command_line, imports_frozen
from twinspire.train.cli import add_experiment_command, execute
from twinspire.train.config import Experiment, read_experiment
from twinspire.train.progress import PROGRESS

if TYPE_CHECKING:
    from twinspire.train.data.dataset import Dataset


def data(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read, check and split the data set, and say what it holds."""
    experiment = read_experiment(arguments.config)
    dataset = _dataset(experiment, arguments)
    from twinspire.train.data.contents import contents  # imports polars

    written = {}
    if arguments.tables is not None:
        dataset.write_tables(arguments.tables)
        written = {"tables": str(arguments.tables)}
    return dataset.report | {"contents": contents(dataset, experiment), **written}


def fit(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Train, choose the best epoch on validation, and evaluate it and the baselines on test."""
    experiment = read_experiment(arguments.config)
    dataset = _dataset(experiment, arguments)
    with imports_frozen():
        from twinspire.train.training import run as training
        from twinspire.train.training.process import joined
        from twinspire.train.training.run_metrics import metrics_of
        from twinspire.train.training.tracking import chosen_settings, connect, drawn_of, warnings_of

    config = arguments.config
    ranks = os.environ.get("WORLD_SIZE", "1")
    to_resume = as_typed(
        f"make train CONFIG={config} RESUME=1{'' if ranks == '1' else f' RANKS={ranks}'}",
        "train",
        f"fit --config {config} --resume",
    )
    with joined(experiment.training, to_resume) as process:
        if process.rank > 0:
            training.follow(experiment, dataset, process)
            return None
        uri = connect()
        run, reused = training.fit(experiment, dataset, PROGRESS, arguments.resume, to_resume, process)
    return {
        "run_id": run.info.run_id,
        "experiment": experiment.name,
        "reused": reused,
        "tracking_uri": uri,
        "split_hash": dataset.split_hash,
        "metrics": metrics_of(run),
        **drawn_of(run),
        "baselines": chosen_settings(run),
        "warnings": warnings_of(run),
    }


def _dataset(experiment: Experiment, arguments: argparse.Namespace) -> "Dataset":
    from twinspire.train.data.dataset import prepare  # imports polars, which --help does without

    refresh = getattr(arguments, "refresh", False)
    return prepare(experiment, arguments.config.parent, refresh=refresh, console=PROGRESS)


def show_data(report: dict[str, Any], console: Console) -> None:
    """Show what was read, and how many rows were dropped or changed for which reason."""
    parts = ", ".join(f"{name} {count:,}" for name, count in report["parts"].items())
    users = f"{report['users']:,} users; " if report.get("users") else ""
    summary = f"{report['name']}: {report['items']:,} items; {users}pairs: {parts}"
    console.print(summary, highlight=False, soft_wrap=True)
    if "judged" in report:
        judged = report["judged"]
        grades = ", ".join(f"{score}: {count:,}" for score, count in judged["judgements"].items())
        known = judged["queries_in_training"]
        text = f"judged: {judged['queries']:,} queries; relevant documents by score {grades}"
        text += f"; {known:,} queries also stand in training" if known else ""
        console.print(text, highlight=False, soft_wrap=True)
    for line in (*_histories(report), *report["contents"]):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    table = Table("dropped or changed", "rows", box=None)
    table.columns[1].justify = "right"
    for reason, count in {**report["dropped"], **report.get("changed", {})}.items():
        table.add_row(escape(reason), f"{count:,}")
    if table.row_count:
        console.print(table)
    if "tables" in report:
        console.print(f"tables: {report['tables']}", highlight=False, markup=False, soft_wrap=True)


def _histories(report: Mapping[str, Any]) -> Iterator[str]:
    """Lines about the histories of a data set; none if it has no histories."""
    if "repeats" in report:
        share = report.get("share_of_repeats")
        how_many = (
            "" if share is None else f"; {share:.1%} of the positive events repeat an item of their user"
        )
        yield f"repeats: {report['repeats']}{how_many}"
    if "times" in report:
        from twinspire.train.data.source import EARLY  # imports polars

        first, last = (datetime.fromtimestamp(each, UTC) for each in report["times"])
        doubt = "; are these seconds since 1970, or dates?" if last.year < EARLY else ""
        yield f"times: {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC{doubt}"
    for part, count in report.get("without_history", {}).items():
        if part != "train" and 2 * count > report["parts"][part]:
            is_cut = report["split"]["by"] == "time" and report["split"]["history"] == "cut"
            remedy = '; with [split] history = "event" each has the events before it' if is_cut else ""
            yield f"{part}: {count:,} of {report['parts'][part]:,} pairs have no history{remedy}"


def _show_fit(result: dict[str, Any], console: Console) -> None:
    from twinspire.train.terminal import show_fit  # imports matplotlib

    show_fit(result, console)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = command_line("python -m twinspire.train", __doc__)
    commands = top.add_subparsers(required=True, metavar="data | fit")
    data_command = add_experiment_command(commands, "data", data, show_data)
    data_command.add_argument("--refresh", action="store_true", help="read the source again, not the cache")
    tables = "also write items.parquet and pairs.parquet, with item ids and parts, into this folder"
    data_command.add_argument("--tables", type=Path, metavar="FOLDER", help=tables)
    fit_command = add_experiment_command(commands, "fit", fit, _show_fit)
    to_resume = fit_command.add_mutually_exclusive_group()
    to_resume.add_argument("--resume", action="store_true", help="continue the run that was interrupted")
    if_any = "continue it if there is one, else begin; for launchers that start lost processes again"
    to_resume.add_argument(  # None, as of `fit` in train/training/run.py
        "--resume-if-any", dest="resume", action="store_const", const=None, default=False, help=if_any
    )
    return top


def main() -> int:
    """Run a command and return its exit code."""
    return execute(parser())


if __name__ == "__main__":
    sys.exit(main())
