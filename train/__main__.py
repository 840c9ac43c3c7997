"""python -m train data | fit: from raw rows to a tracked run."""

import argparse
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from train.command import PROGRESS, add_command, execute
from train.config import read_experiment
from train.dataset import Dataset, prepare


def data(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read, check and split the data set."""
    return _dataset(arguments).report


def fit(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, choose the best epoch on validation, and evaluate it on test with baselines beside it."""
    dataset = _dataset(arguments)
    from train import fit as stage  # torch and MLflow take seconds to import
    from train.tracking import connect

    uri = connect()
    run, reused = stage.fit(read_experiment(arguments.config), dataset, PROGRESS, arguments.resume)
    return {
        "run_id": run.info.run_id,
        "experiment": read_experiment(arguments.config).name,
        "reused": reused,
        "tracking_uri": uri,
        "split_hash": dataset.split_hash,
        "metrics": dict(run.data.metrics),
    }


def _dataset(arguments: argparse.Namespace) -> Dataset:
    refresh = getattr(arguments, "refresh", False)
    experiment = read_experiment(arguments.config)
    return prepare(experiment, arguments.config.parent, refresh=refresh, console=PROGRESS)


def show_data(report: dict[str, Any], console: Console) -> None:
    """What was read, and every row that was dropped and why."""
    parts = ", ".join(f"{name} {count:,}" for name, count in report["parts"].items())
    users = f"{report['users']:,} users; " if report.get("users") else ""
    told = f"{report['name']}: {report['items']:,} items; {users}pairs: {parts}"
    console.print(told, highlight=False, soft_wrap=True)
    table = Table("dropped or changed", "rows", box=None)
    table.columns[1].justify = "right"
    for reason, count in {**report["dropped"], **report.get("changed", {})}.items():
        table.add_row(reason, f"{count:,}")
    if table.row_count:
        console.print(table)


def _show_fit(result: dict[str, Any], console: Console) -> None:
    from train.tables import show_fit  # imports what plots need

    show_fit(result, console)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser("python -m train", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="data | fit")
    read = add_command(commands, "data", data, show_data)
    read.add_argument("--refresh", action="store_true", help="read everything again")
    learn = add_command(commands, "fit", fit, _show_fit)
    learn.add_argument("--resume", action="store_true", help="go on with the run that was interrupted")
    return top


def main() -> int:
    """Run a command and return its exit code."""
    return execute(parser())


if __name__ == "__main__":
    sys.exit(main())
