"""The arguments of the commands that ask a server, for `python -m serving` and `python -m serving.client`."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from serving import flags
from serving.client import commands
from serving.client.channel import TIMEOUT_SECONDS
from serving.command import add_command

ADDRESS = "127.0.0.1:50051"


def add_commands(subparsers: Any) -> None:
    """`search`, `encode`, `info`, `status` and `batch`."""
    search = add_command(
        subparsers, "search", "Ask a server for the items nearest to a query.", commands.search
    )
    search.add_argument("text", nargs="?", metavar="QUERY", help="a text")
    search.add_argument("--item-id", help="more like this item")
    _add_features(search)
    _add_hits(search)
    encode = add_command(subparsers, "encode", "Ask a server for the vectors of queries.", commands.encode)
    encode.add_argument("texts", nargs="*", metavar="TEXT", help="a text; each is a query of its own")
    _add_features(encode)
    info = add_command(subparsers, "info", "Ask a server what it serves.", commands.info)
    status = add_command(
        subparsers, "status", "Ask a server which bundles answer, and how it follows them.", commands.status
    )
    for each in (search, encode, info, status):
        each.add_argument(
            "--timeout",
            type=flags.seconds,
            default=TIMEOUT_SECONDS,
            metavar="SECONDS",
            help="to wait for an answer (%(default)s)",
        )
    batch = add_command(
        subparsers, "batch", "Ask a server each query of a file, over one stream.", commands.batch
    )
    _add_batch(batch)
    for each in (search, encode, info, status, batch):
        add_server(each)


def add_server(parser: ArgumentParser) -> None:
    """Where the server is, and what protects the connection to it; `commands.connect` reads them."""
    parser.add_argument("--address", default=ADDRESS, help="of the server (%(default)s)")
    security = parser.add_argument_group(
        "security", "The token may also come from the environment, as TWINSPIRE_TOKEN."
    )
    security.add_argument("--tls", action="store_true", help="encrypt; --ca and --certificate imply it")
    security.add_argument(
        "--ca", type=Path, metavar="PEM", help="authorities that may vouch for the server (gRPC's own list)"
    )
    security.add_argument("--certificate", type=Path, metavar="PEM", help="of this client, for mutual TLS")
    security.add_argument("--key", type=Path, metavar="PEM", help="of that certificate")
    security.add_argument(
        "--server-name", metavar="NAME", help="in the server's certificate (the host of --address)"
    )
    security.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token to send")


def _add_hits(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--k", type=flags.count_or_none, default=0, help="how many items; 0 for the server's default"
    )
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
        type=flags.pair,
        default=[],
        metavar="NAME=VALUE",
        help="another feature of the query; again for each of several values",
    )


def _add_batch(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="of queries, one on each line")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="file of answers, one JSON document on each line; it appears when it is whole",
    )
    parser.add_argument(
        "--format",
        choices=("text", "jsonl"),
        help="of FILE: texts, or JSON objects with any of text, history, features and item_id "
        "(jsonl where the name ends in .jsonl or .ndjson, otherwise text)",
    )
    _add_hits(parser)
    parser.add_argument(
        "--timeout",
        type=flags.bounded_seconds(86_400.0),
        metavar="SECONDS",
        help="that the whole file may take (no bound)",
    )
