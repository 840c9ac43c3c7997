"""python -m train data | fit: from raw rows to a tracked run."""

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from protos.errors import ConfigError, TwinspireError
from train.config import read_experiment
from train.dataset import Dataset, prepare
from train.places import CONFIGS

PROGRESS = Console(stderr=True)


def data(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read, check and split the data set."""
    return _dataset(arguments).report


def fit(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, choose the best epoch on validation, and evaluate it on test with BM25 beside it."""
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
    console.print(f"{report['name']}: {report['items']:,} items; pairs: {parts}", highlight=False)
    table = Table("dropped or changed", "rows", box=None)
    table.columns[1].justify = "right"
    for reason, count in {**report["dropped"], **report.get("changed", {})}.items():
        table.add_row(reason, f"{count:,}")
    if table.row_count:
        console.print(table)


def show_fit(result: dict[str, Any], console: Console) -> None:
    """The test figures beside BM25's."""
    again = ", unchanged since it was trained" if result["reused"] else ""
    console.print(f"run {result['run_id']}{again}", highlight=False)
    metrics = result["metrics"]
    table = Table("test, exact search", "two-tower", "BM25", box=None)
    for name in ("recall_at_1", "recall_at_10", "recall_at_100", "mrr_at_10", "ndcg_at_10"):
        table.add_row(name, f"{metrics[name]:.4f}", f"{metrics['bm25_' + name]:.4f}")
    console.print(table)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser("python -m train", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="data | fit")
    for name, run, show in (("data", data, show_data), ("fit", fit, show_fit)):
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        command.add_argument(
            "--config",
            type=Path,
            default=CONFIGS / "pydocs.toml",
            help="the experiment's TOML (default: %(default)s)",
        )
        command.add_argument("--json", action="store_true", help="print one JSON document")
        command.set_defaults(run=run, show=show)
        if name == "data":
            command.add_argument("--refresh", action="store_true", help="read everything again")
        else:
            command.add_argument(
                "--resume", action="store_true", help="go on with the run that was interrupted"
            )
    return top


def main() -> int:
    """Run a command; 0 if it succeeded, 1 if not, 2 if it was asked wrongly, 130 if interrupted."""
    arguments = parser().parse_args()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # MLflow prints there, and a result may be piped
            result = arguments.run(arguments)
    except TwinspireError as error:
        PROGRESS.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt as error:
        PROGRESS.print(str(error) or "interrupted", highlight=False, soft_wrap=True)
        return 130
    if arguments.json:
        json.dump(result, sys.stdout)
        print()
    else:
        arguments.show(result, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
