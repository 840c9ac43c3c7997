"""How a command of `python -m serving` or `python -m serving.client` runs: one result, and an exit code.

A command returns what `--json` prints and what a person sees otherwise: a document and a function
that shows it.
"""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

from rich.console import Console

from protos.errors import TwinspireError
from serving import tables

Result = tuple[dict[str, Any], Callable[[Console], None]]


class Misuse(Exception):
    """The arguments make no sense together."""


def add_command(
    commands: Any, name: str, text: str, run: Callable[[Namespace], Result] | None
) -> ArgumentParser:
    """A subcommand, with the option that all have; options are not to be abbreviated."""
    command: ArgumentParser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(run=run)
    return command


def show(result: Result, as_json: bool) -> None:
    """Put a result on stdout, as one JSON document or as a table."""
    document, as_table = result
    if as_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    else:
        as_table(tables.console())


def execute(parser: ArgumentParser, run: Callable[[], None]) -> int:
    """Run a command whose arguments are read.

    Returns:
        0, or 1 where it failed; misuse ends the process with 2, as a wrong argument does.
    """
    try:
        run()
    except Misuse as error:
        parser.error(str(error))
    except TwinspireError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 1
    return 0
