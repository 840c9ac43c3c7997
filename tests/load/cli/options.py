"""The options of the commands of `python -m tests.load`.

They are in a module of their own, so that parsing a command line does not import the tests.
"""

from argparse import ArgumentParser, ArgumentTypeError
from functools import partial
from pathlib import Path
from typing import TypeVar

from tests.load.plan import PARTS
from twinspire.protos.bundle import MILVUS, REMOTE_KINDS
from twinspire.serving import flag_types as flags
from twinspire.serving.rollout.bundle_cache import BUNDLES

MAX_CLIENTS = 256
MAX_SECONDS = 300.0
MAX_SWAP_SECONDS = 3600.0
MAX_ROUNDS = 50
MAX_SWAPS = 1000
MAX_QUERIES = 1000
LIVE_PARTS = ("history", "swap", "load")
LOOP_PARTS = ("rounds", "interleaving", "intervals", "events", "log")
BUNDLE_HELP = f"a bundle, or a folder whose newest bundle is tested ({BUNDLES})"

Name = TypeVar("Name", bound=str)


def add_load_arguments(parser: ArgumentParser) -> None:
    """Add the options of the load test."""
    add_rounds_arguments(parser)
    add = parser.add_argument
    add(
        "--overload-seconds",
        type=flags.bounded_seconds(MAX_SECONDS),
        default=30.0,
        metavar="SECONDS",
        help="of ten times the capacity (%(default)g)",
    )
    _add_only(parser, PARTS)


def add_swap_arguments(parser: ArgumentParser) -> None:
    """Add the options of the swap test."""
    clients, swaps = flags.bounded_count(MAX_CLIENTS), flags.bounded_count(MAX_SWAPS)
    add = parser.add_argument
    _add_pair(parser)
    add("--clients", type=clients, default=64, help="number of clients (%(default)s)")
    add(
        "--seconds",
        type=flags.bounded_seconds(MAX_SWAP_SECONDS),
        default=60.0,
        help="of load; longer where the swaps take longer (%(default)g)",
    )
    add("--swaps", type=swaps, default=10, help="in that time, to and fro (%(default)s)")
    add("--workers", type=flags.count, help="of the service (one a core)")


def add_filter_arguments(parser: ArgumentParser) -> None:
    """Add the options of the filter test."""
    add = parser.add_argument
    _add_bundle(parser)
    _add_k(parser)
    count = flags.bounded_count(MAX_QUERIES)
    add("--queries", type=count, default=200, help="of each bucket at most (%(default)s)")
    add("--seed", type=int, default=0, help="of all random choices (%(default)s)")


def add_live_arguments(parser: ArgumentParser) -> None:
    """Add the options of the live test."""
    add = parser.add_argument
    _add_pair(parser)
    _add_only(parser, LIVE_PARTS)
    seed = "of texts, queries and choices (%(default)s); threads and processes still run in any order"
    _add_seed(parser, seed)
    add = parser.add_argument_group("history").add_argument
    add("--operations", type=flags.count, default=100_000, help="writes and searches (%(default)s)")
    add("--kills", type=flags.count, default=20, help="of processes, with SIGKILL (%(default)s)")
    add(
        "--services",
        type=flags.count,
        default=1,
        help="with one catalogue; several need --catalogue with PostgreSQL (%(default)s)",
    )
    add(
        "--config",
        type=Path,
        metavar="TOML",
        help="experiment of the bundles, whose champion is refreshed in between (default: no refresh)",
    )
    add("--catalogue", metavar="URL", help="an empty store (default: SQLite in a temporary folder)")
    add = parser.add_argument_group("load").add_argument
    add("--rounds", type=flags.bounded_count(MAX_ROUNDS), default=7, help="repetitions (%(default)s)")
    add(
        "--seconds",
        type=flags.bounded_seconds(MAX_SECONDS),
        default=2.0,
        help="of each measurement in a round (%(default)g)",
    )


def add_remote_arguments(parser: ArgumentParser) -> None:
    """Add the options of the test of a vector database."""
    add = parser.add_argument
    kinds = sorted(REMOTE_KINDS)
    add("--engine", choices=kinds, default=MILVUS, help=f"{' or '.join(kinds)} (%(default)s)")
    add("--items", type=flags.count, default=1_000_000, help="of the larger catalogue (%(default)s)")
    add("--small", type=flags.count, default=100_000, help="items of the smaller one (%(default)s)")
    add("--clients", type=flags.bounded_count(MAX_CLIENTS), default=4, help="number of clients (%(default)s)")
    seconds = flags.bounded_seconds(MAX_SWAP_SECONDS)
    add("--seconds", type=seconds, default=60.0, help="of load, with one swap (%(default)g)")


def add_loop_arguments(parser: ArgumentParser) -> None:
    """Add the options of the loop test."""
    add = parser.add_argument
    count = flags.bounded_count(MAX_ROUNDS)
    add("--rounds", type=count, default=10, help="of visits and retraining (%(default)s)")
    add("--visits", type=count, default=3, help="searches of each viewer in a round (%(default)s)")
    add(
        "--bad",
        type=flags.count_or_none,
        default=10,
        help="challengers that are worse by design (%(default)s)",
    )
    add("--kills", type=flags.count_or_none, default=20, help="of processes that store events (%(default)s)")
    _add_only(parser, LOOP_PARTS)
    _add_seed(parser)


def add_rounds_arguments(parser: ArgumentParser) -> None:
    """Add the options of a test in rounds of one bundle."""
    _add_bundle(parser)
    add = parser.add_argument
    add("--rounds", type=flags.bounded_count(MAX_ROUNDS), default=5, help="repetitions (%(default)s)")
    seconds = flags.bounded_seconds(MAX_SECONDS)
    add("--seconds", type=seconds, default=2.0, help="of each measurement (%(default)g)")
    _add_k(parser)
    _add_seed(parser)


def _add_bundle(parser: ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, help=BUNDLE_HELP)


def _add_pair(parser: ArgumentParser) -> None:
    """Add the options that name two bundles."""
    _add_bundle(parser)
    parser.add_argument(
        "--other", type=Path, help="another bundle (default: the newest of the same model beside the first)"
    )


def _add_k(parser: ArgumentParser) -> None:
    parser.add_argument("--k", type=flags.count, default=10, help="items in an answer (%(default)s)")


def _add_seed(parser: ArgumentParser, help_text: str = "of all random choices (%(default)s)") -> None:
    parser.add_argument("--seed", type=flags.count_or_none, default=0, help=help_text)


def _add_only(parser: ArgumentParser, parts: tuple[Name, ...]) -> None:
    """Add the option that names parts of a test."""
    text, chosen = f"some of {','.join(parts)} (all)", partial(_chosen, parts)
    parser.add_argument("--only", type=chosen, default=parts, metavar="PARTS", help=text)


def _chosen(parts: tuple[Name, ...], text: str) -> tuple[Name, ...]:
    """The parts of a test that a text names, in their order."""
    names = text.split(",")
    if unknown := [name for name in names if name not in parts]:
        raise ArgumentTypeError(f"expected some of {', '.join(parts)}, got {unknown[0]!r}")
    return tuple(part for part in parts if part in names)
