"""`python -m twinspire.serving.client search | info | status | batch | items | events`; each has --help."""

import logging
import sys

from twinspire.protos.cli import command_line, execute
from twinspire.serving.cli import tables
from twinspire.serving.cli.client_commands import add_commands


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 on success, 1 on failure, 2 on wrong arguments.
    """
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    parser = command_line("python -m twinspire.serving.client", "Query a server.")
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    return execute(parser, arguments, console=tables.console)


if __name__ == "__main__":
    sys.exit(main())
