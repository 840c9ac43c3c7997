"""python -m export bundle | encode | bench | scale | evaluate | register | promote | refresh | ...

Builds the bundle of a training run, measures it, and releases it through the model registry.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from export import commands as stages
from export import terminal
from export.benchmark import command as bench_command
from export.benchmark import report as bench_report
from export.benchmark.scale.command import add_scale
from export.encoding import command as encode_command
from export.refresh import command as refresh_command
from export.release.audit_log import REASON_LENGTH
from protos.cli import Result, command_line, document_command
from train.cli import add_experiment_command, execute

COMMANDS = {
    "bundle": (stages.make_bundle, terminal.show_bundle),
    "encode": (encode_command.encode, encode_command.show_encoded),
    "bench": (bench_command.bench, bench_report.show),
    "evaluate": (stages.evaluate, terminal.show_quality),
    "register": (stages.register, terminal.show_registered),
    "promote": (stages.promote, terminal.show_move),
    "refresh": (refresh_command.refresh, refresh_command.show_refreshed),
    "catalogue": (refresh_command.catalogue, refresh_command.show_table),
    "rollback": (stages.rollback, terminal.show_move),
    "history": (stages.history, terminal.show_history),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = command_line("python -m export", __doc__)
    commands = top.add_subparsers(required=True, metavar=" | ".join([*COMMANDS, "scale"]))
    for name, (run, show) in COMMANDS.items():
        command = add_experiment_command(commands, name, run, show)
        if name == "bundle":
            command.add_argument(
                "-v", "--verbose", action="store_true", help="tell all variants of the towers, and why"
            )
            command.set_defaults(run_command=_make_bundle)
            command.add_argument(
                "--run", default="", help="id of the MLflow run to export (default: the newest)"
            )
        if name in ("bench", "encode", "evaluate", "register"):
            command.add_argument("--bundle", type=Path, help="folder of the bundle (default: the newest)")
        if name == "bench":
            bench_command.add_options(command)
        if name == "encode":
            command.add_argument(
                "--items", type=Path, required=True, help="table of items: Parquet, CSV, TSV or JSONL"
            )
            command.add_argument(
                "--output", type=encode_command.npy_path, required=True, help="the .npy file to write"
            )
        if name == "promote":
            command.add_argument(
                "--force", action="store_true", help="promote even if gates fail; requires --reason"
            )
        if name == "refresh":
            refresh_command.add_options(command)
        if name == "catalogue":
            refresh_command.add_table_options(command)
        if name == "rollback":
            command.add_argument(
                "--to", default="", help="version to make champion (default: the previous champion)"
            )
        if name in ("promote", "rollback"):
            command.add_argument("--reason", type=_reason, default="", help="reason, for the audit log")
    add_scale(commands)
    return top


def _make_bundle(arguments: argparse.Namespace) -> Result | None:
    show = partial(terminal.show_bundle, verbose=arguments.verbose)
    return document_command(stages.make_bundle, show)(arguments)


def _reason(text: str) -> str:
    """A reason that fits into the registry and into a table.

    Raises:
        ArgumentTypeError: it is too long, or has characters that cannot be printed.
    """
    words = " ".join(text.split())
    if len(words) > REASON_LENGTH or not words.isprintable():
        raise argparse.ArgumentTypeError(f"expected up to {REASON_LENGTH} printable characters")
    return words


def main() -> int:
    """Run a command and return its exit code."""
    top = parser()
    arguments = top.parse_args()
    if getattr(arguments, "force", False) and not arguments.reason:
        top.error("promote --force: say why with --reason")
    return execute(top)


if __name__ == "__main__":
    sys.exit(main())
