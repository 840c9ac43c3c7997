"""How a command of `python -m train` or `python -m export` runs: one result, on stdout, and an exit code."""

import argparse
import contextlib
import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from protos.errors import ConfigError, TwinspireError
from train.places import CACHE, CONFIGS

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # on the disk, in the quota, within `ulimit -f`
SQLITE_NO_ROOM = ("database or disk is full", "disk I/O error")  # SQLAlchemy passes SQLite's text on

PROGRESS = Console(stderr=True)

Run = Callable[[argparse.Namespace], dict[str, Any]]
Show = Callable[[dict[str, Any], Console], None]


def add_command(commands: Any, name: str, run: Run, show: Show) -> argparse.ArgumentParser:
    """A subcommand with the options that all have; the docstring of `run` is its help."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
    command.add_argument(
        "--config",
        type=Path,
        default=CONFIGS / "pydocs.toml",
        help="the experiment's TOML (default: %(default)s)",
    )
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(run_command=run, show=show)
    return command


def execute(parser: argparse.ArgumentParser) -> int:
    """Run a command; 0 if it succeeded, 1 if not, 2 if it was asked wrongly, 130 if interrupted."""
    arguments = parser.parse_args()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # MLflow prints there, and a result may be piped
            result = arguments.run_command(arguments)
    except TwinspireError as error:
        PROGRESS.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2 if isinstance(error, ConfigError) else 1
    except Exception as error:
        reason = _without_room(error)
        if reason is None:
            raise
        told = f"error: {reason}; nothing half-written is used: make room and run the same command again"
        PROGRESS.print(told, style="red", highlight=False, markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt as error:
        PROGRESS.print(str(error) or "interrupted", highlight=False, soft_wrap=True)
        return 130
    if arguments.json:
        json.dump(result, sys.stdout)
        print()
    else:
        arguments.show(result, Console())
    return 0


def _without_room(error: BaseException) -> str | None:
    """Which file could not be written because the disk is full; None if an error has another cause."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in NO_ROOM:
            return f"{seen.filename or f'a file below {CACHE}'}: cannot be written: {seen.strerror}"
        for text in SQLITE_NO_ROOM:
            if text in str(seen):
                return f"the database of MLflow cannot be written: {text}"
        seen = seen.__cause__ or seen.__context__
    return None
