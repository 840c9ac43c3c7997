"""python -m export bundle | encode | bench | scale | evaluate | register | promote | rollback | history

From a run to a bundle, and from a bundle to the champion.
"""

import argparse
import sys
from pathlib import Path

from export import encode_command, stages, tables
from export.bench import command as bench_command
from export.bench import tables as bench_tables
from export.scale.command import add_scale
from export.trail import REASON_LENGTH
from train.command import add_command, execute

COMMANDS = {
    "bundle": (stages.make_bundle, tables.show_bundle),
    "encode": (encode_command.encode, encode_command.show_encoded),
    "bench": (bench_command.bench, bench_tables.show),
    "evaluate": (stages.evaluate, tables.show_quality),
    "register": (stages.register, tables.show_registered),
    "promote": (stages.promote, tables.show_move),
    "rollback": (stages.rollback, tables.show_move),
    "history": (stages.history, tables.show_history),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser("python -m export", description=__doc__)
    commands = top.add_subparsers(required=True, metavar=" | ".join([*COMMANDS, "scale"]))
    for name, (run, show) in COMMANDS.items():
        command = add_command(commands, name, run, show)
        if name == "bundle":
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
                "--force", action="store_true", help="even if gates do not hold; takes --reason"
            )
        if name == "rollback":
            command.add_argument(
                "--to", default="", help="version to make champion (default: the champion before)"
            )
        if name in ("promote", "rollback"):
            command.add_argument("--reason", type=_reason, default="", help="why, for the record")
    add_scale(commands)
    return top


def _reason(text: str) -> str:
    """Words that a registry can hold and a table can show.

    Raises:
        ArgumentTypeError: there are too many, or characters that are not text.
    """
    words = " ".join(text.split())
    if len(words) > REASON_LENGTH or not words.isprintable():
        raise argparse.ArgumentTypeError(f"expected up to {REASON_LENGTH} printable characters")
    return words


def main() -> int:
    """Run a command and return its exit code."""
    top = parser()
    asked = top.parse_args()
    if getattr(asked, "force", False) and not asked.reason:
        top.error("promote --force: say why with --reason")
    return execute(top)


if __name__ == "__main__":
    sys.exit(main())
