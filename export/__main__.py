"""python -m export bundle | bench | evaluate | register | promote | rollback: from a run to a champion."""

import argparse
import sys
from pathlib import Path

from export import stages, tables
from train.command import add_command, execute

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
        command = add_command(commands, name, run, show)
        if name == "bundle":
            command.add_argument(
                "--run", default="", help="id of the MLflow run to export (default: the newest)"
            )
        if name in ("bench", "evaluate", "register"):
            command.add_argument("--bundle", type=Path, help="folder of the bundle (default: the newest)")
    return top


def main() -> int:
    """Run a command and return its exit code."""
    return execute(parser())


if __name__ == "__main__":
    sys.exit(main())
