"""`python -m serving serve | search | encode | info | batch | demo | loadtest`; each has --help."""

import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from serving import commands, flags, loadtest
from serving.bundles import BUNDLES
from serving.client.arguments import ADDRESS, add_commands
from serving.command import Result, add_command, execute, show
from serving.limits import Limits


def main(arguments: list[str] | None = None) -> int:
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
    parsed = parser.parse_args(arguments)

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

    _add_serve(add("serve", "Answer over gRPC until SIGTERM or Ctrl-C.", None))
    add_commands(subparsers)
    demo = add("demo", "Serve, ask the bundle's first examples, sum up, and stop.", commands.show_all)
    _add_source(demo)
    _add_load(add("loadtest", "Send load to a server on this machine.", commands.load))
    return parser


def _add_source(parser: ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--bundle",
        type=Path,
        default=BUNDLES,
        help="a bundle, or a folder whose newest bundle is served (%(default)s)",
    )
    source.add_argument("--model", help="a registered model, such as models:/pydocs@champion")


def _add_serve(parser: ArgumentParser) -> None:
    _add_source(parser)
    parser.add_argument("--host", default="127.0.0.1", help="to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=flags.port, default=50051, help="to listen on, 0 for any free one (%(default)s)"
    )
    parser.add_argument("--port-file", type=Path, help="write the port here once requests are answered")
    parser.add_argument(
        "--handlers", type=flags.count, default=16, help="requests worked on at once (%(default)s)"
    )
    parser.add_argument("--streams", type=flags.count, default=4, help="of them, streams (%(default)s)")
    parser.add_argument(
        "--threads", type=flags.count, default=1, help="of the query tower in one call (%(default)s)"
    )
    parser.add_argument(
        "--grace", type=flags.seconds, default=10.0, help="seconds to finish requests in (%(default)s)"
    )
    limits = parser.add_argument_group("bounds of a request")
    for field in fields(Limits):
        flag = f"--{field.name.replace('_', '-')}"
        text = f"{field.metadata['help']} (%(default)s)"
        limits.add_argument(flag, type=flags.count, default=field.default, help=text)


def _add_load(parser: ArgumentParser) -> None:
    parser.add_argument("--address", default=ADDRESS, help="of a server here (%(default)s)")
    parser.add_argument(
        "--clients",
        type=flags.bounded_count(loadtest.MAX_CLIENTS),
        default=4,
        help="that ask at the same time (%(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=flags.bounded_seconds(loadtest.MAX_SECONDS),
        default=10.0,
        help="to measure for (%(default)s)",
    )
    parser.add_argument("--queries", type=Path, help="a file with a query on each line")
    parser.add_argument(
        "--k", type=flags.count_or_none, default=0, help="how many items; 0 for the server's default"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order of queries (%(default)s)")


if __name__ == "__main__":
    sys.exit(main())
