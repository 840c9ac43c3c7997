"""`python -m serving.client search | encode | info | status | batch`; each has --help."""

import logging
import sys
from argparse import ArgumentParser

from serving.client.arguments import add_commands
from serving.command import execute, show


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or 1 where it failed, or 2 where it was misused.
    """
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    parser = ArgumentParser(prog="python -m serving.client", description="Ask a server.")
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    parsed = parser.parse_args(arguments)
    return execute(parser, lambda: show(parsed.run(parsed), parsed.json))


if __name__ == "__main__":
    sys.exit(main())
