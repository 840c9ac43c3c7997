"""python -m export bundle | bench | evaluate | register | promote | rollback: from a run to a champion."""

import argparse
import contextlib
import json
import sys
from pathlib import Path

from rich.console import Console

from export import stages, tables
from protos.errors import ConfigError, TwinspireError
from train.places import CONFIGS

COMMANDS = {
    "bundle": (stages.make_bundle, tables.show_bundle),
    "bench": (stages.bench, tables.show_latency),
    "evaluate": (stages.evaluate, tables.show_quality),
    "register": (stages.register, tables.show_registered),
    "promote": (stages.promote, tables.show_move),
    "rollback": (stages.rollback, tables.show_move),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser("python -m export", description=__doc__)
    commands = top.add_subparsers(required=True, metavar=" | ".join(COMMANDS))
    for name, (run, show) in COMMANDS.items():
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        command.add_argument(
            "--config",
            type=Path,
            default=CONFIGS / "pydocs.toml",
            help="the experiment's TOML (default: %(default)s)",
        )
        command.add_argument("--json", action="store_true", help="print one JSON document")
        if name == "bundle":
            command.add_argument(
                "--run", default="", help="id of the MLflow run to export (default: the newest)"
            )
        if name in ("bench", "evaluate", "register"):
            command.add_argument("--bundle", type=Path, help="folder of the bundle (default: the newest)")
        command.set_defaults(run_command=run, show=show)
    return top


def main() -> int:
    """Run a command; 0 if it succeeded, 1 if not, 2 if it was asked wrongly."""
    arguments = parser().parse_args()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # MLflow prints there, and a result may be piped
            result = arguments.run_command(arguments)
    except TwinspireError as error:
        stages.PROGRESS.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    if arguments.json:
        json.dump(result, sys.stdout)
        print()
    else:
        arguments.show(result, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
