"""`python -m serving serve | search | encode | info | demo | loadtest`; each has --help."""

import json
import logging
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from protos.errors import TwinspireError
from serving import commands, loadtest, tables
from serving.bundles import BUNDLES
from serving.commands import Misuse, Result
from serving.limits import Limits

ADDRESS = "127.0.0.1:50051"


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

    def show(result: Result) -> None:
        document, as_table = result
        if parsed.json:
            print(json.dumps(document, ensure_ascii=False), flush=True)
        else:
            as_table(tables.console())

    try:
        if parsed.command == "serve":
            commands.serve(parsed, show)
        else:
            show(parsed.run(parsed))
    except Misuse as error:
        parser.error(str(error))
    except TwinspireError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m serving", description="Serve a bundle and ask it.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, run: Callable[[Namespace], Result] | None) -> ArgumentParser:
        each = subparsers.add_parser(name, help=text, description=text)
        each.add_argument("--json", action="store_true", help="print one JSON document")
        each.set_defaults(run=run)
        return each

    _add_serve(add("serve", "Answer over gRPC until SIGTERM or Ctrl-C.", None))
    _add_search(add("search", "Ask a server for the items nearest to a query.", commands.search))
    encode = add("encode", "Ask a server for the vectors of queries.", commands.encode)
    encode.add_argument("texts", nargs="*", metavar="TEXT", help="a text; each is a query of its own")
    _add_features(encode)
    _add_server(encode)
    _add_server(add("info", "Ask a server what it serves.", commands.info))
    demo = add("demo", "Serve, ask the bundle's first examples, sum up, and stop.", commands.show_all)
    _add_source(demo)
    _add_load(add("loadtest", "Send load to a server on this machine.", commands.load))
    return parser


def _add_server(parser: ArgumentParser) -> None:
    parser.add_argument("--address", default=ADDRESS, help="of the server (%(default)s)")
    parser.add_argument(
        "--timeout", type=_seconds, default=5.0, help="seconds to wait for an answer (%(default)s)"
    )


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
        "--port", type=_port, default=50051, help="to listen on, 0 for any free one (%(default)s)"
    )
    parser.add_argument("--port-file", type=Path, help="write the port here once requests are answered")
    parser.add_argument(
        "--handlers", type=_count, default=16, help="requests worked on at once (%(default)s)"
    )
    parser.add_argument("--streams", type=_count, default=4, help="of them, streams (%(default)s)")
    parser.add_argument(
        "--threads", type=_count, default=1, help="of the query tower in one call (%(default)s)"
    )
    parser.add_argument(
        "--grace", type=_seconds, default=10.0, help="seconds to finish requests in (%(default)s)"
    )
    limits = parser.add_argument_group("bounds of a request")
    for field in fields(Limits):
        flag = f"--{field.name.replace('_', '-')}"
        text = f"{field.metadata['help']} (%(default)s)"
        limits.add_argument(flag, type=_count, default=field.default, help=text)


def _add_search(parser: ArgumentParser) -> None:
    parser.add_argument("text", nargs="?", metavar="QUERY", help="a text")
    parser.add_argument("--k", type=_k, default=0, help="how many items; 0 for the server's default")
    parser.add_argument("--item-id", help="more like this item")
    _add_features(parser)
    parser.add_argument(
        "--exclude",
        nargs="+",
        action="extend",
        default=[],
        metavar="ITEM",
        help="items to leave out of the answer",
    )
    parser.add_argument(
        "--exclude-history", action="store_true", help="leave the items of the history out too"
    )
    _add_server(parser)


def _add_features(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--history",
        nargs="+",
        action="extend",
        default=[],
        metavar="ITEM",
        help="item ids, oldest first; may be given again for later ones",
    )
    parser.add_argument(
        "--feature",
        action="append",
        type=_pair,
        default=[],
        metavar="NAME=VALUE",
        help="another feature of the query; again for each of several values",
    )


def _add_load(parser: ArgumentParser) -> None:
    parser.add_argument("--address", default=ADDRESS, help="of a server here (%(default)s)")
    parser.add_argument(
        "--clients",
        type=_bounded_count(loadtest.MAX_CLIENTS),
        default=4,
        help="that ask at the same time (%(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=_bounded_seconds(loadtest.MAX_SECONDS),
        default=10.0,
        help="to measure for (%(default)s)",
    )
    parser.add_argument("--queries", type=Path, help="a file with a query on each line")
    parser.add_argument("--k", type=_k, default=0, help="how many items; 0 for the server's default")
    parser.add_argument("--seed", type=int, default=0, help="of the order of queries (%(default)s)")


def _bounded_count(most: int, least: int = 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise ArgumentTypeError(f"expected a whole number from {least} to {most}, got {text!r}")
        return int(text)

    return parse


def _bounded_seconds(most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds <= most:
            raise ArgumentTypeError(f"expected seconds, above 0 and at most {most:g}, got {text!r}")
        return seconds

    return parse


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


_k = _bounded_count(2**31 - 1, least=0)
_count = _bounded_count(2**31 - 1)
_port = _bounded_count(65_535, least=0)
_seconds = _bounded_seconds(3600.0)


if __name__ == "__main__":
    sys.exit(main())
