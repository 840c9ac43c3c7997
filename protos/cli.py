"""Runs one command of a command line: its result goes to stdout, everything else to stderr.

    parser = ArgumentParser(prog="python -m serving.client")
    commands = parser.add_subparsers(required=True)
    add_command(commands, "info", "Ask a server what it serves.", info)
    sys.exit(execute(parser, console=Console))

A command returns a document, which `--json` prints, and a function that shows it to a person on a rich
console. The entry point supplies the console, because this package does not depend on rich.
"""

import contextlib
import errno
import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from protos import __version__
from protos.errors import TwinspireError

Console = Any  # a rich.console.Console
Document = dict[str, Any]
Result = tuple[Document, Callable[[Console], None]]
Command = Callable[[Namespace], Result | None]

FAILED, MISUSED, INTERRUPTED = 1, 2, 130  # exit codes; argparse exits with 2, and shells with 128 + SIGINT
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # on the disk, in the quota, within `ulimit -f`
SQLITE_NO_SPACE = ("database or disk is full", "disk I/O error")  # SQLAlchemy passes on the text of SQLite


class UsageError(Exception):
    """The arguments contradict each other; the process exits as it does for an unknown argument."""


def command_line(program: str, description: str | None) -> ArgumentParser:
    """The parser of a program, without commands; it knows `--version`."""
    parser = ArgumentParser(program, description=description)
    parser.add_argument("--version", action="version", version=f"Twinspire {__version__}")
    return parser


def add_command(commands: Any, name: str, description: str | None, run: Command) -> ArgumentParser:
    """Add a subcommand with the option `--json`; its options cannot be abbreviated.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned.
        run: returns the result, or None if it has already printed it.
    """
    command: ArgumentParser = commands.add_parser(
        name, help=description, description=description, allow_abbrev=False
    )
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(run_command=run)  # `run` is also an option of some commands
    return command


def document_command(
    run: Callable[[Namespace], Document], show: Callable[[Document, Console], None]
) -> Command:
    """A command from a function that returns the document and a function that shows it.

    While `run` runs, stdout is redirected to stderr: MLflow prints there, and the result may be piped.
    """

    def command(arguments: Namespace) -> Result:
        with contextlib.redirect_stdout(sys.stderr):
            document = run(arguments)
        return document, lambda console: show(document, console)

    return command


def print_result(result: Result, as_json: bool, console: Callable[[], Console]) -> None:
    """Write a result to stdout, as one line of JSON or as a person reads it.

    Args:
        console: makes the console on stdout.
    """
    document, show = result
    if as_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    else:
        show(console())


def execute(
    parser: ArgumentParser,
    arguments: Sequence[str] | None = None,
    *,
    console: Callable[[], Console],
    folder: Path | None = None,
    usage_errors: tuple[type[TwinspireError], ...] = (),
) -> int:
    """Parse the arguments, run the command and print its result.

    Args:
        arguments: of the command line; `sys.argv[1:]` if None.
        console: makes the console on stdout.
        folder: the folder that commands write to, for errors that do not name a file.
        usage_errors: errors for which the exit code is 2, as for wrong arguments.

    Returns:
        The exit code: 0 after success, 1 after a failure, 2 after a usage error, 130 after an interrupt.
        Wrong arguments end the process with 2.
    """
    parsed = parser.parse_args(arguments)
    try:
        result = parsed.run_command(parsed)
    except UsageError as error:
        parser.error(str(error))
    except TwinspireError as error:
        _print_error(str(error))
        return MISUSED if isinstance(error, usage_errors) else FAILED
    except KeyboardInterrupt as error:
        sys.stderr.write(f"{str(error) or 'interrupted'}\n")
        return INTERRUPTED
    except Exception as error:
        reason = _no_space(error, folder)
        if reason is None:
            raise
        _print_error(
            f"{reason}; nothing half-written is used: free some space and run the same command again"
        )
        return FAILED
    if result is not None:
        print_result(result, parsed.json, console)
    return 0


def _print_error(text: str) -> None:
    red = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    line = f"error: {text}"
    sys.stderr.write(f"\x1b[31m{line}\x1b[0m\n" if red else f"{line}\n")


def _no_space(error: BaseException, folder: Path | None) -> str | None:
    """Which file could not be written because the disk is full; None if the error has another cause."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in NO_SPACE:
            file = seen.filename or (f"a file below {folder}" if folder else "a file")
            return f"{file}: cannot be written: {seen.strerror}"
        for text in SQLITE_NO_SPACE:
            if text in str(seen):
                return f"the database of MLflow cannot be written: {text}"
        seen = seen.__cause__ or seen.__context__
    return None
