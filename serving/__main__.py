"""`python -m serving serve | search | encode | info | status | batch | token | demo | loadtest | swaptest`.

Each has --help.
"""

import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable

from serving import arguments, commands
from serving.client.arguments import add_commands
from serving.command import Result, add_command, execute, show
from serving.load.arguments import add_arguments as add_load
from serving.load.arguments import add_swap_arguments
from serving.tokens import Role


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or 1 where it failed, or 2 where it was misused.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    parser = _parser()
    parsed = parser.parse_args(argv)

    def run() -> None:
        if parsed.command == "serve":
            commands.serve(parsed, lambda result: show(result, parsed.json))
        else:
            show(parsed.run(parsed), parsed.json)

    return execute(parser, run)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m serving", description="Serve a bundle and ask it.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, run: Callable[[Namespace], Result] | None) -> ArgumentParser:
        return add_command(subparsers, name, text, run)

    arguments.add_serve(add("serve", "Answer over gRPC until SIGTERM or Ctrl-C.", None))
    add_commands(subparsers)
    demo = add("demo", "Serve, ask the bundle's first examples, sum up, and stop.", commands.show_all)
    arguments.add_source(demo)
    token = add(
        "token", "Make a bearer token, and the entry of the token file that knows it.", commands.token
    )
    token.add_argument("--name", required=True, help="of whoever will use it, for logs and rate limits")
    roles = [role.name.lower() for role in Role if role is not Role.ANYONE]
    token.add_argument("--role", choices=roles, default="reader", help="what it may do (%(default)s)")
    add_load(add("loadtest", "Measure a bundle's service under load.", commands.load))
    add_swap_arguments(
        add("swaptest", "Swap two bundles under load, and look at every answer.", commands.swap_test)
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
